"""HRank: in each layer the filters go whose feature maps have the lowest rank, averaged over a few images (lin2020hrank).

Idea: a feature map is a matrix, and its rank says how much it holds. The average rank of the maps that one filter makes hardly depends on
which images are shown, so a few batches measure it for good. Filters of low rank go, those of high rank keep what the layer knows; no
penalty is added to training, and the scores never change.

Cost: a forward pass over some hundred images, with a singular value decomposition of every map; then the fine-tuning.

Implementation details
1. Ranks are those of the maps behind the rectifier, in evaluation mode; the authors' code takes five batches of 128 training images.
2. The rank is numerical: singular values not above the largest one times the map's larger side times the type's rounding unit are zero.
3. Filters are compared within a layer.
4. Maps that a shortcut adds go together, scored by the mean of the ranks behind all rectifiers that see them.

Deviations: the authors set a rate for each layer by hand; here all layers lose the same fraction, and are fine-tuned together. Maps that
reach no rectifier without a change of their number, as behind a concatenation, are left alone.
"""

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
# idempotent does not hold: the lowest ranks of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def ranks(maps: Tensor) -> Tensor:
    """The rank of each map: (examples, filters, height, width) -> (examples, filters)."""
    # Rank(o_i,j(g, :, :)), the number of singular values that are not zero
    return linalg.matrix_rank(maps).to(maps.dtype)


def average_ranks(model: nn.Module, groups: list[Group], batches: Batches) -> Scores:
    """The mean rank of each filter's maps over the images, by group.

    Raises:
        ValueError: no batch, or no filter's map reaches a rectifier.
    """
    found = rectified_means(model, groups, batches, ranks)
    if not found:
        raise ValueError("model: nothing to prune, no removable filter's map reaches a rectifier")
    return found


def prune(model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None) -> nn.Module:
    """The network without the filters of lowest average rank, fine-tuned if `train` is given.

    Args:
        batches: the images that ranks are measured on; a few batches do.
        amount: the fraction of each layer's filters to remove; one filter always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.

    Raises:
        ValueError: `amount` is no sparsity, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    fraction = sparsity(amount)
    groups = made_by_convolutions(model, removable_groups(model, one_example(batches)))
    small = remove(model, groups, keep_units(average_ranks(model, groups, batches), fraction, "layer"))
    return small if train is None else train(small)
