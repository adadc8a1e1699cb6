"""STR: weights pass through a soft threshold, and each layer's threshold is trained with them (kusupati2020soft, authors' code).

Idea: what share of the weights each layer should lose is usually fixed by a rule. Here the network sees S(W, s), the weights drawn towards
zero by a threshold sigmoid(s) and cut there. The operator is differentiable almost everywhere, so s gets a gradient like any
parameter: the loss pulls it down where a layer needs its weights, weight decay pulls it towards zero, which raises the threshold.
Sparsity grows during training by itself, and each layer finds its own share.

Cost: one scalar per layer, and one elementwise operation per weight and step; no sort.

Implementation details (of the authors' code)
1. One s for each layer; g is the sigmoid. s begins far below zero (-3200 for their ResNet50 of 90 % sparsity), where sigmoid(s) = 0 and
   its gradient too: for a long time decay alone moves it. A short run needs a start near zero, as the default here.
2. Weights and s decay alike unless told otherwise. This factor and the start of s together set the sparsity; neither asks for a number.
3. A weight below the threshold gets no gradient, only decay; it returns when the threshold falls below it.
4. The kept weights are shrunk by the threshold too, and the network that is deployed holds these shrunk values.

Deviations: every linear and convolution layer has a threshold, where the authors take the convolutions and can leave the first and
last dense. The decay is added to the gradients of weights and thresholds here, and biases and norms have none; give the optimizer none
of its own. Low-rank recurrent networks, the paper's second use, are left out.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Strength,)
NETWORK = "lenet_300_100"
# no exact_count, the decay asks for no number; no fixed_mask, weights may return; no identity_at_zero, the threshold changes training
TRAITS = frozenset[str]()


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """What the network sees of a layer's weights.

    Args:
        weight: W, of any shape.
        threshold: s, a scalar; the weights are cut at sigmoid(s), in (0, 1).
    """
    # S_g(W, s) = sign(W) ReLU(|W| - g(s)), g = sigmoid
    return weight.sign() * (weight.abs() - threshold.sigmoid()).relu()


class SoftThreshold(Callback):
    """Between steps the model holds S(W, s); W is in place only while the optimizer steps.

    Attributes:
        dense: weight name -> W.
        thresholds: weight name -> s.
        masks: what is not zero now.
    """

    def __init__(self, decay: float, initial: float) -> None:
        self.decay, self.initial = decay, initial

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        weights = prunable_weights(model)
        self.thresholds = {name: nn.Parameter(weight.new_full((), self.initial)) for name, weight in weights.items()}
        optimizer.add_param_group({"params": list(self.thresholds.values())})
        self._show(model)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            dense, threshold = self.dense[name].requires_grad_(), self.thresholds[name]
            by_weight, by_threshold = torch.autograd.grad(
                soft_threshold(dense, threshold), (dense, threshold), torch.zeros_like(weight) if weight.grad is None else weight.grad
            )
            weight.data.copy_(dense.detach())
            # dL/dW = dL/dS * 1[S != 0] + lambda W;  dL/ds = -g'(s) sum dL/dS * sign(W) 1[S != 0] + lambda s
            weight.grad = by_weight + self.decay * weight.detach()
            threshold.grad = by_threshold + self.decay * threshold.detach()

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._show(model)

    @torch.no_grad()
    def _show(self, model: nn.Module) -> None:
        weights = prunable_weights(model)
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(soft_threshold(self.dense[name], self.thresholds[name]))
        self.masks: Masks = {name: weight != 0 for name, weight in weights.items()}


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, initial: float = -6.0) -> list[Callback]:
    """Train with learned thresholds; the network that comes out holds the thresholded weights.

    Args:
        model: what will be trained.
        amount: `Strength(lambda)`, the decay of weights and thresholds. More of it, more sparsity.
        steps: not used.
        initial: s of every layer at the start; sigmoid(-6) is 0.0025.

    Raises:
        ValueError: the amount is no strength, `initial` is not finite, or there is nothing to prune.
    """
    decay = as_amount(amount, Strength).factor
    if not math.isfinite(initial):
        raise ValueError(f"initial: {initial} is not finite")
    prunable_weights(model)
    return [SoftThreshold(decay, initial)]
