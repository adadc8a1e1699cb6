"""OBC: the Optimal Brain Surgeon for each row of a layer, exactly, to prune and to quantize (frantar2022optimal, authors' code).

Idea: the squared error of a layer's outputs splits into its rows, and is quadratic in each. So the classical surgeon can be carried out
exactly: remove the weight that costs least, let the others make up for it, reduce the row's inverse Hessian by one elimination step, and go
on. Rows are then compared by what each further removal costs. Quantization is the same with another move: instead of to zero, a weight goes
to the nearest point of a grid, the one with the least price first, and those not yet rounded make up for it.

Cost: rows * columns^3 per layer, as each of a row's `columns` steps updates its inverse Hessian; two passes over the calibration data.

Implementation details (of the authors' code)
1. Every row is pruned to the end, and its prices kept; the cheapest of all rows' prices decide how many of each row's removals are done.
2. For n:m a row removes its cheapest weight whose group still has more than n, until all groups are done.
3. Grid: per row, asymmetric, between the least and the largest weight and 0, with 2^bits points. The price of rounding is (w - q)^2 / d.
4. While the updates push a weight off its grid by more than half a step, the row rounds the weight with the largest error next.
5. A pruned network is quantized with the zeros left alone: with the inverse Hessian of what remains.
6. Layers are independent: all see the inputs that the given network produces.

Deviations: a row's final weights are computed at once from the set of removed ones, which is what the steps lead to. The Hessian is
dampened by a hundredth of its mean diagonal; the code adds the identity only where inversion fails. Weights of inputs that are always
zero go first; the code zeroes them all. Correcting norms' statistics afterwards and choosing sparsities per layer are left out. A shared
weight is treated by the inputs of its first layer.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, Sparsity, as_amount
from reference_impls.core.hessian import as_matrix, as_weight, dampened, layer_hessians
from reference_impls.core.masks import keep_highest, prunable_weights
from reference_impls.core.training import Batches, evaluating

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity, NM)
NETWORK = "mlp"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero", "idempotent"})


def inverse_of(hessian: Tensor, dampening: float) -> Tensor:
    """H^-1 of the dampened Hessian, in double precision.

    Raises:
        ValueError: the Hessian is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(dampened(hessian.double(), dampening))
    if failed:
        raise ValueError("dampening: too small, the Hessian of a layer's inputs is not positive definite")
    return torch.cholesky_inverse(factor)


def eliminate(inverse: Tensor, j: Tensor) -> Tensor:
    """Reduce each row's inverse Hessian to the weights other than j, in place; gives back row j as it was, over its diagonal.

    Args:
        inverse: (rows, columns, columns).
        j: one column per row.
    """
    every = torch.arange(len(j))
    row = inverse[every, j].clone()
    ratio = (row / row[every, j, None]).nan_to_num()  # 0 / 0 where a row is done already
    # H^-1 <- H^-1 - H^-1_{:,j} H^-1_{j,:} / [H^-1]_jj
    inverse.sub_(row[:, :, None] * ratio[:, None, :])
    inverse[every, j], inverse[every, :, j] = 0, 0  # exactly, not up to rounding
    return ratio


def removals(weight: Tensor, inverse: Tensor, pattern: NM | None = None, silent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The order in which each row loses its weights, and the price of each removal.

    Args:
        weight: (rows, columns).
        inverse: H^-1, (columns, columns).
        pattern: n kept of every m columns; without it, all go.
        silent: (columns,); True for inputs that are always zero, whose weights cost nothing.

    Returns:
        Columns and prices, each (rows, removals).
    """
    weight, inverse = weight.double().clone(), inverse.expand(len(weight), -1, -1).clone()
    rows, columns = weight.shape
    gone, every = torch.zeros(rows, columns, dtype=torch.bool), torch.arange(rows)
    order, prices = [], []
    for _ in range(columns if pattern is None else columns // pattern.m * (pattern.m - pattern.n)):
        # w_p^2 / [H^-1]_pp
        score = weight.square() / inverse.diagonal(dim1=1, dim2=2)
        score = score if silent is None else score.masked_fill(silent, 0)
        closed = gone
        if pattern is not None:
            full = gone.view(rows, -1, pattern.m).sum(2, keepdim=True) >= pattern.m - pattern.n
            closed = gone | full.expand(-1, -1, pattern.m).reshape(rows, columns)
        j = score.masked_fill(closed, torch.inf).argmin(1)
        order.append(j)
        prices.append(score[every, j] / 2)
        # dw = - w_p / [H^-1]_pp * H^-1_{:,p}
        weight -= weight[every, j, None] * eliminate(inverse, j)
        gone[every, j] = True
        weight[gone] = 0
    return torch.stack(order, 1), torch.stack(prices, 1)


def without(weight: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """One row without some weights, the others at the least squared error: (columns,)."""
    if not weight[gone].any():
        return weight
    # w - H^-1_{:,P} (H^-1_{P,P})^-1 w_P
    left = weight - inverse[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], weight[gone])
    return left.masked_fill(gone, 0)


def prune_matrix(weight: Tensor, hessian: Tensor, amount: Amount, *, dampening: float = 0.01) -> Tensor:
    """The pruned and updated weight matrix.

    Args:
        weight: (rows, columns).
        hessian: (columns, columns), of a row's squared output error.
        amount: fraction of the matrix, or n kept of every m columns.
        dampening: fraction of the mean diagonal of the Hessian that is added to it.

    Raises:
        ValueError: as `inverse_of`, or an amount that does not fit.
    """
    asked = as_amount(amount, Sparsity, NM)
    if isinstance(asked, NM) and weight.shape[1] % asked.m:
        raise ValueError(f"amount: {asked.n}:{asked.m} does not fit {weight.shape[1]} inputs")
    inverse = inverse_of(hessian, dampening)
    pattern = asked if isinstance(asked, NM) else None
    order, prices = removals(weight, inverse, pattern, hessian.diagonal() == 0)
    done = torch.ones_like(prices, dtype=torch.bool)
    if isinstance(asked, Sparsity):
        chosen = ~keep_highest({"": prices}, asked.fraction, "layer")[""]
        done = torch.arange(prices.shape[1]) < chosen.sum(1, keepdim=True)
    gone = torch.zeros(weight.shape, dtype=torch.bool).scatter(1, order, done)
    return torch.stack([without(row, inverse, cut) for row, cut in zip(weight.double(), gone, strict=True)]).to(weight.dtype)


def grid_of(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(step, zero point) of each row's grid: (rows, 1) each; points are step * (0 ... 2^bits - 1, less the zero point)."""
    low, high = weight.min(1, keepdim=True).values.clamp(max=0), weight.max(1, keepdim=True).values.clamp(min=0)
    empty = (low == 0) & (high == 0)
    step = torch.where(empty, 2.0, high - low) / (2**bits - 1)
    return step, torch.where(empty, (2**bits - 1) / 2, -low / step).round()


def nearest(weight: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest points of the grid."""
    return step * ((weight / step).round() + zero).clamp(0, 2**bits - 1).sub(zero)


def quantize_matrix(weight: Tensor, hessian: Tensor, bits: int, *, dampening: float = 0.01) -> Tensor:
    """The matrix on its grid; what is zero stays zero and moves no other. Arguments and errors as `prune_matrix`."""
    inverse, dtype = inverse_of(hessian, dampening).repeat(len(weight), 1, 1), weight.dtype
    weight, every = weight.double().clone(), torch.arange(len(weight))
    step, zero = grid_of(weight, bits)
    done = weight == 0
    for own, cut in zip(inverse, done, strict=True):
        # the inverse Hessian of what remains: H^-1 - H^-1_{:,P} (H^-1_{P,P})^-1 H^-1_{P,:}
        own.sub_(own[:, cut] @ torch.linalg.solve(own[cut][:, cut], own[cut]))
        own[cut], own[:, cut] = 0, 0
    while not done.all():
        point = nearest(weight, step, zero, bits)
        error = (weight - point).square().masked_fill(done, 0)
        # (quant(w_p) - w_p)^2 / [H^-1]_pp
        j = (error / inverse.diagonal(dim1=1, dim2=2)).masked_fill(done, torch.inf).argmin(1)
        j = torch.where((error > step.square() / 4).any(1), error.argmax(1), j)
        # dw = - (w_p - quant(w_p)) / [H^-1]_pp * H^-1_{:,p}
        moved = weight - (weight[every, j] - point[every, j])[:, None] * eliminate(inverse, j)
        moved[every, j] = point[every, j]
        weight = torch.where(done, weight, moved)
        done[every, j] = True
    return weight.to(dtype)


@torch.no_grad()
def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: object = None,
    evaluate: object = None,
    bits: int | None = None,
    dampening: float = 0.01,
) -> nn.Module:
    """A copy of the model with every prunable layer pruned, its survivors updated, and quantized if `bits` are given.

    Args:
        model: trained; used in evaluation mode.
        batches: calibration data; targets are not used.
        amount: fraction of each layer, or n kept of every m weights along the input dimension; 0 to quantize only.
        train: not used: nothing is retrained.
        evaluate: not used.
        bits: of each weight, >= 1.
        dampening: as in `prune_matrix`.

    Raises:
        ValueError: `amount` of another kind or out of range, `bits` below 1, no calibration data, nothing to prune, or a layer that is
            never called.
    """
    asked = as_amount(amount, Sparsity, NM)
    if bits is not None and bits < 1:
        raise ValueError(f"bits: {bits} is below 1")
    network = copy.deepcopy(model)
    calls = [((inputs,), {}) for inputs, _ in batches]
    if not calls:
        raise ValueError("batches: no calibration data, so the layers' inputs are unknown")
    layers = {name: network.get_submodule(name.rpartition(".")[0]) for name in prunable_weights(network)}
    with evaluating(network):
        hessians = layer_hessians(network, calls, layers.values())
    for name, layer in layers.items():
        if isinstance(asked, NM) and layer.weight.shape[1] % asked.m:
            raise ValueError(f"amount: {asked.n}:{asked.m} does not fit {name}, with {layer.weight.shape[1]} inputs")
        pruned = []
        for matrix, hessian in zip(as_matrix(layer, layer.weight), hessians[layer], strict=True):
            left = prune_matrix(matrix, hessian, asked, dampening=dampening)
            pruned.append(left if bits is None else quantize_matrix(left, hessian, bits, dampening=dampening))
        layer.weight.copy_(as_weight(torch.stack(pruned), like=layer.weight))
    return network
