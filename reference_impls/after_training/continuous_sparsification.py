"""Continuous Sparsification: a ticket by gradient descent, through masks that harden as they train (savarese2020winning, authors' code).

Idea: counting the weights that stay, the l0 penalty, has no gradient. Give every weight a soft mask sigmoid(beta s) with an s of its own;
train weights and s together under a penalty on the masks' sum, and raise the temperature beta as training goes on. The soft masks then
turn into a step, and s > 0 is the ticket: found by one smooth optimization, with no ranking and no number of weights asked for. The weights
go back to an early iterate and the ticket is trained.

Cost: a number per weight beside it, and one training run per round and one for the ticket.

Implementation details (of the authors' code)
1. Masks are divided by sigmoid(s_0), so that at the start, where s = s_0 everywhere, the network is as it was. The penalty is the sum of
   these scaled masks, and the ticket's weights keep the scale: that of a kept weight is 1 / sigmoid(s_0).
2. beta is 1 in the first epoch of a round, and is multiplied by final^(1 / (epochs - 1)) before each other one.
3. After a round that is not the last, s <- min(beta s, s_0): what was suppressed stays so, the rest starts again; the weights go on.
4. Weights, biases, norms and buffers go back to where they were before epoch `rewind` of the first round; s has no weight decay.

Deviations: the authors keep one optimizer for all rounds and the ticket; here every run of `train` makes its own. They mask convolutions
only, the last layer stays dense; here every linear and convolution layer is masked.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Batches, Callback, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "lenet_300_100"
QUICK = {"epochs": 2}
# the penalty asks for no number: no exact_count; the ticket is trained from its rewound weights: no identity_at_zero, no idempotent
TRAITS = frozenset({"fixed_mask"})


def scaled_mask(score: Tensor, temperature: float, initial: float) -> Tensor:
    """The mask of a weight, 1 for all at the start.

    Args:
        score: s, of any shape.
        temperature: beta >= 1; infinite for the ticket.
        initial: s_0.
    """
    scale = 1 + math.exp(-initial)
    if temperature == math.inf:
        # m = 1[s > 0] / sigmoid(s_0)
        return (score > 0) * scale
    # m = sigmoid(beta s) / sigmoid(s_0)
    return (temperature * score).sigmoid() * scale


def temperature_of(epoch: int, epochs: int, final: float) -> float:
    """beta of an epoch (from 0) of a run of `epochs`: from 1 to `final`, each the same multiple of the one before."""
    # beta_t = beta_final^(t / (T - 1))
    return float(final ** (min(epoch, epochs - 1) / max(epochs - 1, 1)))


class SoftMasks(Callback):
    """Between steps the model holds the masked weights; the weights are in place only while the optimizer steps.

    Attributes:
        dense: weight name -> w.
        scores: weight name -> s.
        early: the state of the model, unmasked, before epoch `rewind`; None until then.
    """

    def __init__(
        self,
        strength: float,
        initial: float,
        temperature_in: Callable[[int], float],
        rewind: int | None = None,
        scores: dict[str, Tensor] | None = None,
    ) -> None:
        self.strength, self.initial, self.temperature_in, self.rewind, self.begun = strength, initial, temperature_in, rewind, scores
        self.early: dict[str, Tensor] | None = None

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        weights = prunable_weights(model)
        begun = self.begun or {name: torch.full_like(weight, self.initial) for name, weight in weights.items()}
        self.scores = {name: nn.Parameter(score.detach().clone()) for name, score in begun.items()}
        optimizer.add_param_group({"params": list(self.scores.values()), "weight_decay": 0.0})
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self._begin(model, 0)

    def penalty(self, model: nn.Module) -> Tensor | float:
        # lambda ||m||_1
        return self.strength * sum(scaled_mask(score, self.temperature, self.initial).sum() for score in self.scores.values())

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            by_shown = torch.zeros_like(weight) if weight.grad is None else weight.grad
            with torch.enable_grad():
                mask = scaled_mask(self.scores[name], self.temperature, self.initial)
            # w' = w m(s):  dL/dw = dL/dw' m,  dL/ds = dL/dw' w dm/ds + lambda dm/ds
            weight.grad = by_shown * mask.detach()
            if mask.requires_grad:
                mask.backward(by_shown * self.dense[name])
        put(model, self.dense)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self._show(model)

    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        self._begin(model, epoch + 1)

    def _begin(self, model: nn.Module, epoch: int) -> None:
        self.temperature = self.temperature_in(epoch)
        if epoch == self.rewind:
            put(model, self.dense)
            self.early = copy.deepcopy(model.state_dict())
        self._show(model)

    @torch.no_grad()
    def _show(self, model: nn.Module) -> None:
        put(model, {name: w * scaled_mask(self.scores[name], self.temperature, self.initial) for name, w in self.dense.items()})


@torch.no_grad()
def put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give the model these weights, by parameter name."""
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    epochs: int = 85,
    rounds: int = 1,
    rewind: int = 0,
    initial: float = 0.0,
    final: float = 200.0,
) -> nn.Module:
    """The ticket, rewound and trained.

    Args:
        model: at its initialization.
        batches: not used; the data is in `train`.
        amount: `Strength(lambda)`, the factor of the sum of all masks.
        train: (model, callbacks) -> model; called once per round and once for the ticket, with an optimizer of its own each time.
        evaluate: not used.
        epochs: how many `train` makes; beta reaches `final` in the last. The default is that of the authors' README.
        rounds: searches, each from the s of the one before, >= 1.
        rewind: the epoch of the first round before which the ticket's weights are taken, in [0, epochs]; 0 = initialization.
        initial: s_0; below zero leads to fewer weights.
        final: beta of the last epoch, >= 1.

    Raises:
        ValueError: an argument is outside its range, no `train`, or there is nothing to prune.
    """
    strength = as_amount(amount, Strength).factor
    for name, value, low in (("epochs", epochs, 1), ("rounds", rounds, 1), ("rewind", rewind, 0), ("final", final, 1)):
        if not low <= value < math.inf:
            raise ValueError(f"{name}: {value} is not a finite number >= {low}")
    if rewind > epochs:
        raise ValueError(f"rewind: epoch {rewind} is not among {epochs}")
    prunable_weights(model)
    network, begun, early = copy.deepcopy(model), None, None
    for _ in range(rounds):
        search = SoftMasks(strength, initial, partial(temperature_of, epochs=epochs, final=final), rewind, begun)
        network = needed(train)(network, [search])
        put(network, search.dense)  # the weights go on
        early = early or search.early
        # s <- min(beta s, s_0)
        begun = {name: (search.temperature * score).clamp(max=initial) for name, score in search.scores.items()}
    if early is None:
        raise ValueError(f"rewind: train made fewer epochs than {rewind}")
    network.load_state_dict(early)
    return needed(train)(network, [SoftMasks(0.0, initial, lambda epoch: math.inf, scores=search.scores)])
