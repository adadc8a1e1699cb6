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
5. After every step the optimizer forgets what it has gathered for inactive weights.

Deviations: of n connections, round(fraction * n) move, where the official code truncates; ties go by index, where it adds noise.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, drop_lowest, grow_highest, random_connections
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import Masks, prunable_weights
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
    # I_drop = ArgTopK(-|θ|, k) of the active
    survived = drop_lowest(mask, weight.abs(), k)
    # I_grow = ArgTopK(|dL/dΘ|, k) outside θ \ I_drop
    return grow_highest(survived, gradient.abs(), k)


class DropAndGrow(Connections):
    """Moves connections every `every` steps before step `end`."""

    def __init__(self, masks: Masks, fraction: float, every: int, end: int) -> None:
        super().__init__(masks)
        self.fraction, self.every, self.end = fraction, every, end

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.step % self.every or self.step >= self.end:
            return
        # f(t) = α/2 (1 + cos(t π / T_end))
        fraction = cosine_decay(self.step, self.end, self.fraction)
        for name, weight in prunable_weights(model).items():
            if weight.grad is not None:
                self.masks[name] = drop_and_grow(weight.detach(), weight.grad, self.masks[name], fraction)
        optimizer.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient: no training in this step


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
    return [DropAndGrow(random_connections(model, densities, generator), fraction, every, 3 * steps // 4 if end is None else end)]
