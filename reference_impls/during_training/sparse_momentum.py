"""Sparse momentum (SNFS): prune the smallest weights, and grow where the smoothed gradient is largest (dettmers2020sparse).

Idea: the smoothed gradient of a weight says how steadily it would lower the loss. After every epoch each layer loses the same
fraction of its weights, the smallest; the freed weights go to the layers whose present weights have the largest mean momentum,
and within a layer to the absent weights with the largest momentum.

Cost: training at the given density but with dense gradients in every step, which the momentum of absent weights needs. (Masks over
dense tensors, as here, show the method and save nothing.)

Implementation details
1. At first all layers have the same density, drawn at random.
2. A layer's share is the mean of |momentum| over its present weights, divided by the sum over the layers.
3. The fraction pruned falls along half a cosine from 0.5, as in the authors' code.
4. A weight just pruned may grow again, then from zero. What a full layer cannot take goes to the others.
5. New weights begin at zero.

Deviations: the smoothed gradient is kept here, M <- 0.9 M + 0.1 gradient, as in the paper, whatever the optimizer; the authors' code
reads the optimizer's own buffers (Adam's divided by the root of its second moment), and sets those of absent weights to the mean of the
present ones after a move. round(p n) of n weights are pruned and exactly as many grow, where the code rounds up and corrects the
difference over time; its fraction ends at 0.005, not at 0, and nearly dense layers lose less in it. Nothing moves after the last epoch.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, drop_lowest, grow_highest, hold, random_connections, share_out
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.schedules import cosine_decay
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no regrows: connections do come back, but their number is constant over the network, not within each layer
# no exact_count: each layer rounds its first number; a new weight is 0 until it has a gradient
# no identity_at_zero: in a dense network, too, the smallest weights are set to zero after an epoch
TRAITS: frozenset[str] = frozenset()


def contributions(momenta: dict[str, Tensor], masks: Masks) -> dict[str, float]:
    """Each layer's share of the mean momentum magnitude of present weights; together 1."""
    means = {name: momentum[masks[name]].abs().mean().item() if masks[name].any() else 0.0 for name, momentum in momenta.items()}
    total = sum(means.values())
    return {name: mean / total if total else 1 / len(means) for name, mean in means.items()}


def prune_smallest(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The mask without `fraction` of its weights, the smallest in magnitude."""
    return drop_lowest(mask, weight.abs(), round(fraction * int(mask.sum())))


def grow_by_momentum(mask: Tensor, momentum: Tensor, count: int) -> Tensor:
    """The mask with the `count` absent weights of largest momentum magnitude."""
    return grow_highest(mask, momentum.abs(), count)


class SparseMomentum(Connections):
    """Smooths the dense gradients, and moves connections after every epoch but the last.

    Attributes:
        momenta: the smoothed gradient of every weight, absent ones included.
    """

    def __init__(self, masks: Masks, fraction: float, smoothing: float, steps: int) -> None:
        super().__init__(masks)
        self.fraction, self.smoothing, self.steps = fraction, smoothing, steps
        self.momenta = {name: torch.zeros(mask.shape, device=mask.device) for name, mask in masks.items()}

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            if weight.grad is not None:
                # M <- alpha M + (1 - alpha) dE/dW
                self.momenta[name] = self.smoothing * self.momenta[name] + (1 - self.smoothing) * weight.grad

    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        if self.step >= self.steps:
            return
        fraction = cosine_decay(self.step, self.steps, self.fraction)
        present = sum(int(mask.sum()) for mask in self.masks.values())
        shares = contributions(self.momenta, self.masks)
        stays = {name: prune_smallest(weight.detach(), self.masks[name], fraction) for name, weight in prunable_weights(model).items()}
        pruned = present - sum(int(mask.sum()) for mask in stays.values())
        grown = share_out(pruned, shares, {name: int((~mask).sum()) for name, mask in stays.items()})
        hold(model, self.optimizer, stays)
        self.masks = {name: grow_by_momentum(mask, self.momenta[name], grown[name]) for name, mask in stays.items()}


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    fraction: float = 0.5,
    smoothing: float = 0.9,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train sparse, and move connections by momentum after every epoch.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights that is absent, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        fraction: p, of each layer's weights that are pruned at first, in [0, 1].
        smoothing: alpha of the momentum, in [0, 1).
        generator: draws the first connections; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in [0, 1]")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: {smoothing} is not in [0, 1)")
    first = random_connections(model, dict.fromkeys(prunable_weights(model), density), generator)
    return [SparseMomentum(first, fraction, smoothing, steps)]
