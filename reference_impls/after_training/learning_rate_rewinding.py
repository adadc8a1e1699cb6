"""Learning-rate rewinding: prune, keep the trained weights, and retrain with the learning rates of the first training (renda2020comparing).

Idea: fine-tuning retrains what pruning has left at the last, small learning rate. The lottery ticket procedure sets weights and learning
rates back to an earlier step. This takes only half of that: weights stay as they are, the learning-rate schedule goes back. The large
steps at its start let the network reorganize around what is missing, and there is nothing to choose for each network.

Cost: one training run for the network, and one per round.

Implementation details
1. Train to completion; prune the smallest weights over the whole network; retrain with the schedule rewound; repeat. The paper
   prunes a fifth of what is left per round.
2. Masks come from the weights as they are after each retraining; what is pruned stays pruned.
3. Momentum starts at zero in every run: `train` makes a new optimizer.

Deviations: the paper also rewinds to a step in between and trains for the steps that remain; here a rewinding to step t takes the
learning rates from t on, for the whole of the run that `train` makes. It prunes layers of a network apart or spares some in some of
its experiments; here all share one ranking, and a round's fraction follows from the number of rounds.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from reference_impls.after_training.lottery_ticket import smallest_go
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, Callback, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # masks come from training: not weights_only, not idempotent


class LearningRates(Callback):
    """Sets the learning rate of every step, as a factor of the optimizer's own; each training run begins anew.

    Args:
        factor: step -> factor.
        first: the step that a run begins with: 0 = the whole schedule.
    """

    def __init__(self, factor: Callable[[int], float], first: int = 0) -> None:
        self.factor, self.first = factor, first

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = self.first
        self.own = [group["lr"] for group in optimizer.param_groups]

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for group, own in zip(optimizer.param_groups, self.own, strict=True):
            group["lr"] = own * self.factor(self.step)
        self.step += 1


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 5,
    schedule: Callable[[int], float] | None = None,
    rewind: int = 0,
) -> nn.Module:
    """The network, trained, pruned and retrained in rounds.

    Args:
        model: at its initialization.
        batches: not used; the data is in `train`.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model; called once, and once more per round.
        evaluate: not used.
        rounds: how often to prune and retrain, >= 1.
        schedule: learning rate of each step as a factor of the optimizer's own; by default `train` has a schedule of its own, and
            runs it from the start each time, or the rate is constant.
        rewind: the step of the schedule that a retraining begins with, >= 0.

    Raises:
        ValueError: `amount`, `rounds` or `rewind` out of range, a rewind without a schedule, no `train`, or a model with nothing to prune.
    """
    reached_after = sparsities_in_rounds(sparsity(amount), rounds)
    prunable_weights(model)  # refuses what cannot be pruned before the first training run
    if rewind < 0 or (rewind and schedule is None):
        raise ValueError(f"rewind: step {rewind} is below 0, or there is no schedule that it is a step of")
    first = [] if schedule is None else [LearningRates(schedule)]
    again = [] if schedule is None else [LearningRates(schedule, rewind)]
    network, masks = needed(train)(copy.deepcopy(model), first), None
    for reached in reached_after:
        # m: the smallest of the trained weights go, and the others keep their values
        masks = smallest_go(network, reached, masks)
        network = needed(train)(network, [HoldMasks(masks), *again])
    return network
