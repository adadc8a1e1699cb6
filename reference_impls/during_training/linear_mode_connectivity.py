"""Linear mode connectivity: rewind a pruned network not to its start but to step k, when training has become stable (frankle2020linear).

Idea: train two copies of a network from the same weights with different orders of the data, and walk in a straight line from one
result to the other. If the error does not rise on the way, the outcome was decided already: the network is stable to the noise of
stochastic gradient descent. Large networks are not stable at the start, but soon after; and a pruned network trains to full
accuracy only from a step at which it is stable. So tickets are rewound to step k, not to step 0.

Cost: one training run per round and one for the ticket, as iterative magnitude pruning. Instability analysis: two training runs, and one
evaluation for each point on the line.

Implementation details
1. The error barrier is the highest error on the line minus the mean error of its ends; thirty points, the ends among them. A network
   counts as stable below 2 %.
2. Every round prunes the same fraction of what is left, by magnitude over the whole network, and rewinds weights, biases and norms to
   step k. With k = 0 this is the lottery ticket procedure.
3. Floating-point buffers (running statistics) are interpolated like the weights.

Deviations: after a rewinding the paper trains for the T - k steps that remain, with the learning rates of those steps; here `train`
makes its whole run. (The paper finds instability the same either way.)
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from reference_impls.after_training.lottery_ticket import smallest_go
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, prunable_weights
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, Callback, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # masks come from training: not weights_only, not idempotent
QUICK = {"rounds": 2, "rewind": 0}  # the shortest runs have no later step to rewind to


@torch.no_grad()
def interpolated(first: nn.Module, second: nn.Module, alpha: float) -> nn.Module:
    """The network on the line between two: alpha of the first and 1 - alpha of the second."""
    between, other = copy.deepcopy(first), second.state_dict()
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            # alpha W_1 + (1 - alpha) W_2
            value.copy_(alpha * value + (1 - alpha) * other[name])
    return between


def error_barrier(first: nn.Module, second: nn.Module, error: Callable[[nn.Module], float], points: int = 30) -> float:
    """By how much the error rises on the line between two networks.

    Args:
        error: of a network, in [0, 1].
        points: evenly spaced, the two ends among them, >= 3.

    Raises:
        ValueError: fewer than three points: none would lie between.
    """
    if points < 3:
        raise ValueError(f"points: {points} have none between the ends; three are needed")
    errors = [error(interpolated(first, second, step / (points - 1))) for step in range(points)]
    # sup_alpha E(alpha W_1 + (1 - alpha) W_2) - mean(E(W_1), E(W_2))
    return max(errors) - (errors[0] + errors[-1]) / 2


def instability(model: nn.Module, first: Train, second: Train, error: Callable[[nn.Module], float], points: int = 30) -> float:
    """The error barrier between two copies of a network, trained by two runs that differ in their noise only.

    Args:
        model: at step k.
        first, second: (model) -> model; with different orders of the data.
        error, points: as `error_barrier`.
    """
    return error_barrier(first(copy.deepcopy(model)), second(copy.deepcopy(model)), error, points)


class Snapshot(Callback):
    """Keeps a copy of the network as it is after `step` steps, >= 1."""

    def __init__(self, step: int) -> None:
        self.step, self.done, self.model = step, 0, None

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.done += 1
        if self.done == self.step:
            self.model = copy.deepcopy(model)


def matching_subnetwork(model: nn.Module, amount: Amount, train: Train, rewind: int, rounds: int) -> tuple[nn.Module, Masks]:
    """The sparse network at step `rewind`, not trained from there yet, and its masks. Arguments and errors as `prune`."""
    reached_after = sparsities_in_rounds(sparsity(amount), rounds)
    prunable_weights(model)  # refuses what cannot be pruned before the first training run
    if rewind < 0:
        raise ValueError(f"rewind: step {rewind} is below 0")
    # W_0 -> W_k -> W_T
    snapshot = Snapshot(rewind)
    trained = train(copy.deepcopy(model), [snapshot])
    at_k = copy.deepcopy(model) if rewind == 0 else snapshot.model
    if at_k is None:
        raise ValueError(f"rewind: step {rewind} lies behind the {snapshot.done} steps of a training run")
    subnetwork, masks = at_k, None
    for reached in reached_after:
        if masks is not None:
            # m W_k -> m W_T
            trained = train(subnetwork, [HoldMasks(masks)])
        # m: the smallest of W_T go
        masks = smallest_go(trained, reached, masks)
        # m W_k
        subnetwork = copy.deepcopy(at_k)
        apply_masks(subnetwork, masks)
    return subnetwork, masks


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rewind: int = 100,
    rounds: int = 5,
) -> nn.Module:
    """The subnetwork found by magnitude pruning with rewinding to step k, trained.

    Args:
        model: at its initialization.
        batches: not used; the data is in `train`.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model; called once per round and once at the end.
        evaluate: not used.
        rewind: step k that weights are set back to, >= 0 and at most the steps of a run; 0 = the initialization.
        rounds: how often to train, prune and rewind, >= 1.

    Raises:
        ValueError: `amount`, `rewind` or `rounds` out of range, no `train`, or a model with nothing to prune.
    """
    subnetwork, masks = matching_subnetwork(model, amount, needed(train), rewind, rounds)
    return needed(train)(subnetwork, [HoldMasks(masks)])
