"""L-OBS: Optimal Brain Surgeon on each layer's own output error: one small inverse Hessian a layer (dong2017learning, authors' code).

Idea: the second derivatives of the loss with respect to all weights are out of reach. Those of a layer's squared output error are not:
they are the mean product of its inputs with themselves, the same for every output. Inverting this one matrix ranks all weights of the
layer, and tells how the others of a row make up for each that goes. Layers are pruned independently of one another; a proof bounds what
the network loses by the layers' errors, so that little retraining is left to do.

Cost: columns^3 per layer for the inverse, and `columns` operations per removed weight; one pass over the calibration data.

Implementation details (of the authors' code)
1. All weights of a layer are ranked once, by w^2 / [H^-1]_qq of the given weights, not anew after each removal.
2. They go in this order. The move uses the weight as it is when its turn comes, and the inverse Hessian of the full row throughout. So a
   removed weight may leave zero again; what is removed is set to zero at the end.
3. A bias is one more weight, with a constant input of 1. The recursion for the inverse starts at 10^6 I, so that
   H^-1 = (mean x x^T + 10^-6 I)^-1.
4. 10^-5 is added to [H^-1]_qq wherever it divides.
5. All layers see the inputs that the given network produces.

Deviations: biases move but are not removed; the authors rank and remove them like weights. Shared weights are treated by the inputs of
their first layer.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.blocks import visit_inputs
from reference_impls.core.hessian import as_columns, as_matrix, as_weight
from reference_impls.core.masks import Masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches, HoldMasks, Train, evaluating

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # retraining moves the weights: not idempotent

SMALL = 1e-5  # added to the diagonal of H^-1 that divides


def inverse_hessians(model: nn.Module, batches: Batches, layers: list[nn.Module], alpha: float) -> dict[nn.Module, Tensor]:
    """H^-1 of each layer, for one row of its weight matrix and the bias, if there is one, behind it.

    Args:
        batches: targets are not used.
        alpha: what is added to the diagonal of the mean product of the inputs, > 0.

    Returns:
        layer -> (groups, columns, columns), in double precision.

    Raises:
        ValueError: no batch, a layer that is never called, or of another type than linear and convolution over one or two dimensions.
    """
    sums: dict[nn.Module, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def see(layer: nn.Module, inputs: Tensor) -> None:
        columns = as_columns(layer, inputs.double())
        if layer.bias is not None:
            columns = torch.cat([columns, columns.new_ones(*columns.shape[:2], 1)], 2)
        sums[layer] = sums.get(layer, 0) + columns.mT @ columns
        counts[layer] += columns.shape[1]

    calls = [((inputs,), {}) for inputs, _ in batches]
    if not calls:
        raise ValueError("batches: no calibration data, so the layers' inputs are unknown")
    with evaluating(model):
        visit_inputs(model, calls, layers, see)
    # H = 1/n sum x x^T
    return {layer: torch.linalg.inv(total / counts[layer] + alpha * torch.eye(total.shape[-1])) for layer, total in sums.items()}


def sensitivity(weight: Tensor, inverse: Tensor) -> Tensor:
    """What the removal of each weight alone costs the layer, the others making up for it; without the factor of one half.

    Args:
        weight: (rows, columns).
        inverse: (columns, columns).
    """
    # L_q = w_q^2 / [H^-1]_qq
    return weight.square() / (inverse.diagonal() + SMALL)


def surgery(weight: Tensor, inverse: Tensor, order: Tensor) -> Tensor:
    """The matrix after the removals in this order.

    Args:
        weight: (rows, columns), a bias among the columns.
        inverse: (columns, columns).
        order: (removals, 2), row and column of each.
    """
    weight = weight.clone()
    unit = inverse / (inverse.diagonal() + SMALL)[:, None]
    for row, q in order.tolist():
        # dw = - w_q / [H^-1]_qq H^-1 e_q
        weight[row] -= weight[row, q] * unit[q]
    weight[order[:, 0], order[:, 1]] = 0
    return weight


@torch.no_grad()
def operate(model: nn.Module, batches: Batches, amount: Amount, alpha: float) -> tuple[nn.Module, Masks]:
    """The pruned network before any retraining, and its masks. Arguments and errors as `prune`."""
    fraction, network = sparsity(amount), copy.deepcopy(model)
    layers = {name: network.get_submodule(name.rpartition(".")[0]) for name in prunable_weights(network)}
    inverses = inverse_hessians(network, batches, list(layers.values()), alpha)
    masks = {}
    for name, layer in layers.items():
        matrix, inverse = as_matrix(layer, layer.weight).double(), inverses[layer]
        groups, rows, columns = matrix.shape
        scores = torch.stack([sensitivity(part, own[:columns, :columns]) for part, own in zip(matrix, inverse, strict=True)])
        kept = keep_highest({"": scores}, fraction, "layer")[""]
        if layer.bias is not None:
            matrix = torch.cat([matrix, layer.bias.double().view(groups, rows, 1)], 2)
        for group in range(groups):
            removed = (~kept[group]).nonzero()
            order = removed[scores[group][~kept[group]].argsort(stable=True)]
            matrix[group] = surgery(matrix[group], inverse[group], order)
        layer.weight.copy_(as_weight(matrix[..., :columns], like=layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(matrix[..., columns].flatten())
        masks[name] = as_weight(kept, like=kept.new_empty(layer.weight.shape))
    return network, masks


def prune(
    model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None, alpha: float = 1e-6
) -> nn.Module:
    """A copy of the model, each layer pruned to the same sparsity, then retrained if `train` is given.

    Args:
        model: trained; used in evaluation mode.
        batches: calibration data; targets are not used.
        amount: the fraction of each layer's weights to prune.
        train: (model, callbacks) -> model.
        evaluate: not used.
        alpha: what is added to the diagonal of each layer's Hessian, > 0.

    Raises:
        ValueError: `amount` or `alpha` out of range, no calibration data, nothing to prune, or a layer that is never called.
    """
    if not alpha > 0:
        raise ValueError(f"alpha: {alpha} is not above 0")
    network, masks = operate(model, batches, amount, alpha)
    return network if train is None else train(network, [HoldMasks(masks)])
