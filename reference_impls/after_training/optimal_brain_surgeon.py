"""Optimal Brain Surgeon: delete the weight that costs least, and move all others to make up for it (hassibi1992second).

Idea: near a minimum the loss is a quadratic bowl. Deleting weight q under the full Hessian has a closed-form best answer
for all other weights, and a closed-form price; the cheapest q goes, the others move, and the next is looked for.

Cost: the inverse Hessian of all n parameters, O(n^2) memory and O(n^2) time per pattern and output, then O(n^2) per deletion.
For networks of a few thousand parameters.

Implementation details
1. The Hessian is the outer-product form: sums of X X^T over patterns and outputs, X the derivative of an output.
2. H^-1 comes from a recursion over the patterns that starts at I / alpha; here a batch of them goes in one step, which
   gives the same matrix.
3. Biases and norms are not deleted, but they move with the rest, as all weights do.
4. Between two computations of the Hessian the inverse is reduced to the remaining weights exactly:
   H^-1 without q is H^-1 - H^-1 e_q e_q^T H^-1 / [H^-1]_qq.

Deviations: the paper computes the Hessian anew after every deletion (`refresh=1`); by default it is computed after every
hundred. For losses other than half the squared error X carries a root of the loss's own Hessian. The number of deletions
is asked for, where the paper stops when the price nears the error itself.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Batches, HoldMasks, Loss, Train, cross_entropy, evaluating

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "mlp"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # survivors move: not idempotent
QUICK = {"refresh": 1000}  # one Hessian for a run of the contract tests
LARGEST = 5_000  # parameters: the inverse Hessian has their square as entries, in double precision


def output_derivatives(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """X of every example and output, so that the sum of X X^T over both is the outer-product Hessian of the summed loss.

    Returns:
        (examples * outputs, parameters), in double precision; trainable parameters in the order of `named_parameters`.
    """
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def output(parameters: dict[str, Tensor], example: Tensor) -> Tensor:
        return functional_call(model, parameters, (example[None],))[0]

    def loss_of_one(z: Tensor, target: Tensor) -> Tensor:
        return loss(z[None], target[None])

    jacobians = vmap(jacrev(output), (None, 0))(trainable, inputs)  # each (examples, outputs, *shape)
    jacobian = torch.cat([part.flatten(2) for part in jacobians.values()], 2).double()
    bends = vmap(jacrev(jacrev(loss_of_one)))(model(inputs).detach(), targets).double()
    values, vectors = torch.linalg.eigh(bends)
    root = vectors * values.clamp(min=0).sqrt()[:, None]  # root root^T = the loss's own Hessian
    return (root.mT @ jacobian).flatten(0, 1)


def inverse_hessian(derivatives: Iterator[Tensor], patterns: int, alpha: float) -> Tensor:
    """(alpha I + 1/P sum of X X^T)^-1 by the recursion over patterns, without ever inverting a matrix of the network's size.

    Args:
        derivatives: chunks of rows X^T, each (rows, parameters); at least one.
        patterns: P, the number of examples.
        alpha: > 0; small.
    """
    inverse = None
    for rows in derivatives:
        if inverse is None:
            # H_0^-1 = I / alpha
            inverse = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device) / alpha
        # H_{m+1}^-1 = H_m^-1 - H_m^-1 X (P + X^T H_m^-1 X)^-1 X^T H_m^-1
        right = rows @ inverse
        inner = right @ rows.mT + patterns * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
        inverse = inverse - right.mT @ torch.linalg.solve(inner, right)
    return inverse


def price(weights: Tensor, inverse: Tensor) -> Tensor:
    """L_q: how much the loss rises if weight q goes and all others make up for it."""
    # L_q = w_q^2 / (2 [H^-1]_qq)
    return weights.square() / (2 * inverse.diagonal())


def delete(weights: Tensor, inverse: Tensor, q: int) -> None:
    """Delete weight q in place: all others move, and the inverse Hessian becomes that of those that remain (row and column q zero)."""
    column = inverse[:, q].clone()
    # dw = - w_q / [H^-1]_qq * H^-1 e_q
    weights.sub_(weights[q] / column[q] * column)
    inverse.addr_(column, column / column[q], alpha=-1)
    weights[q], inverse[q], inverse[:, q] = 0, 0, 0  # exactly, not up to rounding


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    refresh: int = 100,
    alpha: float = 1e-6,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The model after `amount` deletions, each followed by the best move of all other weights.

    Args:
        model: trained to a minimum of the loss; outputs (examples, classes).
        batches: (inputs, targets), at least one.
        amount: fraction of all linear and convolution weights to delete.
        train: (model, callbacks) -> model; called once at the end, if given: the paper retrains when nothing more can go.
        evaluate: not used.
        refresh: deletions between two computations of the Hessian, >= 1; the paper's is 1.
        alpha: what the Hessian's diagonal starts from, > 0.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount` out of range, no batch, or a model with too many parameters or nothing to prune.
    """
    fraction = sparsity(amount)
    network = copy.deepcopy(model)
    prunable = prunable_weights(network)
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if (count := sum(parameter.numel() for parameter in trainable.values())) > LARGEST:
        raise ValueError(f"model: {count} trainable parameters; the inverse Hessian is kept whole, for at most {LARGEST}")
    patterns = sum(len(inputs) for inputs, _ in batches)
    if patterns == 0:
        raise ValueError("batches: none given")
    vector = nn.utils.parameters_to_vector(trainable.values()).detach()
    weights = vector.to(torch.float64, copy=True)
    deletable = torch.cat([torch.full((p.numel(),), name in prunable, device=p.device) for name, p in trainable.items()])
    alive = torch.ones_like(deletable)
    for deleted in range(round(fraction * int(deletable.sum()))):
        if deleted % refresh == 0:
            nn.utils.vector_to_parameters(weights.to(vector.dtype), trainable.values())
            with evaluating(network):
                inverse = inverse_hessian((output_derivatives(network, *batch, loss) * alive for batch in batches), patterns, alpha)
            inverse = inverse * alive * alive[:, None]  # what is deleted no longer moves
        q = int(price(weights, inverse).masked_fill(~(deletable & alive), torch.inf).argmin())
        delete(weights, inverse, q)
        alive[q] = False
    nn.utils.vector_to_parameters(weights.to(vector.dtype), trainable.values())
    masks = {
        n: kept.view_as(p) for (n, p), kept in zip(trainable.items(), alive.split([p.numel() for p in trainable.values()]), strict=True)
    }
    masks = {name: mask for name, mask in masks.items() if name in prunable}
    return network if train is None else train(network, [HoldMasks(masks)])
