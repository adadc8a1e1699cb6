"""3SP: prune channels once, before training, by connection sensitivity per multiply-accumulate saved (vanamersfoort2020single).

Idea: SNIP's gates on whole channels and hidden units instead of weights. What goes is removed for real, so the training itself is faster
already. A channel's sensitivity is divided by what it costs: one may go because the loss hardly feels it, or because it costs
a lot, which is so in early layers with large maps.

Cost: one forward and one backward pass over the batches, one of a single example to follow the channels and count.

Implementation details
1. A gate c = 1 multiplies the weights that make a channel: dL/dc = sum of w * dL/dw over them. The absolute value is taken after the sum
   over weights and over batches.
2. Where a shortcut adds maps, their channels go together and share one gate: the sums of all layers that make them add up.
3. A channel's cost is what the network saves without it alone: its own filters, and the part of the next layers that reads it.
4. Channels are compared over the whole network; every layer keeps at least one.
5. Gradients are taken in evaluation mode, as in SNIP here: batch norm uses its running statistics.

Deviations: of the paper only the objective and the weighting were at hand, no code is published: gates on weights rather than on outputs
(which would also feel biases), shared gates and costs per single channel are choices made here.
"""

import bisect
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, Sparsity, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Loss, Train, cross_entropy

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity, Budget)
NETWORK = "convnet"
# weights_only does not hold: gates are felt on data; idempotent does not: the weakest of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def channel_sensitivity(model: nn.Module, groups: Sequence[Group], batches: Batches, *, loss: Loss = cross_entropy) -> dict[str, Tensor]:
    """How strongly the loss feels the gate of each channel: group name -> (size of the group,).

    Args:
        model: at initialization; left as it is.
        groups: from `removable_groups` of this model.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: no batch, or the loss does not depend on any channel.
    """
    model = copy.deepcopy(model).eval()
    made = {group.name: [member for member, _ in weights_among(model, group.producers)] for group in groups}
    weights = {member.tensor: model.get_parameter(member.tensor) for members in made.values() for member in members}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for inputs, targets in batches:
        gradients = torch.autograd.grad(loss(model(inputs), targets), list(weights.values()), allow_unused=True, materialize_grads=True)
        total = {name: t + g for (name, t), g in zip(total.items(), gradients, strict=True)}
    if not any(g.any() for g in total.values()):
        raise ValueError("batches: no calibration data, or the loss depends on no channel")
    scores = {}
    for group in groups:
        # dL/dc = sum over the weights w that make the channel of w * dL/dw
        score = weights[made[group.name][0].tensor].new_zeros(group.size)
        for member in made[group.name]:
            pull = (weights[member.tensor].detach() * total[member.tensor]).movedim(member.dim, 0).flatten(1).sum(1)
            score += per_unit(member, pull, group.size)
        scores[group.name] = score.abs()
    return scores


def channel_costs(model: nn.Module, groups: Sequence[Group], example: Tensor) -> dict[str, int]:
    """Multiply-accumulates that the network saves without one channel of a group, all other channels being there."""
    costs = Costs(model, groups, example)
    return {group.name: costs({}) - costs({group.name: group.size - 1}) for group in groups}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    compute_aware: bool = True,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The smaller network, trained if `train` is given.

    Args:
        batches: (inputs, targets), at least one.
        amount: the fraction of all removable channels and hidden units to remove, in [0, 1); or the multiply-accumulates that
            one example may cost. Each layer keeps one.
        train: (model, callbacks) -> model.
        evaluate: not used.
        compute_aware: divide sensitivities by costs.
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: `amount` is neither, or cannot be reached; no batch, a weight is NaN or infinite, or nothing can be removed.
    """
    asked = as_amount(amount, Sparsity, Budget)
    if isinstance(asked, Budget) and asked.macs is None:
        raise ValueError(f"amount: {asked}; this method takes a budget of macs")
    example = one_example(batches)
    groups = removable_groups(model, example)
    scores = channel_sensitivity(model, groups, batches, loss=loss)
    if compute_aware:
        # sensitivity per multiply-accumulate removed
        scores = {name: scores[name] / cost for name, cost in channel_costs(model, groups, example).items()}
    fraction = asked.fraction if isinstance(asked, Sparsity) else _least_fraction(scores, asked.macs, Costs(model, groups, example))
    small = remove(model, groups, keep_units(scores, fraction))
    return small if train is None else train(small)


def _least_fraction(scores: dict[str, Tensor], macs: float, costs: Costs) -> float:
    """The smallest fraction of all channels whose removal, lowest scores first, brings the network within the budget."""
    count = sum(len(score) for score in scores.values())

    def within(removed: int) -> bool:
        return costs({name: int(keep.sum()) for name, keep in keep_units(scores, removed / count).items()}) <= macs

    removed = bisect.bisect_left(range(count), True, key=within)
    if removed == count:
        raise ValueError(f"amount: {macs} macs cannot be reached with one channel in every layer")
    return removed / count
