"""DPF: the gradient is taken at the pruned weights and applied to the dense ones, so what was cut too early can return (lin2020dynamic).

Idea: a dense copy of the weights lives beside the pruned network. Each step looks at the loss of the pruned network, but moves all
weights of the dense copy, the absent ones too: what pruning did wrong comes back as an error that pulls the absent weights up. Every few
steps the mask is taken anew from the copy by magnitude, and sparsity rises as in gradual pruning. One pass of training gives a sparse
network that was trained as such.

Cost: a second copy of the weights, a dense gradient per step, and one selection over the network every few steps.

Implementation details
1. The mask changes every 16 steps; sparsity rises along the cubic schedule of gradual magnitude pruning, from zero in the first step to its
   final value after three quarters of the training. The mask taken then is the last.
2. Magnitudes of all layers are compared together.
3. Between steps the model holds the pruned weights; the dense ones are in place only while the optimizer steps. Its memory is dense.
4. Absent weights that get gradient and never return only drift; weight decay keeps them small.

Deviations: no official code is known. The 16 steps, the comparison across layers, and the end of the schedule, after which masks stay, are
those of two independent reimplementations (one ends at the second drop of the learning rate, at three quarters of its epochs). The
paper's structured variant, which prunes filters by norm, is left out, and so is the optional fine-tuning afterwards.
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
# fixed_mask does not hold: absent weights return; regrows does not hold: the number of connections falls while they move
TRAITS = frozenset({"exact_count", "identity_at_zero"})


class Feedback(Callback):
    """The pruned network in front, the dense weights behind it.

    Attributes:
        masks: what the pruned network keeps now.
        dense: w, the weights that are trained.
        step: optimizer steps done; the last mask is taken after step `last`.
    """

    def __init__(self, fraction: float, every: int, last: int) -> None:
        self.fraction, self.every, self.last = fraction, every, last

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = 0
        self.dense: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.masks: Masks = self._choose()

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._show(model, self.dense)
        for weight in prunable_weights(model).values():
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # w_{t+1} = w_t - gamma g(m_t * w_t)
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.step += 1
        if self.step == self.last or (self.step < self.last and self.step % self.every == 0):
            self.masks = self._choose()
        apply_masks(model, self.masks)

    def _choose(self) -> Masks:
        reached = cubic_sparsity(self.step, 0, self.last, self.fraction)
        return keep_highest({name: weight.abs() for name, weight in self.dense.items()}, reached)

    @staticmethod
    def _show(model: nn.Module, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_parameter(name).copy_(weight)


def callbacks(model: nn.Module, amount: Amount, *, steps: int, every: int = 16, until: float = 0.75) -> list[Callback]:
    """Train sparse with these; what comes out needs no retraining.

    Args:
        model: what will be trained.
        amount: the fraction of the network's weights that is zero in the end.
        steps: optimizer steps of the whole run, >= 1.
        every: steps from one mask to the next, >= 1.
        until: the fraction of the run after which sparsity stays at `amount`, in (0, 1].

    Raises:
        ValueError: an argument is out of its range, or a weight is NaN or infinite.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    if every < 1:
        raise ValueError(f"every: {every} is below 1")
    if not 0 < until <= 1:
        raise ValueError(f"until: {until} is not in (0, 1]")
    return [Feedback(fraction, every, max(round(until * steps), 1))]
