"""SR-STE: train an N:M sparse network from scratch, its dense weights seen through a mask (zhou2021learning).

Idea: dense weights are kept, and every forward pass sees only the n largest of each m consecutive ones. The gradient
of the sparse weights goes straight through the mask to all dense ones, so a pruned weight can grow and return. Alone
this makes masks flip to and fro; a decay on the pruned weights only ("sparse-refined") makes a decision stick.

Cost: that of dense training, plus a choice of n of m per group in every step; the network trained is n:m sparse throughout.

Implementation details
1. n is the number KEPT of m, as in the official code; convolutions are grouped along their input channels.
2. λ is 2e-4, as in the official code; it is added to the gradient, so it passes through momentum like weight decay.
3. Between two steps the model holds its sparse weights: whatever looks at it sees what it would compute. The dense
   ones come back for the optimizer's step.
4. Of equal magnitudes the one that comes first is pruned, in the official code whichever its sort puts first.

Deviations: every linear and convolution layer is sparse, where the official networks leave some dense; a layer whose
inputs do not divide by m is refused, not skipped (freeze it to leave it out).
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, as_amount
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "row"  # m consecutive weights of a row
AMOUNTS = (NM,)
NETWORK = "lenet_300_100"
# no fixed_mask: pruned weights may return
TRAITS = frozenset({"exact_count", "regrows"})


def n_m_masks(model: nn.Module, amount: Amount) -> Masks:
    """The n largest |w| of each m.

    Raises:
        ValueError: the amount is no N:M pattern, or a layer's inputs do not divide by m.
    """
    pattern = as_amount(amount, NM)
    return keep_highest({name: weight.detach().abs() for name, weight in prunable_weights(model).items()}, pattern)


def refined_gradient(gradient: Tensor, dense: Tensor, mask: Tensor, decay: float) -> Tensor:
    """The gradient that the dense weights get.

    Args:
        gradient: of the loss by the sparse weights, all of them.
        dense: the dense weights; shaped as the gradient.
        mask: True = kept; shaped as the gradient.
        decay: λ >= 0; 0 is the plain straight-through estimator.
    """
    # g(W̃) + λ_W ((1 - E) ⊙ W)
    return gradient + decay * (~mask * dense)


def divergence(before: Masks, after: Masks) -> int:
    """Sparse architecture divergence: how many weights are kept by one of the two masks only."""
    return sum(int((before[name] != after[name]).sum()) for name in before)


class SparseRefined(Callback):
    """Swaps dense weights in for the optimizer's step, and sparse ones for everything else.

    Attributes:
        dense: the dense weights, from `start` on.
        masks: those of now, from `start` on.
    """

    def __init__(self, pattern: NM, decay: float) -> None:
        self.pattern, self.decay = pattern, decay

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._make_sparse(model)

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            weight.copy_(self.dense[name])
            if weight.grad is not None:
                weight.grad.copy_(refined_gradient(weight.grad, weight, self.masks[name], self.decay))

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._make_sparse(model)

    def _make_sparse(self, model: nn.Module) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.masks = n_m_masks(model, self.pattern)
        apply_masks(model, self.masks)


def callbacks(model: nn.Module, amount: Amount, *, steps: int, decay: float = 2e-4) -> list[Callback]:
    """Train n:m sparse.

    Args:
        model: what will be trained, at initialization.
        amount: an N:M pattern, `NM(n, m)` with n KEPT of m.
        steps: not needed: masks change in every step of the run.
        decay: λ of the pruned weights, >= 0.

    Raises:
        ValueError: the amount is no N:M pattern, a layer's inputs do not divide by m, or the decay is below 0.
    """
    if not decay >= 0:
        raise ValueError(f"decay: {decay} is below 0")
    n_m_masks(model, amount)  # an impossible pattern is refused before training begins
    return [SparseRefined(as_amount(amount, NM), decay)]
