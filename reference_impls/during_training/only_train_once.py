"""OTO: training with a group penalty and half-space projection makes whole units exactly zero, and these leave without loss (chen2021only).

Idea: everything that makes a unit, its filter, bias, and the scale and shift of its normalization, is one group; with all of it zero the
unit is zero whatever comes in, and can leave with no change of the output. Train once, with the norms of these groups as penalty. A step
of descent hardly ever ends at zero exactly, and proximal steps reach it only for tiny groups. So look where the step leads: if the new
values no longer point to the side of the old ones (their product falls below a share of the old one's square), the group is set to zero
and stays there.

Cost: the norms and their gradient per step, and a copy of the weights in the second stage; two passes of a single example, to follow units.

Implementation details
1. First stage: plain descent on loss plus penalty, whose subgradient is zero for a group that is zero. Second stage: half-space steps.
2. Both stages go through the optimizer with its momentum; the projection compares the weights before and after its step.
3. A group set to zero stays zero for the rest of the run, whatever its gradient.
4. The authors' code bounds the fraction of zero groups of each layer; here a sparsity bounds it over the network, and the groups of
   smallest product go first (theirs are drawn by lot). One unit of each layer always stays.
5. Where a shortcut adds units, all that makes them is one group. Units that a layer norm averages over are left alone.

Deviations: momentum continues from the first to the second stage, where the authors' code begins it anew, and the optimizer is whatever the
training uses. When the second stage begins is a choice made here, half of the run. Asked for a sparsity, units that have not become zero by
the end are added by the size of their group. The paper was read through its abstract and the optimizer of its code, not in full.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, Strength, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.structures import per_unit, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback
from reference_impls.during_training.structured_sparsity_learning import norm

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Sparsity, Strength)
NETWORK = "resnet8"
# identity_at_zero does not hold: the penalty acts on training even if no unit goes
# fixed_mask holds in the second stage only
TRAITS = frozenset({"exact_count", "shrinks"})


def products(group: Group, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """The inner product of two states of what makes each unit, over all its parameters: shape (size of the group,)."""
    return sum(
        per_unit(
            member, (one[member.tensor] * other[member.tensor]).movedim(member.dim, 0).reshape(len(member.units), -1).sum(1), group.size
        )
        for member in group.producers
        if member.tensor in one  # running statistics are no parameters
    )


def beyond(group: Group, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """How far each unit still points to its old side: <after, before> / |before|^2, shape (size of the group,); -inf for a zero group."""
    squares = products(group, before, before)
    return torch.where(squares > 0, products(group, after, before) / squares, -torch.inf)


def inside(ratios: Mapping[str, Tensor], epsilon: float, most: float = 1.0) -> dict[str, Tensor]:
    """Which units stay as they are, the others become zero: group name -> bool per unit; one of each group always stays.

    Args:
        ratios: from `beyond`, for each group.
        epsilon: units of a smaller ratio are outside of the half-space.
        most: the largest fraction of all units that may become zero; the smallest ratios do first.
    """
    count = sum(len(ratio) for ratio in ratios.values())
    # <x_hat, x> < epsilon |x|^2
    outside = sum(min(int((ratio < epsilon).sum()), len(ratio) - 1) for ratio in ratios.values())
    return keep_units(ratios, min(outside, round(most * count)) / count)


class OnlyTrainOnce(Callback):
    """Trains under the penalty, projects in the second stage, and removes the units that are zero."""

    def __init__(self, asked: Sparsity | Strength, strength: float, epsilon: float, begin: int) -> None:
        self.asked, self.strength, self.epsilon = asked, strength, epsilon
        self.step, self.begin = 0, begin
        self.groups: list[Group] = []  # known from the first image that is trained on

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hook.remove()
            self.groups = [group for group in removable_groups(model, inputs[0][:1]) if group.exact]
            if not self.groups:
                raise ValueError("model: nothing to prune, no unit leaves the others as they are")

        hook = model.register_forward_pre_hook(record)

    def penalty(self, model: nn.Module) -> Tensor:
        weights = dict(model.named_parameters())
        # lambda sum_g |x_g|
        return self.strength * sum(norm(products(group, weights, weights)).sum() for group in self.groups)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.step >= self.begin:
            self.before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.step >= self.begin:
            weights = dict(model.named_parameters())
            ratios = {group.name: beyond(group, self.before, weights) for group in self.groups}
            most = self.asked.fraction if isinstance(self.asked, Sparsity) else 1.0
            kept = inside(ratios, self.epsilon, most)
            for group in self.groups:
                for member in group.producers:
                    if member.tensor in weights:
                        gone = (member.units >= 0) & ~kept[group.name].cpu()[member.units]
                        weights[member.tensor].index_fill_(member.dim, gone.nonzero().flatten().to(kept[group.name].device), 0)
        self.step += 1

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        weights = dict(model.named_parameters())
        squares = {group.name: products(group, weights, weights) for group in self.groups}
        if isinstance(self.asked, Sparsity):
            return remove(model, self.groups, keep_units(squares, self.asked.fraction))
        return remove(model, self.groups, inside({name: (square > 0).double() for name, square in squares.items()}, 1.0))


def callbacks(
    model: nn.Module, amount: Amount, *, steps: int, strength: float = 1e-3, epsilon: float = 0.0, begin: float = 0.5
) -> list[Callback]:
    """Train from scratch with these, and `fit` returns the network without the units that became zero.

    Args:
        model: any network with units that can be removed.
        amount: a sparsity, the fraction of all units to remove; or a strength, which replaces `strength`, and then all that became zero
            goes. One unit of each layer always stays.
        steps: optimizer steps of the whole run, >= 1.
        strength: lambda, the factor of the penalty.
        epsilon: in [0, 1); the larger, the sooner a group is set to zero.
        begin: the second stage begins after this fraction of the steps, in [0, 1].

    Raises:
        ValueError: `amount` is neither, an argument is out of its range, a weight is NaN or infinite, or nothing can be removed.
    """
    asked = as_amount(amount, Sparsity, Strength)
    prunable_weights(model)
    for name, value, allowed in (("steps", steps, steps >= 1), ("epsilon", epsilon, 0 <= epsilon < 1), ("begin", begin, 0 <= begin <= 1)):
        if not allowed:
            raise ValueError(f"{name}: {value} is out of its range")
    return [OnlyTrainOnce(asked, asked.factor if isinstance(asked, Strength) else strength, epsilon, round(begin * steps))]
