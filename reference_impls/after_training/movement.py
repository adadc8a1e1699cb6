"""Movement pruning: while a pretrained network is fine-tuned, keep the weights that move away from zero (sanh2020movement, authors' code).

Idea: large weights of a pretrained network are those that pretraining needed. What the new task needs shows in which way fine-tuning moves
them: a weight that grows in size matters, one that shrinks does not, however large it still is. Every weight gets a score that collects
-dL/dW * W over the steps; the forward pass uses the weights of highest score, and the gradient of the scores goes straight through that
choice, so absent weights are scored too and may come back.

Cost: one score per weight, trained with it; a selection of the highest scores per step.

Implementation details
1. Scores begin at 0, so the first choices come from what the first steps did: nothing is pruned during a warm-up (by default a tenth of the
   run), then the sparsity rises along a cubic curve, and stays for the last fifth, as in the authors' recipe of one and two warm-ups.
2. The gradient of a score is dL/dW' * W, that of a weight dL/dW' where it is in use, 0 elsewhere. Scores have no weight decay, and a
   learning rate of their own (theirs 0.01 beside 3e-5 for the weights, both by Adam).
3. Each layer is ranked on its own (the authors can also rank all together).
4. Soft movement, asked for by a strength: kept is what has sigmoid(S) > tau; tau rises from 0 to 0.1 along the same curve, and in step with
   it the factor of a penalty, the mean of sigmoid(S) per layer, averaged over layers. At least 0.5 % of each layer stays.

Deviations: exactly round(sparsity * n) weights of a layer go, theirs keep int(density * n). Embeddings and, in the authors' BERT, the
pooler and classifier are not pruned; here every linear and convolution layer is. Distillation belongs to the loss of the training.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, Strength, as_amount
from reference_impls.core.masks import Masks, Scores, apply_masks, keep_highest, prunable_weights
from reference_impls.core.schedules import cubic_sparsity
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity, Strength)
NETWORK = "lenet_300_100"
# no fixed_mask, weights may return; no regrows, their number falls along the schedule; no weights_only and no idempotent, data decides
TRAITS = frozenset({"exact_count", "identity_at_zero"})


def above(score: Tensor, threshold: float, least: float = 0.005) -> Tensor:
    """The mask of soft movement pruning.

    Args:
        score: S of a layer.
        threshold: tau in [0, 1).
        least: fraction of the layer that stays even if no score is above.
    """
    # M = 1[sigmoid(S) > tau]
    mask = score.sigmoid() > threshold
    if mask.sum() >= int(least * score.numel()) + 1:
        return mask
    return keep_highest({"": score}, 1 - (int(least * score.numel()) + 1) / score.numel(), "layer")[""]


class Movement(Callback):
    """Between steps the model holds the weights in use; all of them are in place only while the optimizer steps.

    Attributes:
        dense: weight name -> W.
        scores: weight name -> S.
        masks: the weights in use.
    """

    def __init__(self, final: float, begin: int, end: int, learning_rate: float | None) -> None:
        self.final, self.begin, self.end, self.learning_rate = final, begin, end, learning_rate

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = 0
        self.scores = {name: nn.Parameter(torch.zeros_like(weight)) for name, weight in prunable_weights(model).items()}
        own = {} if self.learning_rate is None else {"lr": self.learning_rate}
        optimizer.add_param_group({"params": list(self.scores.values()), "weight_decay": 0.0, **own})
        self._show(model)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            by_shown = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.data.copy_(self.dense[name])
            # dL/dS = dL/dW' * W
            by_score = by_shown * self.dense[name]
            self.scores[name].grad = by_score if self.scores[name].grad is None else self.scores[name].grad + by_score
            # dL/dW = dL/dW' * M
            weight.grad = by_shown * self.masks[name]

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        self._show(model)

    def _show(self, model: nn.Module) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.masks = self.choose({name: score.detach() for name, score in self.scores.items()})
        # W' = W * M
        apply_masks(model, self.masks)

    def choose(self, scores: Scores) -> Masks:
        """Which weights are used now: the highest scores of each layer."""
        # M = Top_v(S)
        return keep_highest(scores, cubic_sparsity(self.step, self.begin, self.end, self.final), "layer")


class SoftMovement(Movement):
    """As `Movement`, with a threshold instead of a number. Takes tau as `final`, and lambda as `strength`."""

    def __init__(self, strength: float, threshold: float, begin: int, end: int, learning_rate: float | None) -> None:
        super().__init__(threshold, begin, end, learning_rate)
        self.strength = strength

    def penalty(self, model: nn.Module) -> Tensor | float:
        # lambda_t R(S), R(S) = the mean of sigmoid(S), lambda_t / lambda = tau_t / tau
        risen = cubic_sparsity(self.step, self.begin, self.end, 1.0)
        return self.strength * risen * sum(score.sigmoid().mean() for score in self.scores.values()) / len(self.scores)

    def choose(self, scores: Scores) -> Masks:
        """Which weights are used now: those above the threshold."""
        return {name: above(score, cubic_sparsity(self.step, self.begin, self.end, self.final)) for name, score in scores.items()}


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    warmup: int | None = None,
    cooldown: int | None = None,
    threshold: float = 0.1,
    learning_rate: float | None = None,
) -> list[Callback]:
    """Prune while fine-tuning.

    Args:
        model: pretrained, perhaps on another task.
        amount: the fraction of each layer's weights to prune in the end, or `Strength(lambda)` for soft movement.
        steps: optimizer steps of the whole run, >= 1.
        warmup: steps before pruning begins, >= 0; by default a tenth of the run.
        cooldown: steps at the final sparsity, >= 0; by default a fifth of the run.
        threshold: the final tau of soft movement, in [0, 1).
        learning_rate: of the scores; by default the optimizer's own.

    Raises:
        ValueError: an argument is outside its range, or no step is left for the schedule.
    """
    asked = as_amount(amount, Sparsity, Strength)
    prunable_weights(model)
    begin = steps // 10 if warmup is None else warmup
    end = steps - (steps // 5 if cooldown is None else cooldown)
    if not 0 <= begin < end <= steps:
        raise ValueError(f"steps: {begin} of warm-up and {steps - end} at the end leave none of {steps} to prune in")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: {threshold} is not in [0, 1)")
    if isinstance(asked, Sparsity):
        return [Movement(asked.fraction, begin, end, learning_rate)]
    return [SoftMovement(asked.factor, threshold, begin, end, learning_rate)]
