"""SparseGPT: prune each layer column by column, and let the columns to come make up for it (frantar2023sparsegpt, algorithm 1).

Idea: removing a weight optimally (Optimal Brain Surgeon) needs an inverse Hessian per row. If all rows are treated in
the same column order, and only weights to the right may still move, all rows share one sequence of inverse Hessians,
and a single Cholesky factor holds the whole sequence.

Cost: per layer a Cholesky factorization, O(columns^3), and O(rows * columns^2) for the updates; two forward passes over
the calibration data per block.

Implementation details
1. The factor U is upper triangular with U^T U = H^-1: row j of U is the inverse Hessian of columns j, j + 1, ..., scaled.
2. Masks are chosen per block of columns from the weights as updated so far, over all rows together; for N:M, per group of m.
3. Columns of the block are updated at once, those behind it by one product per block (lazy).
4. The official code prunes one weight too many per block (`<=` at the k-th score); here k go, and the blocks' counts
   add up to exactly round(sparsity * n) per layer.
5. Blocks of the model are pruned in order; the layers within one see the inputs of the unpruned block.

Deviations: the official code zeroes weights whose input is always zero; here they only go first. Convolution columns run
over the kernel first and the input channels last, so that N:M groups lie along the input dimension.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, Sparsity, as_amount
from reference_impls.core.blocks import prunable_layers, walk
from reference_impls.core.hessian import as_matrix, as_weight, dampened, layer_hessians
from reference_impls.core.masks import keep_highest, keep_n_of_m
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity, NM)
NETWORK = "gpt_small"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # survivors move: not idempotent


def inverse_root(hessian: Tensor) -> Tensor:
    """The upper triangular U with U^T U = H^-1.

    Raises:
        ValueError: the Hessian is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise ValueError("dampening: too small, the Hessian of a layer's inputs is not positive definite")
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


def prune_matrix(weight: Tensor, hessian: Tensor, amount: Amount, *, block_size: int = 128, dampening: float = 0.01) -> Tensor:
    """The pruned and updated weight matrix.

    Args:
        weight: (rows, columns).
        hessian: (columns, columns), of the squared output error; its scale does not matter.
        amount: fraction of the matrix, or n kept of every m columns.
        block_size: columns per block of the mask choice; a multiple of m.
        dampening: fraction of the mean diagonal of the Hessian that is added to it.

    Raises:
        ValueError: as `inverse_root`, or an amount that does not fit.
    """
    asked = as_amount(amount, Sparsity, NM)
    rows, columns = weight.shape
    if isinstance(asked, NM) and (columns % asked.m or block_size % asked.m):
        raise ValueError(f"amount: {asked.n}:{asked.m} does not fit {columns} inputs in blocks of {block_size}")
    root = inverse_root(dampened(hessian, dampening)).to(weight.dtype)
    silent = hessian.diagonal() == 0
    weight = weight.clone()
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        keep = torch.ones(rows, end - start, dtype=torch.bool, device=weight.device)
        errors = torch.empty(rows, end - start, dtype=weight.dtype, device=weight.device)
        if isinstance(asked, Sparsity):
            due = round(asked.fraction * rows * end) - round(asked.fraction * rows * start)
            scores = saliency(weight[:, start:end], root[start:end, start:end], silent[start:end])
            keep = keep_highest({"": scores}, due / keep.numel())[""] if due < keep.numel() else ~keep
        for j in range(start, end):
            if isinstance(asked, NM) and j % asked.m == 0:
                group = slice(j, j + asked.m)
                keep[:, j - start : j - start + asked.m] = keep_n_of_m(saliency(weight[:, group], root[group, group], silent[group]), asked)
            # E_j = (1 - M_j) * W_j / [U]_jj
            errors[:, j - start] = ~keep[:, j - start] * weight[:, j] / root[j, j]
            # W_{j:end} -= E_j U_{j, j:end}
            weight[:, j:end] -= errors[:, j - start, None] * root[j, j:end]
        weight[:, start:end] *= keep  # exactly zero, not zero up to rounding
        # W_{end:} -= E U_{start:end, end:}
        weight[:, end:] -= errors @ root[start:end, end:]
    return weight


def saliency(weight: Tensor, root: Tensor, silent: Tensor) -> Tensor:
    """w^2 / [U]_jj^2: the error that removing each weight leaves, if the columns to its right make up for it; 0 on silent inputs."""
    return (weight.square() / root.diagonal().square()).masked_fill(silent, 0)


@torch.no_grad()
def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: object = None,
    evaluate: object = None,
    block_size: int = 128,
    dampening: float = 0.01,
) -> nn.Module:
    """A copy of the model whose layers inside its blocks are pruned, the survivors updated.

    Args:
        model: trained; used in evaluation mode.
        batches: calibration data; targets are not used.
        amount: fraction of each layer, or n kept of every m weights along the input dimension.
        train: not used: nothing is retrained.
        evaluate: not used.
        block_size: as in `prune_matrix`.
        dampening: as in `prune_matrix`.

    Raises:
        ValueError: `amount` of another kind or out of range, no calibration data, nothing to prune, or a layer that is never called.
    """
    asked = as_amount(amount, Sparsity, NM)
    network = copy.deepcopy(model)
    done: set[str] = set()
    for block, calls in walk(network, batches):
        layers = prunable_layers(network, block, done)
        hessians = layer_hessians(block, calls, layers.values())
        for name, layer in layers.items():
            if isinstance(asked, NM) and layer.weight.shape[1] % asked.m:
                raise ValueError(f"amount: {asked.n}:{asked.m} does not fit {name}, with {layer.weight.shape[1]} inputs")
            matrices = as_matrix(layer, layer.weight).to(hessians[layer].dtype)
            pruned = [
                prune_matrix(matrix, hessian, asked, block_size=block_size, dampening=dampening)
                for matrix, hessian in zip(matrices, hessians[layer], strict=True)
            ]
            layer.weight.copy_(as_weight(torch.stack(pruned), like=layer.weight))
        done |= layers.keys()
    if not done:
        raise ValueError("model: nothing to prune inside its blocks")
    return network
