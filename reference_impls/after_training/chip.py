"""CHIP: the filters go whose feature maps depend most on the other maps of their layer, by the nuclear norm (sui2021chip).

Idea: most scores look at a filter alone. What matters is whether the other maps can stand in for it: the maps of a layer, each a row of a
matrix, lose little of its nuclear norm when a row that the others nearly span is set to zero. That loss is the channel's
independence; filters of low independence go.

Cost: a forward pass over some hundred images, and for each image and layer one singular value decomposition per channel.

Implementation details
1. Maps are taken behind the rectifier, in evaluation mode; the authors' code takes five batches of 128 training images. Each map is
   stretched to one row, so the matrix of an image is (channels, height * width).
2. Independence is the mean over the images of the nuclear norm's loss. As in the authors' code, one row is set to zero at a time.
3. The authors' code rounds the maps to four decimals before; here nothing is rounded.
4. Filters are compared within a layer. Maps that a shortcut adds go together, by the mean over all rectifiers that see them.

Deviations: all layers lose the same fraction and are fine-tuned together, where the authors set rates by layer. Maps that reach no
rectifier without a change of their number, as behind a concatenation, are left alone.
"""

import torch
from torch import Tensor, linalg, nn

from reference_impls.core.activations import rectified_means
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores, keep_units
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import one_example, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# idempotent does not hold: the least independent of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def channel_independence(maps: Tensor) -> Tensor:
    """What the nuclear norm of each example's maps loses without one of them: (examples, channels, ...) -> (examples, channels)."""
    rows = maps.flatten(2)
    channels = rows.shape[1]
    without = 1 - torch.eye(channels, dtype=rows.dtype, device=rows.device)  # (left out, channel)
    # CI(A_i) = ||A||_* - ||M_i o A||_*
    return torch.stack([linalg.svdvals(each).sum() - linalg.svdvals(without[:, :, None] * each).sum(1) for each in rows])


def mean_independence(model: nn.Module, groups: list[Group], batches: Batches) -> Scores:
    """The mean independence of each filter's maps over the images, by group.

    Raises:
        ValueError: no batch, or no filter's map reaches a rectifier.
    """
    found = rectified_means(model, groups, batches, channel_independence)
    if not found:
        raise ValueError("model: nothing to prune, no removable filter's map reaches a rectifier")
    return found


def prune(model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None) -> nn.Module:
    """The network without the filters of least independence, fine-tuned if `train` is given.

    Args:
        batches: the images that independence is measured on; a few batches do.
        amount: the fraction of each layer's filters to remove; one filter always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.

    Raises:
        ValueError: `amount` is no sparsity, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    fraction = sparsity(amount)
    groups = made_by_convolutions(model, removable_groups(model, one_example(batches)))
    small = remove(model, groups, keep_units(mean_independence(model, groups, batches), fraction, "layer"))
    return small if train is None else train(small)
