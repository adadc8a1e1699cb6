"""RigL: train a sparse network from a random start, and move its connections to where the gradient is (evci2020rigging).

Idea: the network is sparse from the first step to the last. Now and then each layer drops its weakest connections, by
magnitude, and grows as many where the loss gradient, taken for all weights just this once, is largest. Fewer and fewer
move as training goes on, and near its end (here by default in its last quarter) none.

Cost: that of training at the given density, plus one dense gradient every `every` steps. (Masks over dense tensors, as
here, show the method and save nothing.)

Implementation details
1. Densities follow the Erdos-Renyi-Kernel rule: the larger a layer, the sparser. Each layer keeps its own number.
2. Connections to grow are sought among all that did not survive the drop: a connection just dropped may return, and
   then keeps its weight. All others start at zero, with their optimizer state at zero, as in the official code.
3. A step that moves connections does not train: the batch's gradient is spent on choosing, as in the official code.
4. The first move comes at step 0, as in the official code.
5. Between moves, gradients of inactive weights are zeroed, so that the optimizer gathers no momentum for them.

Deviations: of n connections, round(fraction * n) move, where the official code truncates; ties go by index, where it adds noise.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import random_masks
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import Masks, apply_masks, prunable_weights
from reference_impls.core.schedules import cosine_decay
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no exact_count: the layers' densities differ, and each layer rounds its own
# no identity_at_zero: a step that moves connections does not train, even where there is nothing to move
TRAITS = frozenset({"regrows"})
QUICK = {"every": 2}  # so that connections move more than once in a run of a few steps


def drop_and_grow(weight: Tensor, gradient: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The mask after `fraction` of the active connections has moved; as many are active as before.

    Args:
        weight: of any shape.
        gradient: of the loss by all weights, active or not; shaped as the weight.
        mask: True = active; shaped as the weight.
        fraction: of the active connections, in [0, 1].
    """
    k = round(fraction * int(mask.sum()))
    moved = mask.flatten().clone()
    # I_drop = ArgTopK(-|θ|, k) of the active
    moved[weight.abs().masked_fill(~mask, torch.inf).flatten().argsort(stable=True)[:k]] = False
    # I_grow = ArgTopK(|dL/dΘ|, k) outside θ \ I_drop
    moved[gradient.abs().flatten().masked_fill(moved, -torch.inf).argsort(descending=True, stable=True)[:k]] = True
    return moved.view_as(mask)


class DropAndGrow(Callback):
    """Moves connections every `every` steps before step `end`, and keeps inactive weights at zero.

    Attributes:
        masks: the active connections now.
    """

    def __init__(self, masks: Masks, fraction: float, every: int, end: int) -> None:
        self.masks, self.fraction, self.every, self.end = masks, fraction, every, end
        self.step = 0

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        apply_masks(model, self.masks)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.step % self.every == 0 and self.step < self.end:
            self._move(model, optimizer)
            optimizer.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient: no training in this step
        else:
            for name, weight in prunable_weights(model).items():
                if weight.grad is not None:
                    weight.grad.mul_(self.masks[name])
        self.step += 1

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        apply_masks(model, self.masks)

    def _move(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # f(t) = α/2 (1 + cos(t π / T_end))
        fraction = cosine_decay(self.step, self.end, self.fraction)
        for name, weight in prunable_weights(model).items():
            if weight.grad is None:
                continue
            before = self.masks[name]
            self.masks[name] = drop_and_grow(weight.detach(), weight.grad, before, fraction)
            new = self.masks[name] & ~before
            for state in optimizer.state.get(weight, {}).values():
                if isinstance(state, Tensor) and state.shape == weight.shape:
                    state[new] = 0


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    fraction: float = 0.3,
    every: int | None = None,
    end: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train sparse, and move connections.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights that is absent, in [0, 1).
        steps: optimizer steps of the whole run, at least 1.
        fraction: α of the active connections that move at first, in [0, 1].
        every: steps ΔT between two moves; by default 100, in a shorter run a twentieth of it, but at least 5: a move trains nothing.
        end: step T_end from which on none moves; by default three quarters of the run.
        generator: draws the first connections; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in [0, 1]")
    every = max(5, min(100, steps // 20)) if every is None else every
    if every < 1:
        raise ValueError(f"every: {every} steps is below 1")
    densities = erdos_renyi_kernel({name: weight.shape for name, weight in prunable_weights(model).items()}, density)
    return [DropAndGrow(random_masks(model, densities, generator), fraction, every, 3 * steps // 4 if end is None else end)]
