"""Early-Bird tickets: stop training as soon as the mask of channels to prune holds still, prune, and train on (you2020drawing).

Idea: which channels will matter shows within the first epochs, long before the weights have settled. So after every epoch the mask
is drawn that network slimming would prune by; once the last few masks hardly differ, the ticket has
emerged, and all further training is done on the small network.

Cost: a few epochs of the dense network, one ranking of its scales each; then training of the smaller one. The full training run
before pruning is saved.

Implementation details
1. Scores are the magnitudes of batch normalization's scales, ranked over the whole network; training adds an l1 penalty on them.
2. The distance of two masks is the fraction of channels on which they differ (Hamming).
3. The authors' code keeps the masks of five epochs; the ticket has emerged when the newest differs from each of the four before by
   at most 0.1.
4. The channels go for real, and the small network inherits the weights of that epoch.

Deviations: a mask is drawn after every epoch; the authors' code draws it before every epoch, so its first one is that of the
untrained network. Exactly round(sparsity * n) channels go and one of each layer stays, where it prunes every scale up to a
threshold; channels joined by a shortcut go together. If no ticket has emerged when `train` is over, it is drawn then. The
precision is not lowered during the search, which the paper shows to be possible.
"""

import copy
from collections import deque
from collections.abc import Sequence

from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Masks, keep_units
from reference_impls.core.structures import one_example, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Callback, Train, needed
from reference_impls.during_training.network_slimming import channel_scores, scales

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# fixed_mask does not hold: nothing is masked, the channels are gone; not idempotent: training comes before the drawing
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


class Emerged(Exception):
    """The ticket has emerged; carries the network as it is now."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__("the early-bird ticket has emerged")
        self.model = model


def draw(model: nn.Module, groups: Sequence[Group], amount: Amount) -> Masks:
    """Which channels stay, by the magnitude of their scales over the whole network: group -> bool per channel.

    Raises:
        ValueError: no channel with a scale can be removed.
    """
    scores = channel_scores(model, groups)
    if not scores:
        raise ValueError("model: nothing to prune, no channel with a scale can be removed")
    return keep_units(scores, amount)


def distance(one: Masks, other: Masks) -> float:
    """The fraction of channels on which two masks differ, in [0, 1]."""
    differing = sum(int((mask != other[name]).sum()) for name, mask in one.items())
    return differing / sum(mask.numel() for mask in one.values())


class EarlyBird(Callback):
    """Trains under the l1 penalty, and ends the training run when the masks of the last epochs agree.

    Attributes:
        masks: those of the last epochs, the newest last.
    """

    def __init__(self, groups: Sequence[Group], amount: Amount, strength: float, window: int, tolerance: float) -> None:
        self.groups, self.amount, self.strength, self.tolerance = groups, amount, strength, tolerance
        self.masks: deque[Masks] = deque(maxlen=window)

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_gamma |gamma|
        return self.strength * sum(scale.abs().sum() for scale in scales(model).values())

    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        self.masks.append(draw(model, self.groups, self.amount))
        if len(self.masks) < self.masks.maxlen:
            return
        *earlier, newest = self.masks
        # max_i d(m_now, m_i) <= epsilon
        if max(distance(newest, mask) for mask in earlier) <= self.tolerance:
            raise Emerged(model)


def ticket(
    model: nn.Module, batches: Batches, amount: Amount, train: Train, strength: float = 1e-4, window: int = 5, tolerance: float = 0.1
) -> nn.Module:
    """The small network at the epoch at which it emerged, not trained further yet. Arguments and errors as `prune`."""
    if window < 2:
        raise ValueError(f"window: {window} masks; two are needed to compare")
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance: {tolerance} is not in [0, 1]")
    groups = removable_groups(model, one_example(batches))
    draw(model, groups, amount)  # refuses what cannot be pruned before it is trained
    try:
        network = train(copy.deepcopy(model), [EarlyBird(groups, amount, strength, window, tolerance)])
    except Emerged as emerged:
        network = emerged.model
    return remove(network, groups, draw(network, groups, amount))


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    strength: float = 1e-4,
    window: int = 5,
    tolerance: float = 0.1,
) -> nn.Module:
    """The early-bird ticket, trained on.

    Args:
        model: with batch normalization, at its initialization.
        batches: one example is needed, to follow the channels through the network.
        amount: the fraction of all channels of the network to remove.
        train: (model, callbacks) -> model; its first run is ended when the ticket emerges, its second trains the ticket.
        evaluate: not used.
        strength: lambda of the l1 penalty while the ticket is sought, >= 0.
        window: how many epochs' masks have to agree, >= 2.
        tolerance: the largest distance between the newest mask and each of the others, in [0, 1].

    Raises:
        ValueError: an argument is outside its range, no data, or the model has no batch normalization to prune by.
    """
    small = ticket(model, batches, amount, needed(train), strength, window, tolerance)
    return needed(train)(small.train())
