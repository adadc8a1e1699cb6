"""DSR: prune by one adaptive threshold for all layers, and give the freed weights to the layers that kept most (mostafa2019parameter).

Idea: a network trains with a fixed number of weights, but their places are not fixed, nor how many each layer has. Now and then
all weights below a threshold go; each layer gets new ones in proportion to those that survived in it. Layers that use their
weights grow at the cost of those that do not, and nobody has to choose the layers' densities. The threshold needs no sort:
it doubles where too few went, and halves where too many did.

Cost: that of training at the given density, and a comparison per weight every `every` steps. (Masks over dense tensors, as here,
show the method and save nothing.)

Implementation details
1. At first all layers have the same density.
2. The threshold changes after a pruning, for the next one, where the number pruned is more than a tenth off its target. The
   authors begin with 1e-3.
3. New weights are drawn among places that were empty before the pruning (just pruned ones only where no other is left), and
   begin at zero.
4. If all weights of a layer fall below the threshold, one stays: in the authors' code the last of the list, here the largest.
5. What a full layer cannot take goes to the others, in proportion.

Deviations: the target is a fraction of all present weights, where the authors give a number (600 by default for their small network).
Fractions of a weight are rounded by largest remainder, where the authors' code gives the difference to a layer at random. The
period between two moves is constant, where they lengthen it four times in a run.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, grow_random, hold, random_connections, share_out
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no regrows: connections do come back, but their number is constant over the network, not within each layer
# no exact_count: each layer rounds its first number; a new weight is 0 until it has a gradient
# no identity_at_zero: in a dense network, too, small weights are set to zero and grow again
TRAITS: frozenset[str] = frozenset()
QUICK = {"every": 2}  # so that connections move more than once in a run of a few steps


def prune_below(weight: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """The mask without the weights whose magnitude is below the threshold; the largest one stays in any case."""
    stays = mask & (weight.abs() >= threshold)
    if mask.any() and not stays.any():
        stays.view(-1)[weight.abs().masked_fill(~mask, -1).argmax()] = True
    return stays


def adapted(threshold: float, pruned: int, target: float, tolerance: float = 0.1) -> float:
    """The threshold for the next pruning, after one that has taken `pruned` weights where `target` were wanted."""
    # H <- 2 H if K < (1 - delta) N_p;  H <- H / 2 if K > (1 + delta) N_p
    if pruned < (1 - tolerance) * target:
        return 2 * threshold
    return threshold / 2 if pruned > (1 + tolerance) * target else threshold


class Reallocation(Connections):
    """Prunes by the threshold and regrows every `every` steps before step `end`.

    Attributes:
        threshold: H, as it is now.
    """

    def __init__(self, masks: Masks, fraction: float, threshold: float, every: int, end: int, generator: torch.Generator | None) -> None:
        super().__init__(masks)
        self.fraction, self.threshold, self.every, self.end, self.generator = fraction, threshold, every, end, generator

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().after_step(model, optimizer)
        if self.step % self.every or self.step >= self.end:
            return
        weights, before = prunable_weights(model), self.masks
        stays = {name: prune_below(weight.detach(), before[name], self.threshold) for name, weight in weights.items()}
        survived = {name: int(mask.sum()) for name, mask in stays.items()}
        present = sum(int(mask.sum()) for mask in before.values())
        # K = sum_l K_l
        pruned = present - sum(survived.values())
        self.threshold = adapted(self.threshold, pruned, self.fraction * present)
        # G_l = R_l / (sum_l R_l) K
        grown = share_out(pruned, survived, {name: mask.numel() - survived[name] for name, mask in stays.items()})
        hold(model, optimizer, stays)
        self.masks = {name: grow_random(mask, grown[name], self.generator, before[name] & ~mask) for name, mask in stays.items()}


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    fraction: float = 0.1,
    threshold: float = 1e-3,
    every: int | None = None,
    end: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train sparse, and reallocate the weights.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights that is absent, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        fraction: N_p, what a reallocation should move, as a fraction of the weights present, in (0, 1].
        threshold: H of the first pruning, > 0.
        every: steps between two reallocations; by default 100, or a twentieth of a shorter run.
        end: step from which on none takes place; by default the last of the run.
        generator: draws the connections; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in (0, 1]")
    if not threshold > 0:
        raise ValueError(f"threshold: {threshold} is not above 0")
    every = max(1, min(100, steps // 20)) if every is None else every
    if every < 1:
        raise ValueError(f"every: {every} steps is below 1")
    first = random_connections(model, dict.fromkeys(prunable_weights(model), density), generator)
    return [Reallocation(first, fraction, threshold, every, steps if end is None else end, generator)]
