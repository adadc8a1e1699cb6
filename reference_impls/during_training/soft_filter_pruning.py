"""SFP: after every epoch the filters of smallest l2 norm become zero, and the next epoch may bring them back (he2018soft).

Idea: a filter that is cut for good takes capacity with it, and the choice cannot be mended. Here pruning is soft: at the end of each
epoch a fixed fraction of every layer's filters is set to zero, and the next epoch updates them like all others. Those that the loss
needs grow again and others take their place. So one run from random weights trains and prunes at once; only after the last
epoch are the filters that are zero removed.

Cost: one norm per filter and epoch; in the first step one forward pass of a single example, to follow the channels.

Implementation details
1. Filters are zeroed before the first epoch too, then after every epoch, as in the authors' code; gradients are not masked there either,
   and what the optimizer remembers stays.
2. One rate for all layers; filters are compared within a layer, by their l2 norm.
3. Only the weights of convolutions become zero. A bias or a normalization after it goes on, and makes the zero filter's map a
   constant. Where that constant is not above 0 and ReLU follows, no gradient comes back: a filter that is zero from the start behind a
   normalization whose shift is still 0 never returns. Begin with a trained network, or with biases that nothing normalizes.
4. Normalization also undoes scale: a filter that has grown a little counts as much as the others until it is zeroed, so the last epochs
   need a small learning rate, as the authors' schedules have.
5. The smaller network drops the constants. The authors' conversion does so inside a residual block, and adds them back on the shortcut.

Deviations: the authors prune each convolution by itself, so on a shortcut different maps of the layers that are added become zero, and the
stream stays wide. Here maps that are added go together: their filters, side by side, count as one. Exactly round(rate * n) filters go
and one always stays, where the authors' code rounds down.
"""

from functools import partial

from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.soft_filters import SoftFilters
from reference_impls.core.training import Callback

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# fixed_mask does not hold: zero filters train on; idempotent does not hold: the smallest of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def largest(filters: Tensor, fraction: float) -> Tensor:
    """Which filters stay: all but the fraction of smallest l2 norm.

    Args:
        filters: shape (filters, weights of each).

    Returns:
        bool, shape (filters,).
    """
    # ||F_ij||_2
    return keep_units({"": filters.norm(dim=1)}, fraction)[""]


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0) -> list[Callback]:
    """Train with these, and `fit` returns the network without the filters that are zero after the last epoch.

    Args:
        model: with convolutions.
        amount: the fraction of each layer's filters that is zero after every epoch; one filter always stays.
        steps: not used.

    Raises:
        ValueError: `amount` is no sparsity, or a weight is NaN or infinite. In the first step: no filter can be removed.
    """
    prunable_weights(model)
    return [SoftFilters(partial(largest, fraction=sparsity(amount)))]
