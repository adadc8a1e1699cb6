"""NetAdapt: shrink one layer at a time to a measured budget, always the layer whose shrinking costs least accuracy (yang2018netadapt).

Idea: what a layer costs on a device is best measured there, and what its filters are worth is best tried out. In every iteration the
budget falls a little. For each layer on its own: remove just so many filters that the whole network meets the new budget, train the
candidate for a moment, and look at its accuracy. The best candidate is the network of the next iteration. No measure of importance across
layers is needed, and the cost may be any number that can be looked up, such as latency.

Cost: per iteration one short training and one evaluation for each layer that can shrink; a long training at the end.

Implementation details (of the authors' code)
1. The step of iteration i is first * decay^(i - 1) of the full network's cost; theirs 0.025 and 0.96.
2. Filters with the largest l2 norm stay.
3. The best candidate loses least accuracy per cost saved: (accuracy lost + 1e-6) / (cost saved + 1e-5). A line that compares accuracy
   alone stands there too, switched off.
4. A layer that cannot shrink enough by itself is still a candidate, with a single filter left.
5. Latency is the sum of a table's entries, one per layer and its numbers of input and output channels.

Deviations: what shrinks is a dependency group, so a shortcut's layers shrink together; of several producers the squared norms add up.
Candidates go in steps of one filter, theirs by default in multiples of eight for the sake of the device. The last step is cut at the
budget, so that nothing goes which need not. They stop after ten iterations by default; here only the budget ends the search.
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "convnet"
QUICK = {"first": 0.2}  # few iterations
# idempotent: what is within the budget stays as it is, but for the training
TRAITS = frozenset({"shrinks"})

Cost = Callable[[Mapping[str, int]], float]  # group name -> units kept (all, if it is not named); the whole network's cost


def squared_norms(model: nn.Module, group: Group) -> Tensor:
    """The squared l2 norm of each unit's filters: (units,)."""
    made = weights_among(model, group.producers)
    return sum(per_unit(member, weight.movedim(member.dim, 0).flatten(1).square().sum(1), group.size) for member, weight in made)


def fewest_removed(cost: Cost, sizes: Mapping[str, int], name: str, target: float) -> int:
    """How many units of a group stay, so that the network's cost is at most the target; 1 if even that is not enough.

    Args:
        cost: of numbers of kept units.
        sizes: the units that each group has now.
        name: of the group that shrinks.
        target: the most that the network may cost.
    """
    for number in range(sizes[name] - 1, 1, -1):
        if cost({**sizes, name: number}) <= target:
            return number
    return 1


def loss_per_saving(accuracy: float, before: float, cost: float, cost_before: float) -> float:
    """What a candidate is chosen by, lower = better."""
    # (Acc_{i-1} - Acc + 1e-6) / (Res_{i-1} - Res + 1e-5)
    return (before - accuracy + 1e-6) / (cost_before - cost + 1e-5)


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    adapt: Train | None = None,
    cost: Cost | None = None,
    first: float = 0.025,
    decay: float = 0.96,
) -> nn.Module:
    """The network within its budget, trained if `train` is given.

    Args:
        model: pretrained.
        batches: one example is taken, to follow the channels and count costs.
        amount: `Budget(macs=...)` of one example, or seconds or bytes with a `cost` that is measured in them.
        train: (model, callbacks) -> model; the long training at the end.
        evaluate: model -> accuracy in [0, 1], on examples held out from training.
        adapt: (model) -> model; the short training of each candidate, none by default.
        cost: what a network costs by the numbers of units that its groups keep; by default its multiply-accumulates.
        first: the first step, as a fraction of the full cost, in (0, 1].
        decay: by which a step is shorter than the one before, in (0, 1].

    Raises:
        ValueError: an argument is outside its range, the budget out of reach, no batch, no `evaluate`, or nothing can be removed.
    """
    asked = as_amount(amount, Budget)
    if cost is None and asked.macs is None:
        raise ValueError(f"amount: {asked!r} needs a cost that is measured in it")
    for name, value in (("first", first), ("decay", decay)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}: {value} is not in (0, 1]")
    example = one_example(batches)
    groups = [group for group in removable_groups(model, example) if weights_among(model, group.producers)]
    if not groups:
        raise ValueError("model: nothing to prune, no filter can be removed")
    if evaluate is None:
        raise ValueError("evaluate: candidates are compared by evaluate(model) -> accuracy")
    budget = next(value for value in (asked.macs, asked.seconds, asked.bytes) if value is not None)
    cost = Costs(model, groups, example) if cost is None else cost
    sizes = {group.name: group.size for group in groups}
    network, now, reached = remove(model, [], {}), cost(sizes), evaluate(model)
    step = first * now
    while now > budget:
        target, best = max(now - step, budget), (math.inf, 0.0, {}, network)
        for group in removable_groups(network, example):
            if sizes.get(group.name, 1) == 1:
                continue
            smaller = {**sizes, group.name: fewest_removed(cost, sizes, group.name, target)}
            kept = keep_units({group.name: squared_norms(network, group)}, 1 - smaller[group.name] / group.size)
            candidate = remove(network, [group], kept)
            candidate = candidate if adapt is None else adapt(candidate)
            found = evaluate(candidate)
            if cost(smaller) < now:
                best = min(best, (loss_per_saving(found, reached, cost(smaller), now), found, smaller, candidate), key=lambda b: b[0])
        if best[0] == math.inf:
            raise ValueError(f"amount: a budget of {budget:g} is out of reach, no layer can shrink below {now:g}")
        _, reached, sizes, network = best
        now, step = cost(sizes), step * decay
    return network if train is None else train(network)
