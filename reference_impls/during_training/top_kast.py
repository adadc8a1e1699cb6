"""Top-KAST: use the largest weights forward, train a few more backward, so that both passes are always sparse (jayakumar2020top).

Idea: the forward pass sees only the largest fraction D of each layer's weights, the set A. The backward pass updates a larger set B,
the largest D + M. Weights in B but not in A are not used, yet they learn, and those that learn to matter overtake the smallest in A:
the mask changes by itself, with no dense gradient anywhere. A penalty keeps A from staying ahead for being ahead: it pulls all
of B down, and the unused part of it more strongly, so that only what the loss really wants crosses over.

Cost: forward of density D and backward of density D + M, and a selection of the largest weights per step. (Dense tensors, as here, show
the method and save nothing.)

Implementation details
1. A weight outside A keeps its value while it is not used; outside B it does not change, whatever the optimizer remembers.
2. The gradient is that of the masked network, taken for all of B, the unused weights included.
3. The penalty is an l2 regularization: of strength 1 on A, 1 / D on B without A, none on the rest.
4. By default the backward density is twice the forward one, as in the paper's settings of 90 and 80, and of 95 and 90 % sparsity.

Deviations: A and B are chosen anew after every step; the paper finds that every hundred steps is enough. The paper counts the last
layer in or out per experiment; here every prunable layer takes part. No official code is known.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no identity_at_zero: the penalty acts on a dense network too
TRAITS = frozenset({"exact_count", "regrows"})


def largest(weights: dict[str, Tensor], density: float) -> Masks:
    """TopK: the largest fraction of each layer's weights, by magnitude."""
    return keep_highest({name: weight.abs() for name, weight in weights.items()}, 1 - density, "layer")


def exploration_loss(weight: Tensor, forward: Tensor, backward: Tensor, density: float) -> Tensor:
    """The penalty of one layer's weights: half their squares, those updated but not used divided by the density.

    Args:
        weight: theta, of any shape.
        forward: A, shaped as the weight.
        backward: B, which holds A; shaped as the weight.
        density: D, in (0, 1].
    """
    # |theta_i|^2 / 2 if i in A;  |theta_i|^2 / (2 D) if i in B \ A;  0 else
    return (weight.square() / 2)[forward].sum() + (weight.square() / 2)[backward & ~forward].sum() / density


class TopKAST(Callback):
    """Between steps the model holds the sparse weights; all of them are in place only while the optimizer steps.

    Attributes:
        masks: A, what the forward pass uses.
        updated: B, what the optimizer may change.
    """

    def __init__(self, density: float, backward_density: float, strength: float) -> None:
        self.density, self.backward_density, self.strength = density, backward_density, strength

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.theta = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self._select(model)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            weight.data.copy_(self.theta[name])
            theta = self.theta[name].requires_grad_()
            loss = exploration_loss(theta, self.masks[name], self.updated[name], self.density)
            pull = torch.autograd.grad(loss, theta)[0]
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = (gradient + self.strength * pull).masked_fill(~self.updated[name], 0)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            # theta_i <- theta_i - eta grad_i if i in B, else theta_i
            self.theta[name] = torch.where(self.updated[name], weight.detach(), self.theta[name].detach())
        self._select(model)

    def _select(self, model: nn.Module) -> None:
        self.masks = largest(self.theta, self.density)
        self.updated = largest(self.theta, self.backward_density)
        with torch.no_grad():
            for name, weight in prunable_weights(model).items():
                weight.copy_(self.theta[name])
        # alpha_i = theta_i if i in A, else 0
        apply_masks(model, self.masks)


def callbacks(
    model: nn.Module, amount: Amount, *, steps: int = 0, backward_density: float | None = None, strength: float = 1e-4
) -> list[Callback]:
    """Train with sparse forward and backward passes.

    Args:
        model: what will be trained.
        amount: the fraction of each layer's weights that the forward pass leaves out, 1 - D, in [0, 1).
        steps: not used.
        backward_density: D + M, in [D, 1]; by default 2 D, at most 1.
        strength: factor of the exploration loss, >= 0.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    prunable_weights(model)
    backward_density = min(1.0, 2 * density) if backward_density is None else backward_density
    if not density <= backward_density <= 1:
        raise ValueError(f"backward_density: {backward_density} is not in [{density}, 1]")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength: {strength} is not a finite number >= 0")
    return [TopKAST(density, backward_density, strength)]
