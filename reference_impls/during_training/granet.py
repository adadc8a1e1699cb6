"""GraNet: prune gradually over the whole network, and after each pruning let connections regenerate (liu2021sparse).

Idea: a network in training recovers well from a pruning, and better if as many connections grow as are dropped on top of it. So
magnitude pruning raises the sparsity step by step, and each pruning is followed by a neuroregeneration that costs no weights: every
layer drops a fraction of its smallest weights, and grows as many where the gradient is largest.

Cost: training at a density that falls from the initial to the final one, and the dense gradient of one step in `every`. (Masks over
dense tensors, as here, show the method and save nothing.)

Implementation details
1. The start is a random network of Erdos-Renyi-Kernel densities, half dense by default; with `initial` 0 it is a dense one.
2. The sparsity rises along the cubic curve of gradual magnitude pruning and compares weights over all layers.
3. The fraction that regenerates falls along half a cosine from 0.5 over the run, and regeneration goes on after the last pruning.
4. Regeneration moves connections as RigL does: one that is dropped may return, and then keeps its weight.
5. The gradient is that of the step just made: it has trained the network before it chooses.
6. The last pruning comes at 11/16 of the run, as epoch 110 of 160 in the authors' code; they prune every 1,000 steps or so.

Deviations: the numbers pruned are exact, where the authors' code prunes every weight at or below a threshold; round(fraction * n)
of n regenerate, where it rounds up; their fraction ends at 0.005, not at 0.
"""

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, hold, random_connections
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import Masks, prunable_weights, prune_further
from reference_impls.core.schedules import cosine_decay, cubic_sparsity
from reference_impls.core.training import Callback
from reference_impls.during_training.rigl import drop_and_grow

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no fixed_mask and no regrows: connections come back, while their number falls
# no exact_count: the masks are exact, but a new weight is 0 until it has a gradient
TRAITS = frozenset({"identity_at_zero"})


class GradualRegeneration(Connections):
    """Every `every` steps: prunes on the way to the final sparsity, until step `end`; then regenerates."""

    def __init__(self, masks: Masks, initial: float, final: float, fraction: float, every: int, end: int, steps: int) -> None:
        super().__init__(masks)
        self.initial, self.final, self.fraction = initial, final, fraction
        self.every, self.end, self.steps = every, end, steps

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().after_step(model, optimizer)
        # after the last step nothing that grows would be trained; but a pruning that is due then still takes place
        if self.step % self.every and self.step != self.end:
            return
        weights = prunable_weights(model)
        if self.step <= self.end:
            # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Delta t))^3
            now = cubic_sparsity(self.step, 0, self.end, self.final, self.initial)
            self.masks = prune_further({name: weight.detach().abs() for name, weight in weights.items()}, now, self.masks)
        fraction = cosine_decay(self.step, self.steps, self.fraction)
        for name, weight in weights.items():
            if weight.grad is not None:
                self.masks[name] = drop_and_grow(weight.detach(), weight.grad, self.masks[name], fraction)
        hold(model, optimizer, self.masks)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    initial: float | None = None,
    fraction: float = 0.5,
    every: int | None = None,
    end: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Prune while training, with regeneration.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights to prune in the end, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        initial: sparsity s_i at the start, in [0, amount]; by default 0.5, or `amount` if that is less.
        fraction: of the connections left that regenerates at first, in [0, 1].
        every: steps between two prunings; by default 100, or a twentieth of a shorter run.
        end: step of the last pruning, in [1, steps]; by default 11/16 of the run.
        generator: draws the first connections; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    final = sparsity(amount)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    initial = min(0.5, final) if initial is None else initial
    if not 0 <= initial <= final:
        raise ValueError(f"initial: sparsity {initial} is not in [0, {final}]")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in [0, 1]")
    every = max(1, min(100, steps // 20)) if every is None else every
    if every < 1:
        raise ValueError(f"every: {every} steps is below 1")
    end = max(1, 11 * steps // 16) if end is None else end
    if not 1 <= end <= steps:
        raise ValueError(f"end: step {end} is not in a run of {steps} steps")
    densities = erdos_renyi_kernel({name: weight.shape for name, weight in prunable_weights(model).items()}, 1 - initial)
    return [GradualRegeneration(random_connections(model, densities, generator), initial, final, fraction, every, end, steps)]
