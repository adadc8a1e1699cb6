"""Gradual magnitude pruning: prune the smallest weights of each layer, ever fewer at a time, while training (zhu2018prune).

Idea: the sparsity rises along a cubic curve, fast while many weights are redundant, slowly as few are left; between
two prunings the network trains and recovers.

Cost: one sort of each layer's weights every `every` steps; training stays dense in memory and compute.

Implementation details
1. Every layer is pruned to the same sparsity, by |w|.
2. The last pruning comes three quarters into training by default, so that the network can recover: in the paper too,
   training goes on at the final sparsity.
3. The default is to prune every 100 steps, and more often in runs under 2,000 steps; between 100 and 1,000 the paper found
   hardly a difference.

Deviations: a pruned weight is set to zero and stays pruned. The authors' masks hide a weight but keep its value, so
that it may return should the weights kept shrink below it.
"""

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import apply_masks, keep_highest, prunable_weights
from reference_impls.core.schedules import cubic_sparsity
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no idempotent: weights train between prunings; no weights_only: the data trains them
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})


class GradualPruning(Callback):
    """Prunes at steps t_0, t_0 + Δt, ..., t_0 + n Δt, and keeps what is pruned at zero.

    Attributes:
        masks: those of now, from `start` on.
    """

    def __init__(self, final: float, initial: float, begin: int, every: int, prunings: int) -> None:
        self.final, self.initial, self.begin, self.every, self.prunings = final, initial, begin, every, prunings

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = 0
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}
        self._prune(model)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        self._prune(model)

    def _prune(self, model: nn.Module) -> None:
        passed = self.step - self.begin
        if 0 <= passed <= self.prunings * self.every and passed % self.every == 0:
            # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))^3
            now = cubic_sparsity(self.step, self.begin, self.begin + self.prunings * self.every, self.final, self.initial)
            # pruned weights go first: of weights that train to exactly 0, none may change places with them
            scores = {name: w.detach().abs().masked_fill(~self.masks[name], -1.0) for name, w in prunable_weights(model).items()}
            self.masks = keep_highest(scores, now, "layer")
        apply_masks(model, self.masks)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    initial: float = 0.0,
    begin: int = 0,
    every: int | None = None,
    prunings: int | None = None,
) -> list[Callback]:
    """Prune while training, from `initial` to the sparsity asked.

    Args:
        model: what will be trained.
        amount: the fraction of each layer's weights to prune in the end, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        initial: sparsity s_i of the first pruning, in [0, amount].
        begin: step t_0 of the first pruning, in [0, steps).
        every: steps Δt between two prunings; by default 100, or a twentieth of a shorter run.
        prunings: number n of prunings after the first; by default as many as end before three quarters of the run.

    Raises:
        ValueError: an argument is outside its range, or the prunings do not end within the run.
    """
    final = sparsity(amount)
    prunable_weights(model)
    if not 0 <= initial <= final:
        raise ValueError(f"initial: sparsity {initial} is not in [0, {final}]")
    if not 0 <= begin < steps:
        raise ValueError(f"begin: step {begin} is not in a run of {steps} steps")
    every = max(1, min(100, steps // 20)) if every is None else every
    if every < 1:
        raise ValueError(f"every: {every} steps is below 1")
    prunings = max(1, (3 * steps // 4 - begin) // every) if prunings is None else prunings
    if prunings < 1 or begin + prunings * every > steps:
        raise ValueError(f"prunings: {prunings}, {every} steps apart from step {begin} on, do not fit a run of {steps} steps")
    return [GradualPruning(final, initial, begin, every, prunings)]
