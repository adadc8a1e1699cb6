"""GReg: an l2 penalty on the filters to be pruned that grows, step by step, until nothing of them is left (wang2021neural).

Idea: cutting filters at once takes from the others what they relied on. Let a penalty on the condemned filters grow slowly instead while
training goes on, and the rest takes over before the cut. GReg-1 condemns the filters with the smallest l1 norm at the start. GReg-2 first
lets the penalty grow on all filters alike: one in a flat direction of the loss gives way, one in a steep direction resists. So magnitudes
part by curvature, with no Hessian computed, and the smallest are condemned then.

Cost: a product with the weights per step; a training run long enough for a slow growth; one pass of a single example, to follow channels.

Implementation details
1. The penalty with factor lambda adds lambda times the weight to its gradient, after the backward pass, as in the authors' code. Only the
   weights of filters carry it, no biases and no norms.
2. Ceilings as in that code: 0.01 while GReg-2 chooses, 1 for the condemned. The choice is per layer, by the l1 norm.
3. Once chosen, GReg-2 gives the kept filters a constant penalty of -0.0001, which lets them grow back; that too is the code's.
4. Growth takes the first half of the run after choosing, and a quarter before it for GReg-2 (three quarters in all for both). The rest
   of the run the penalty stands at its ceiling. Then the filters are removed; fine-tune what comes out.
5. A layer of which no filter is asked carries no penalty.
6. Filters that a shortcut adds are chosen together, by the sum of their norms.

Deviations: the code raises the factor every fifth step by 1e-5 (choosing) and 1e-4 (pruning), for hundreds of thousands of steps, then
waits 40,000 more, and stops earlier where the condemned have become a thousand times smaller than the kept; here it grows at every step by
what the length of the run demands. The code rounds the number of filters up and leaves layers that feed a shortcut whole. The same growth
on single weights, which the paper has too, is left out. The paper was read through its abstract and its code, not in full.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import per_unit, removable_groups, slice_norms, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# fixed_mask does not hold: nothing is masked, the filters are gone
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def filter_norms(model: nn.Module, group: Group) -> Tensor:
    """The l1 norm of all weights that make each unit of a group: shape (size of the group,)."""
    return sum(per_unit(member, slice_norms(weight, member.dim), group.size) for member, weight in weights_among(model, group.producers))


def factor(step: int, begin: int, end: int, low: float, high: float) -> float:
    """The penalty's factor at a step: grows from `low` to `high` over the steps `begin` to `end` - 1, the first one included."""
    return low + (high - low) * min((step - begin + 1) / (end - begin), 1.0)


class GrowingRegularization(Callback):
    """Pulls filters down ever more strongly, then removes those that were chosen.

    Attributes:
        condemned: group name -> bool per unit, True = to be pruned; empty until chosen.
    """

    def __init__(self, fraction: float, steps: int, by_growth: bool, pick_ceiling: float, ceiling: float, recover: float) -> None:
        self.fraction, self.ceiling = fraction, ceiling
        self.pick_ceiling, self.recover = (pick_ceiling, recover) if by_growth else (0.0, 0.0)
        self.pick_at = max(steps // 4, 1) if by_growth else 0
        self.full_at = max(3 * steps // 4, self.pick_at + 1)
        self.step = 0
        self.groups: list[Group] | None = None  # known from the first image that is trained on
        self.condemned: dict[str, Tensor] = {}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hook.remove()
            self.groups = made_by_convolutions(model, removable_groups(model, inputs[0][:1]))

        hook = model.register_forward_pre_hook(record)

    def _choose(self, model: nn.Module) -> None:
        scores = {group.name: filter_norms(model, group) for group in self.groups}
        self.condemned = {name: ~kept for name, kept in keep_units(scores, self.fraction, "layer").items()}

    def _factors(self, group: Group) -> Tensor:
        """The penalty's factor of each unit now."""
        if self.step < self.pick_at:
            return torch.full((group.size,), factor(self.step, 0, self.pick_at, 0.0, self.pick_ceiling))
        grown = factor(self.step, self.pick_at, self.full_at, self.pick_ceiling, self.ceiling)
        return torch.where(self.condemned[group.name], grown, self.recover)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.step == self.pick_at:
            self._choose(model)
        for group in self.groups:
            if round(self.fraction * group.size) > 0:
                factors = self._factors(group)
                for member, weight in weights_among(model, group.producers):
                    # dL / dw  +  lambda_j w
                    model.get_parameter(member.tensor).grad += _spread(factors, member, weight) * weight
        self.step += 1

    def finish(self, model: nn.Module) -> nn.Module:
        if not self.condemned:
            self._choose(model)
        return remove(model, self.groups, {name: ~gone for name, gone in self.condemned.items()})


def _spread(factors: Tensor, member: Member, weight: Tensor) -> Tensor:
    """Factors per unit, laid along the member's dimension of the weight; 0 for indices of no unit."""
    along = torch.where(member.units >= 0, factors[member.units], 0).to(weight)
    return along.view([-1 if dim == member.dim else 1 for dim in range(weight.dim())])


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    by_growth: bool = True,
    pick_ceiling: float = 0.01,
    ceiling: float = 1.0,
    recover: float = -1e-4,
) -> list[Callback]:
    """Train a trained network on with these, and `fit` returns it without the filters that gave way.

    Args:
        model: a trained network with convolutions.
        amount: the fraction of each layer's filters to remove; one filter always stays.
        steps: optimizer steps of the whole run, >= 1.
        by_growth: GReg-2, which chooses by how filters answer to a growing penalty; False: GReg-1, which chooses by l1 norm at the start.
        pick_ceiling: how far the penalty grows on all filters before GReg-2 chooses, tau'.
        ceiling: how far it grows on the condemned, tau. Times the learning rate it must stay well below 2, or the weights oscillate.
        recover: factor of the constant penalty on the kept filters in GReg-2.

    Raises:
        ValueError: `amount` is no sparsity, `steps` is below 1, a weight is NaN or infinite, or nothing can be removed.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    if steps < 1:
        raise ValueError(f"steps: {steps} is below 1")
    return [GrowingRegularization(fraction, steps, by_growth, pick_ceiling, ceiling, recover)]
