"""PLATON: keep weights by an upper confidence bound of their noisy importance (zhang2022platon, authors' code).

Idea: the importance of a weight, how much the loss would change without it, is read from one batch at a time and so it is noisy, above
all while the network still trains. A weight whose importance is low but varies much is not known well enough to go. So two averages are
kept for each weight: the importance, smoothed over steps, and the uncertainty, how far each new value lies from that average. Weights
with a high product of both stay. Those with a low one are set to zero, but go on learning, and may return.

Cost: two numbers per weight and elementwise operations per step; one selection of the highest scores per pruning.

Implementation details (of the authors' code)
1. Importance is |w dL/dw|, with the gradient of the step just taken and the weight after it. Within a window of `window` steps it is
   averaged plainly; the exponential averages take in a window's mean when the next begins, so they lag one window behind.
2. The deviation |I - Ibar| is from the average that has already taken in I.
3. All weights share one ranking. After a warm-up the sparsity rises along a cubic curve, a step every `window` steps; once the curve
   has ended, the network is pruned after every step. Their recipes for BERT: warm-up about a tenth, final sparsity the second half.
4. Nothing is held at zero between prunings: a weight set to zero has importance 0 until the optimizer moves it.

Deviations: exactly round(sparsity * n) weights go, where the authors zero what lies below the k-th score. They prune the attention and
dense layers of transformers; here every linear and convolution layer. Before a window is full all scores are 0: the warm-up is at least
that long here.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.schedules import cubic_sparsity
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
QUICK = {"window": 1}  # the tests of all methods train for a few steps only
# no fixed_mask, weights may return; no regrows, their number falls along the schedule; no weights_only and no idempotent, data decides
TRAITS = frozenset({"exact_count", "identity_at_zero"})


class Confidence:
    """Importance and uncertainty of one layer's weights, step by step.

    Attributes:
        window_mean: I of the window that runs, the mean of |w dL/dw| so far.
        importance: Ibar.
        uncertainty: Ubar.
    """

    def __init__(self, weight: Tensor, window: int, beta_1: float, beta_2: float) -> None:
        self.window, self.beta_1, self.beta_2, self.step = window, beta_1, beta_2, 0
        self.window_mean, self.importance, self.uncertainty = (torch.zeros_like(weight) for _ in range(3))

    def see(self, weight: Tensor, gradient: Tensor) -> None:
        """Takes in one step.

        Args:
            weight, gradient: of the layer, any shape.
        """
        # I = |w dL/dw|
        value = (weight * gradient).abs()
        place = self.step % self.window
        if place == 0:
            # Ibar <- beta_1 Ibar + (1 - beta_1) I
            self.importance = self.beta_1 * self.importance + (1 - self.beta_1) * self.window_mean
            # U = |I - Ibar|;  Ubar <- beta_2 Ubar + (1 - beta_2) U
            self.uncertainty = self.beta_2 * self.uncertainty + (1 - self.beta_2) * (self.window_mean - self.importance).abs()
        # the mean over the window: its first value replaces what the last window has left
        self.window_mean = (place * self.window_mean + value) / (place + 1)
        self.step += 1

    def score(self) -> Tensor:
        """S = Ibar * Ubar, what a weight is kept by."""
        return self.importance * self.uncertainty


class PLATON(Callback):
    """Prunes after optimizer steps, and holds nothing at zero in between.

    Attributes:
        confidence: weight name -> its averages.
        masks: what the last pruning kept.
    """

    def __init__(self, final: float, begin: int, end: int, window: int, beta_1: float, beta_2: float) -> None:
        self.final, self.begin, self.end = final, begin, end
        self.window, self.beta_1, self.beta_2 = window, beta_1, beta_2

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = 0
        weights = prunable_weights(model)
        self.confidence = {name: Confidence(weight.detach(), self.window, self.beta_1, self.beta_2) for name, weight in weights.items()}
        self.masks: Masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            self.confidence[name].see(weight.detach(), gradient)
        if self.step >= self.end or (self.step > self.begin and self.step % self.window == 0):
            scores = {name: confidence.score() for name, confidence in self.confidence.items()}
            self.masks = keep_highest(scores, cubic_sparsity(self.step, self.begin, self.end, self.final))
            apply_masks(model, self.masks)
        self.step += 1


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    window: int = 10,
    beta_1: float = 0.85,
    beta_2: float = 0.95,
    warmup: int | None = None,
    cooldown: int | None = None,
) -> list[Callback]:
    """Prune while fine-tuning.

    Args:
        model: pretrained.
        amount: the fraction of all weights to prune in the end, in [0, 1).
        steps: optimizer steps of the whole run.
        window: steps that are averaged plainly, and between prunings; >= 1.
        beta_1: of the importance, in [0, 1).
        beta_2: of the uncertainty, in [0, 1).
        warmup: steps before pruning begins, at least `window`; by default a tenth of the run.
        cooldown: steps at the final sparsity, >= 1; by default half the run.

    Raises:
        ValueError: an argument is outside its range, or no step is left for the schedule.
    """
    final = sparsity(amount)
    prunable_weights(model)
    for name, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0 <= beta < 1:
            raise ValueError(f"{name}: {beta} is not in [0, 1)")
    if window < 1:
        raise ValueError(f"window: {window} steps is below 1")
    begin = max(steps // 10, window) if warmup is None else warmup
    end = steps - (max(steps // 2, 1) if cooldown is None else cooldown)
    if not window <= begin < end < steps:
        raise ValueError(f"steps: a warm-up of {begin} (at least {window}) and {steps - end} at the end leave none of {steps} to prune in")
    return [PLATON(final, begin, end, window, beta_1, beta_2)]
