"""FPGM: the filters nearest their layer's geometric median go, for the others can stand in for them (he2019filter).

Idea: that filters of small norm matter least supposes that norms differ much and that some are near zero; often neither is so. What is
always dispensable is what others can replace. The geometric median of a layer's filters is the point with the smallest sum of
distances to them all, so the filter whose own sum is smallest lies in their midst, and takes least along. Filters are zeroed
softly, epoch after epoch, while the network trains.

Cost: the distances of all pairs of a layer's filters, once per epoch; in the first step one forward pass of a single example, to follow
the channels.

Implementation details
1. The median itself is never computed: among the filters, the nearest to it is the one with the smallest sum of distances.
2. A part of the filters may go by the smallest l2 norm first; distances are then taken among the rest only. Both as in the authors' code,
   whose mixed setting sends a tenth by norm.
3. Filters are zeroed before the first epoch and after each. In between zero filters get no gradient, as in the authors' code: only what
   the optimizer remembers moves them, so few return.
4. Only the weights of convolutions become zero, batch normalization goes on.

Deviations: maps that a shortcut adds go together, their filters, side by side, count as one, where the authors prune each layer by itself
and keep the stream wide. Exactly round(rate * n) filters go and one always stays, where the authors' code rounds down. Its networks keep
their zero filters; here `fit` returns the smaller network.
"""

from functools import partial

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.soft_filters import SoftFilters
from reference_impls.core.training import Callback

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# fixed_mask does not hold: momentum moves zero filters; idempotent does not hold: the midst of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def distance_sums(filters: Tensor) -> Tensor:
    """Of each filter the sum of its Euclidean distances to all: shape (filters, weights of each) -> (filters,)."""
    # g(x) = sum_j ||x - F_j||_2
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def irreplaceable(filters: Tensor, fraction: float, by_norm: float = 0.0) -> Tensor:
    """Which filters stay: bool, shape (filters,).

    Args:
        filters: shape (filters, weights of each).
        fraction: of all filters, to go.
        by_norm: of all filters, to go by smallest norm before the others go by distance; at most `fraction`.
    """
    kept = keep_units({"": filters.norm(dim=1)}, by_norm)[""]
    left = int(kept.sum())
    near = min(round(fraction * len(filters)), len(filters) - 1) - (len(filters) - left)
    # F_j* = argmin over the filters of g
    kept[kept.clone()] = keep_units({"": distance_sums(filters[kept])}, near / left)[""]
    return kept


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, by_norm: float = 0.0) -> list[Callback]:
    """Train with these, and `fit` returns the network without the filters that are zero after the last epoch.

    Args:
        model: with convolutions.
        amount: the fraction of each layer's filters that is zero after every epoch; one filter always stays.
        steps: not used.
        by_norm: the fraction of each layer's filters that goes by smallest norm, in [0, amount].

    Raises:
        ValueError: an argument is out of its range, or a weight is NaN or infinite. In the first step: no filter can be removed.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    if not 0 <= by_norm <= fraction:
        raise ValueError(f"by_norm: {by_norm} is not in [0, {fraction}]")
    return [SoftFilters(partial(irreplaceable, fraction=fraction, by_norm=by_norm), update_pruned=False)]
