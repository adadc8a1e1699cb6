"""Network trimming: units whose activations are mostly zero, whatever the input, go, and the rest is retrained (hu2016network).

Idea: in a large trained network many neurons say nothing most of the time: behind the rectifier their output is zero for almost every
input. The average percentage of zeros (APoZ) over a data set finds them. They go, the network is retrained from the weights that it
has, which makes new neurons fall silent, and so on.

Cost: one forward pass over the data and one training run per round. No gradient, no weight is looked at.

Implementation details
1. Zeros are counted behind the rectifier, over all examples and all positions of a map, so that a neuron of a fully connected layer and a
   map of a convolution compare.
2. Retraining begins with the weights before pruning, not with new ones.
3. Units of all layers are compared together; one unit of each layer stays.
4. Maps that a shortcut adds go together; where several rectifiers see them, zeros are counted behind all of them.

Deviations: read were the abstract and a summary of the paper, not its text; no official code is known. The paper trims chosen layers, those
of high mean APoZ first; here each round removes the same fraction of what is left in the whole network. Units that reach no rectifier
without a change of their number, as behind a concatenation, are left alone.
"""

from functools import partial

from torch import Tensor, nn

from reference_impls.core.activations import rectified_means
from reference_impls.core.amounts import Amount, Sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import remove_in_rounds
from reference_impls.core.training import Batches, Train

UNIT = "neuron"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "convnet"
# idempotent does not hold: the most silent of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def zeros(maps: Tensor) -> Tensor:
    """The fraction of zeros in each map: (examples, units, ...) -> (examples, units)."""
    # APoZ_c = sum_k sum_j f(O_c,j(k) = 0) / (N M)
    return (maps == 0).to(maps.dtype).reshape(*maps.shape[:2], -1).mean(2)


def activity(model: nn.Module, groups: list[Group], batches: Batches) -> Scores:
    """1 - APoZ: the fraction of examples and positions at which each unit says something, in [0, 1], by group.

    Raises:
        ValueError: no batch, or no unit reaches a rectifier.
    """
    percentages = rectified_means(model, groups, batches, zeros)
    if not percentages:
        raise ValueError("model: nothing to prune, no removable unit reaches a rectifier")
    return {name: 1 - percentage for name, percentage in percentages.items()}


def prune(
    model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None, rounds: int = 2
) -> nn.Module:
    """The network without its most silent units, retrained after each round if `train` is given.

    Args:
        batches: the data that zeros are counted on.
        amount: the fraction of all units to remove; one of each layer always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.
        rounds: each removes the same fraction of what is left, >= 1.

    Raises:
        ValueError: `amount` or `rounds` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    return remove_in_rounds(model, batches, amount, partial(activity, batches=batches), rounds=rounds, train=train)
