"""edge-popup: find a good network inside a random one by training scores, never the weights (ramanujan2020hidden).

Idea: a network of random weights is wide enough to hold a part that does the task already. Every weight gets a score; the forward
pass uses, in each layer, the weights of highest score; the backward pass treats that choice as if it were not there, so that also the
scores of absent edges move, and an edge pops up when its score overtakes another's.

Cost: that of training the dense network, with scores instead of weights; the result needs no training.

Implementation details
1. The choice is by |s|, in each layer on its own; the gradient goes straight through it: ds = sign(s) * w * dL/d(w ⊙ h(s)).
2. Weights are fixed at plus or minus the standard deviation of Kaiming's normal distribution, by the sign that they have (one of the
   initializations in the authors' code, signed constants); with `signed_constants=False` they stay as they come.
3. With `scaled` that deviation is taken for the inputs that stay, kept fraction * fan-in, so that signals keep their size.
4. Scores start as PyTorch's linear layers do: uniform within plus or minus 1 / sqrt(fan-in).
5. Nothing else is trained: biases and norms stay at their initial values, only running statistics follow the data.

Deviations: the authors' networks have no biases and norms without gain, here those that are there stay. Their code scales the fan
by one minus the rate that it keeps elsewhere (no difference at one half). Training is by the optimizer given, theirs decays the rate
along a cosine. Exactly round(sparsity * n) of each layer's n edges are absent.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# identity_at_zero does not hold, as weights are fixed while others would train them; fixed_mask neither, edges come and go until the end
TRAITS = frozenset({"exact_count", "regrows"})


def score_gradient(score: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The straight-through gradient of the scores.

    Args:
        score: of every edge.
        weight: the fixed weights, shaped as the scores.
        gradient: of the loss by the weights in use, absent ones (0) included.
    """
    # dL/ds_uv = dL/dI_v * w_uv Z_u, with sign(s_uv) for the choice by |s|
    return score.sign() * weight * gradient


def signed_constant(weight: Tensor, density: float = 1.0) -> Tensor:
    """The weights' signs times sqrt(2 / (density * fan-in)).

    Args:
        weight: (out, in, *kernel).
        density: the fraction of the inputs that stays, in (0, 1].
    """
    return weight.sign() * math.sqrt(2 / (density * weight[0].numel()))


class EdgePopup(Callback):
    """Trains scores by the optimizer, and shows the network the weights of highest score.

    Attributes:
        masks: the edges that are present now.
        scores: weight name -> trained score.
    """

    def __init__(self, fraction: float, signed_constants: bool, scaled: bool, generator: torch.Generator | None) -> None:
        self.fraction, self.signed_constants, self.scaled, self.generator = fraction, signed_constants, scaled, generator

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.weights, self.scores = {}, {}
        for name, weight in prunable_weights(model).items():
            fixed = weight.detach().clone()
            self.weights[name] = signed_constant(fixed, 1 - self.fraction if self.scaled else 1.0) if self.signed_constants else fixed
            score = torch.empty(weight.shape, dtype=weight.dtype)
            nn.init.kaiming_uniform_(score, a=math.sqrt(5), generator=self.generator)
            self.scores[name] = nn.Parameter(score.to(weight.device))
        optimizer.add_param_group({"params": list(self.scores.values())})
        self._show(model)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, score in self.scores.items():
            gradient = model.get_parameter(name).grad
            score.grad = None if gradient is None else score_gradient(score.detach(), self.weights[name], gradient)
        for parameter in model.parameters():
            parameter.grad = None  # an optimizer leaves alone what has no gradient

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._show(model)

    @torch.no_grad()
    def _show(self, model: nn.Module) -> None:
        # h(s) = 1 for the highest |s| of the layer
        self.masks = keep_highest({name: score.detach().abs() for name, score in self.scores.items()}, self.fraction, "layer")
        for name, weight in self.weights.items():
            model.get_parameter(name).copy_(weight)
        apply_masks(model, self.masks)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    signed_constants: bool = True,
    scaled: bool = False,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """What turns training into the search for a subnetwork.

    Args:
        model: with random weights.
        amount: the fraction of each layer's weights to leave out, in [0, 1).
        steps: not used.
        signed_constants: fix the weights at plus or minus one constant per layer.
        scaled: choose that constant for the inputs that stay.
        generator: draws the scores; without it PyTorch's global random state.

    Raises:
        ValueError: the amount is no sparsity, a weight is NaN or infinite, or there is nothing to prune.
    """
    asked = sparsity(amount)
    prunable_weights(model)
    return [EdgePopup(asked, signed_constants, scaled, generator)]
