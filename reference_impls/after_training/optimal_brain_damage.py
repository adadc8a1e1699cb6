"""Optimal Brain Damage: delete the weights whose loss would rise least, by a diagonal second-order estimate (lecun1989optimal).

Idea: at a minimum of the loss the gradient is zero, so what deleting a weight costs is decided by the curvature. The
Hessian's diagonal is cheap: it is carried back through the network as gradients are, with every derivative squared.

Cost: one forward and one backward pass over the batches per round (plus one pass through the loss per class), and one
training run per round.

Implementation details
1. The back-propagated second derivative is the Levenberg-Marquardt form, which the paper gives: the term with f'' is
   dropped, so no estimate is negative. With one hidden layer, f'' = 0 (ReLU) and outputs that the loss takes one by one,
   it is the exact diagonal; with more layers it leaves out what hidden units do together.
2. A weight used at several places (a convolution) has the sum of its places' second derivatives.
3. The network is evaluated with its layers replaced by functions whose derivative is the square: W becomes W^2, f'
   becomes f'^2, an average over k becomes 1/k^2. Ordinary back-propagation then carries second derivatives.
4. A deleted weight is set to zero and held there.

Deviations: any twice differentiable loss, where the paper has the squared error; biases, which the paper also counts,
are not pruned; the paper does not fix how many weights go per round, here each removes the same fraction of what is left.
"""

import copy
import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Scores, prunable_weights, prune_further
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, HoldMasks, Loss, Train, cross_entropy, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # the curvature moves as weights go: not idempotent

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardswish)
ELEMENTWISE += (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # in evaluation mode
ROUTES = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
)
AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def square_derivatives(layer: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
    """The layer's outputs, with a backward pass that carries second derivatives instead of first ones; a forward hook."""
    inputs = args[0]
    if isinstance(layer, ROUTES):
        return outputs
    if isinstance(layer, LINEAR):
        linear = nn.functional.linear if isinstance(layer, nn.Linear) else lambda x, w: layer._conv_forward(x, w, None)
        # h_ij = sum over examples of d2E/da_i2 * x_j^2, and d2E/dx_j2 = sum_i w_ij^2 d2E/da_i2
        carrier = linear(inputs.detach().square(), layer.weight) + linear(inputs, layer.weight.detach().square())
    elif isinstance(layer, ELEMENTWISE):
        with torch.enable_grad():
            a = inputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(layer.forward(a).sum(), a)
        # d2E/da_i2 = f'(a_i)^2 d2E/dx_i2
        carrier = slope.square() * inputs
    elif isinstance(layer, AVERAGES):
        # an average over k inputs: derivative 1/k, squared 1/k^2
        adaptive = isinstance(layer, nn.AdaptiveAvgPool2d)
        k = inputs[0, 0].numel() / outputs[0, 0].numel() if adaptive else math.prod(nn.modules.utils._pair(layer.kernel_size))
        carrier = layer.forward(inputs) / k
    else:
        raise ValueError(f"model: second derivatives cannot be carried back through {type(layer).__name__}")
    return outputs.detach() + carrier - carrier.detach()


def output_curvature(outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """d2E/dz2 of each output, shaped as the outputs (examples, ..., classes); each example's loss is its own."""
    z = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, targets), z, create_graph=True)
    each = [torch.autograd.grad(slope[..., c].sum(), z, retain_graph=True)[0][..., c] for c in range(z.shape[-1])]
    return torch.stack(each, -1)


@torch.enable_grad()
def second_derivatives(model: nn.Module, batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """h_kk: the second derivative of the mean loss over all examples with respect to each weight, >= 0 for a convex loss.

    Args:
        model: its layers must be modules of the kinds listed above; used in evaluation mode.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: no batch, or a layer through which second derivatives cannot be carried.
    """
    network = copy.deepcopy(model).eval()
    weights = prunable_weights(network)
    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(square_derivatives)
            if hasattr(layer, "inplace"):
                layer.inplace = False  # the squares need the layer's inputs
    total, examples = [torch.zeros_like(weight) for weight in weights.values()], 0
    for inputs, targets in batches:
        outputs = network(inputs)
        curvature = output_curvature(outputs, targets, loss) * len(inputs)
        found = torch.autograd.grad(outputs, list(weights.values()), curvature, allow_unused=True, materialize_grads=True)
        total, examples = [t + h for t, h in zip(total, found, strict=True)], examples + len(inputs)
    if examples == 0:
        raise ValueError("batches: none given")
    return {name: t / examples for name, t in zip(weights, total, strict=True)}


def saliency(model: nn.Module, batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """How much the loss rises if a weight alone is deleted, by the diagonal quadratic estimate.

    Raises:
        ValueError: as `second_derivatives`.
    """
    weights = prunable_weights(model)
    # s_k = h_kk u_k^2 / 2
    return {name: h * weights[name].detach().square() / 2 for name, h in second_derivatives(model, batches, loss).items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 3,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The model with its weights of lowest saliency deleted, retrained after every round.

    Args:
        model: trained to a minimum of the loss.
        batches: (inputs, targets) for the second derivatives.
        amount: fraction of all linear and convolution weights to delete.
        train: (model, callbacks) -> model; called after each round.
        evaluate: not used.
        rounds: how often to delete and retrain, >= 1.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount` or `rounds` out of range, no `train`, or as `second_derivatives`.
    """
    reached_after = sparsities_in_rounds(sparsity(amount), rounds)
    train = needed(train)
    network, masks = copy.deepcopy(model), None
    for reached in reached_after:
        masks = prune_further(saliency(network, batches, loss), reached, masks)
        network = train(network, [HoldMasks(masks)])
    return network
