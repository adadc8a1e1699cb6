"""Wanda: cut weights by magnitude times the norm of their input, row by row (sun2024simple).

Idea: a small weight on a strong input matters more than its size says, and language models have inputs far stronger
than the rest. Each output compares its own weights; nothing is retrained or updated.

Cost: two forward passes over the calibration data per block and one selection per row; memory for one block's inputs.

Implementation details
1. The norm is over all positions of all calibration sequences; the official code averages it over sequences, which
   changes no ranking.
2. Blocks are pruned in order, and each sees what the pruned ones before it pass on; the layers within a block all see
   the inputs of the unpruned block, as in the official code.
3. The official code prunes int(columns * sparsity) of a row by a stable sort; here round(columns * sparsity) go.
4. Only layers inside the blocks are pruned: embeddings and the output head of a language model stay dense.

Deviations: convolutions, which the paper does not treat, are pruned as the matrices that multiply their patches.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, Sparsity
from reference_impls.core.blocks import Call, prunable_layers, visit_inputs, walk
from reference_impls.core.hessian import as_columns, as_matrix, as_weight
from reference_impls.core.masks import Masks, Scores, apply_masks, keep_highest
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "row"
AMOUNTS = (Sparsity, NM)
NETWORK = "gpt_small"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # pruning changes later inputs: not idempotent


@torch.no_grad()
def importance(layers: dict[str, nn.Module], block: nn.Module, calls: list[Call]) -> Scores:
    """|W_ij| * ||X_j||_2 for the layers of a block, shaped as their weights.

    Args:
        layers: weight name -> layer inside the block.
        block: whose calls are given.
        calls: as `core.blocks.walk` gives them.

    Raises:
        ValueError: a layer that is never called, or is neither linear nor a convolution over one or two dimensions.
    """
    squares: dict[nn.Module, Tensor] = {}

    def accumulate(layer: nn.Module, inputs: Tensor) -> None:
        squares[layer] = squares.get(layer, 0) + as_columns(layer, inputs).square().sum(1, keepdim=True)

    visit_inputs(block, calls, layers.values(), accumulate)
    # S_ij = |W_ij| * ||X_j||_2
    return {
        name: as_weight(as_matrix(layer, layer.weight).abs() * squares[layer].sqrt(), like=layer.weight) for name, layer in layers.items()
    }


def masks(model: nn.Module, batches: Batches, amount: Amount) -> Masks:
    """Prune every row of every layer inside the model's blocks.

    Args:
        model: trained; used in evaluation mode.
        batches: calibration data; targets are not used.
        amount: fraction of each row, or n kept of every m weights along the input dimension.

    Raises:
        ValueError: `amount` of another kind or out of range, no calibration data, nothing to prune, or as `importance`.
    """
    network = copy.deepcopy(model)
    found: Masks = {}
    for block, calls in walk(network, batches):
        scores = importance(prunable_layers(network, block, done=found), block, calls)
        kept = keep_highest(scores, amount, "row")
        apply_masks(network, kept)
        found |= kept
    if not found:
        raise ValueError("model: nothing to prune inside its blocks")
    return found
