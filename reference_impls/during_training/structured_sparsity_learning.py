"""SSL: a group lasso drives whole filters, channels and shape columns of the weights to zero while training (wen2016learning).

Idea: an l1 penalty scatters zeros, and scattered zeros hardly speed anything up. Penalize the l2 norm of whole groups of weights
instead. The gradient of a norm has the length one however small the group is, so a group that the loss does not need shrinks to zero as a
whole. What the groups are decides which structure is learned: a filter makes a map, a channel of the next layer reads it, so both
penalties together remove the map; a shape column is one position of the kernels of all filters of a layer.

Cost: the norms and their gradient per step; two forward passes of a single example, to follow the channels.

Implementation details
1. A norm is not differentiable at zero; its subgradient there is taken as zero, as in the authors' code.
2. Weights below a threshold, 1e-4 in the authors' code, are set to zero after each step: descent alone only circles around zero.
3. Rows and columns of linear layers, their neurons, are treated alike. The input's channels and the output's filters cannot go and
   carry no penalty, nor do biases and norms.
4. A unit counts by the weaker of its two sides, the norm of what makes it and the norm of what reads it: with either one zero, no weight
   carries it any more. Several layers that make (or read) it form one side, since all of them must be zero.
5. Asked for a strength, exactly the units with a zero side go. Asked for a sparsity, the weakest of the network go.
6. Shape columns become zero and stay in place: a dense convolution cannot leave them out, the lowered matrix product can.

Deviations: the paper's fourth penalty, on whole layers beside a shortcut, is left out. Removing a number that was asked for, and ranking
by the weaker side, are choices made here; the authors' code leaves what became zero where it is and skips it in the lowered product. In
that code each layer has a factor of its own, here the network has one per kind of group. The paper was read through its abstract and its
code, not in full.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, Strength, as_amount
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.structures import LAYERS, per_unit, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Sparsity, Strength)
NETWORK = "convnet"
# identity_at_zero does not hold: the penalty acts on training even if no filter goes
# fixed_mask does not hold: nothing is masked, the filters are gone
TRAITS = frozenset({"exact_count", "shrinks"})


def norm(squares: Tensor) -> Tensor:
    """The root of sums of squares, any shape, with the gradient zero where the sum is zero."""
    return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)


def unit_squares(model: nn.Module, members: Iterable[Member], size: int) -> list[Tensor]:
    """For each member that is a weight of a linear or convolution layer, the sum of squares of each unit's slices: shape (size,)."""
    return [
        per_unit(member, model.get_parameter(member.tensor).movedim(member.dim, 0).flatten(1).square().sum(1), size)
        for member in members
        if member.tensor.endswith("weight") and isinstance(model.get_submodule(member.layer), LAYERS)
    ]


def group_lasso(model: nn.Module, groups: Iterable[Group], filters: float, channels: float, shapes: float = 0.0) -> Tensor:
    """The penalty on all filters, channels and shape columns: a scalar.

    Args:
        groups: from `removable_groups` of this model.
        filters: factor of the norms of what makes a unit, lambda_n, >= 0.
        channels: factor of the norms of what reads a unit, lambda_c, >= 0.
        shapes: factor of the norms of a kernel position over all filters of a convolution, lambda_s, >= 0.
    """
    total = torch.zeros(())
    for group in groups:
        # lambda_n sum_l sum_n |W^l_(n,:,:,:)|  +  lambda_c sum_l sum_c |W^l_(:,c,:,:)|
        for factor, members in ((filters, group.producers), (channels, group.consumers)):
            total = total + factor * sum(norm(squares).sum() for squares in unit_squares(model, members, group.size))
    if shapes > 0:
        for name, weight in prunable_weights(model).items():
            if isinstance(model.get_submodule(name.removesuffix(".weight")), nn.modules.conv._ConvNd):
                # lambda_s sum_l sum_c sum_m sum_k |W^l_(:,c,m,k)|
                total = total + shapes * norm(weight.square().sum(0)).sum()
    return total


@torch.no_grad()
def weaker_side(model: nn.Module, groups: Iterable[Group]) -> dict[str, Tensor]:
    """The smaller of the norms of what makes and of what reads each unit: group name -> (size of the group,); 0 = the unit is dead."""
    scores = {}
    for group in groups:
        sides = [squares for members in (group.producers, group.consumers) if (squares := unit_squares(model, members, group.size))]
        if sides:
            scores[group.name] = torch.stack([norm(sum(squares)) for squares in sides]).amin(0)
    return scores


class GroupLasso(Callback):
    """Trains under the penalty and cuts what is almost zero; then removes the units that were asked for, or those that died."""

    def __init__(self, asked: Sparsity | Strength, filters: float, channels: float, shapes: float, threshold: float) -> None:
        self.asked, self.factors, self.threshold = asked, (filters, channels, shapes), threshold
        self.groups: list[Group] | None = None  # known from the first image that is trained on

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hook.remove()
            self.groups = removable_groups(model, inputs[0][:1])

        hook = model.register_forward_pre_hook(record)

    def penalty(self, model: nn.Module) -> Tensor:
        return group_lasso(model, self.groups, *self.factors)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for weight in prunable_weights(model).values():
            weight.masked_fill_(weight.abs() < self.threshold, 0)

    def finish(self, model: nn.Module) -> nn.Module:
        scores = weaker_side(model, self.groups)
        if not scores:
            raise ValueError("model: nothing to prune, no unit is made or read by a weight")
        if isinstance(self.asked, Sparsity):
            return remove(model, self.groups, keep_units(scores, self.asked.fraction))
        dead = sum(min(int((score == 0).sum()), len(score) - 1) for score in scores.values())
        return remove(model, self.groups, keep_units(scores, dead / sum(len(score) for score in scores.values())))


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int = 0,
    filters: float = 1e-3,
    channels: float = 1e-3,
    shapes: float = 0.0,
    threshold: float = 1e-4,
) -> list[Callback]:
    """Train with these, and `fit` returns the network without the filters that the penalty has made small, or zero.

    Args:
        model: any network of linear and convolution layers.
        amount: a sparsity, the fraction of all filters and neurons to remove; or a strength, which replaces `filters` and `channels`, and
            then the units with a zero side go. One unit of each layer always stays.
        steps: not used.
        filters, channels, shapes: as in `group_lasso`.
        threshold: weights smaller than this are set to zero after each step, >= 0.

    Raises:
        ValueError: `amount` is neither, a weight is NaN or infinite, a factor is negative, or nothing can be removed.
    """
    asked = as_amount(amount, Sparsity, Strength)
    prunable_weights(model)
    for name, factor in (("filters", filters), ("channels", channels), ("shapes", shapes), ("threshold", threshold)):
        if not factor >= 0:
            raise ValueError(f"{name}: {factor} is not >= 0")
    if isinstance(asked, Strength):
        filters = channels = asked.factor
    return [GroupLasso(asked, filters, channels, shapes, threshold)]
