"""GSM: only the weights that matter most for this batch get its gradient, all others merely decay, until most are zero (ding2019global).

Idea: pruning asks which weights to delete and then repairs the damage. Here nothing is deleted: at every step the weights of the whole
network are ranked by what the loss would lose without them, to first order. The few at the top are updated as usual; the rest gets no
gradient, only weight decay. As long as momentum carries the memory of many batches, a weight that is often at the top stays, one that
rarely is fades to almost zero, and cutting it in the end changes nothing. No rate per layer, and no retraining.

Cost: one product per weight and a selection of the largest over the network, per step; training as long as fading takes.

Implementation details
1. T = |w * dL/dw|, the first-order estimate of the change of the loss; Q weights are active, of all layers together.
2. Only the loss's gradient is masked. Weight decay goes on for all weights and passes through momentum like it, as in the authors' code.
3. The decay is added here, after masking; give an optimizer without one. Momentum is high, 0.98 in the authors' code, so that what is
   active rarely still collects what it gets; they start from a trained network, at a small rate, for hundreds of epochs.
4. In the end the weights of smallest magnitude go, as many as were passive; by then they are next to zero.
5. Ranking reads the weights of linear and convolution layers. Biases and normalizations are always trained, without decay here.

Deviations: exactly round(sparsity * n) weights are passive, ties by position, where the authors' code lets all that reach the threshold be
active. The decay of the authors' code also covers biases and normalizations.
"""

import math

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no identity_at_zero: weights decay even if all are active; no fixed_mask: what is passive now may be active in the next step
TRAITS = frozenset({"exact_count"})


def active(model: nn.Module, fraction: float) -> Masks:
    """B: the weights that get their gradient, all but the given fraction of the network's; reads `grad`, none counts as 0."""
    # T(w) = |dL/dw * w|
    scores = {n: (w.detach() * (torch.zeros_like(w) if w.grad is None else w.grad)).abs() for n, w in prunable_weights(model).items()}
    return keep_highest(scores, fraction)


class SparseMomentum(Callback):
    """Masks the loss's gradient at each step, adds the decay, and cuts in the end what has faded."""

    def __init__(self, fraction: float, decay: float) -> None:
        self.fraction = fraction
        self.decay = decay

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        masks = active(model, self.fraction)
        for name, weight in prunable_weights(model).items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            # Z <- beta Z + eta W + B o dL/dW;  W <- W - alpha Z
            weight.grad = self.decay * weight.detach() + masks[name] * gradient

    def finish(self, model: nn.Module) -> nn.Module:
        apply_masks(model, keep_highest({name: weight.detach().abs() for name, weight in prunable_weights(model).items()}, self.fraction))
        return model


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, decay: float = 1e-4) -> list[Callback]:
    """Train a trained network further with these; what comes out is sparse.

    Args:
        model: what will be trained.
        amount: the fraction of the network's weights that is passive at each step and zero in the end.
        steps: not used.
        decay: eta, the factor of weight decay, > 0. With learning rate alpha and momentum beta a passive weight fades by about
            alpha * eta / (1 - beta) of itself per step: few steps need far more than the default, the authors' for CIFAR-10.

    Raises:
        ValueError: an argument is out of its range, or a weight is NaN or infinite.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    if not 0 < decay < math.inf:
        raise ValueError(f"decay: {decay} is not a finite number above 0")
    return [SparseMomentum(fraction, decay)]
