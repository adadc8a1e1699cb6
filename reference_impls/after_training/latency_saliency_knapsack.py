"""HALP: which filters stay is a knapsack, the most saliency that fits into a budget of latency (shen2022structural).

Idea: fewer operations do not promise less time; what a filter costs depends on the device, the layer, and how many filters there are beside
it, often in steps. So look the costs up: a table says how long each layer takes for any number of channels. Within a layer the more salient
filters come first, so that it is known what the next one adds. How many each layer keeps is then a knapsack, and dynamic programming
solves it.

Cost: one forward and one backward pass over the batches per round, a table of layers times filters times cells, and one training run per
round if one is given.

Implementation details
1. Saliency: the absolute first-order effect of a filter's gate, scale times its gradient plus shift times its gradient over all
   normalizations that a shortcut ties together (without them, over the filter's weights and bias), averaged over the batches.
2. What a layer costs is put down to the filters that it makes, with the channels that it reads as they are now. These shrink too, so the
   pruned network costs less than planned, never more.
3. The budget is approached in rounds, geometrically; saliency and costs are taken anew in each. One filter of each layer always stays.
4. `chunk` filters of neighbouring saliency come and go together, since devices like round numbers.

Deviations: the code solves the knapsack filter by filter with a flag for the one before, which is not always the optimum; here the possible
numbers of filters of a layer are options of which one is taken, which is exact up to the cells that costs are rounded up to. Its table is
measured on a GPU; here it is an argument, by default multiply-accumulates. The code masks and trains between rounds, here filters are
removed. It never prunes the stem of a residual network, and its gates without normalization leave out the bias. The paper was read through
its abstract and its code, not in full.
"""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reference_impls.after_training.taylor_first_order import gate_members
from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Loss, Train, cross_entropy, evaluating

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
TRAITS = frozenset({"shrinks"})

Latency = Callable[[str, int, int], float]  # (layer, channels it reads, channels it makes) -> cost of one example
CELLS = 2000  # that a budget is divided into


def saliency(model: nn.Module, groups: Sequence[Group], batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """The absolute first-order effect of each filter on the loss, averaged over the batches: group name -> (filters,).

    Raises:
        ValueError: no batch.
    """
    members = {group: gate_members(model, group) for group in groups}
    parameters = {member.tensor: model.get_parameter(member.tensor) for found in members.values() for member in found}
    total: dict[str, Tensor] = {}
    count = 0
    with evaluating(model), torch.enable_grad():
        for inputs, targets in batches:
            gradients = torch.autograd.grad(loss(model(inputs), targets), list(parameters.values()), materialize_grads=True)
            products = {name: (g * w).detach() for (name, w), g in zip(parameters.items(), gradients, strict=True)}
            for group, found in members.items():
                # |sum_l (gamma_l dL/dgamma_l + beta_l dL/dbeta_l)|
                along = [(m, products[m.tensor].movedim(m.dim, 0).reshape(len(m.units), -1).sum(1)) for m in found]
                total[group.name] = total.get(group.name, 0) + sum(per_unit(m, product, group.size) for m, product in along).abs()
            count += 1
    if count == 0:
        raise ValueError("batches: no calibration data")
    return {name: value / count for name, value in total.items()}


def knapsack(values: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], capacity: float, cells: int = CELLS) -> list[int]:
    """One option of each item, so that the values sum to the most while the costs fit: the index of the option for each item.

    Args:
        values: for each item, of each option.
        costs: of the same lengths, >= 0; rounded up to the next cell.
        capacity: what all costs together may reach; where nothing fits, the cheapest options are taken.
        cells: that the capacity is divided into, >= 1.
    """
    weights = [[math.ceil(cost / capacity * cells - 1e-9) if capacity > 0 else cells + 1 for cost in item] for item in costs]
    best = np.zeros(cells + 1)  # the most value within each number of cells, for the items so far
    taken = []
    for value, weight in zip(values, weights, strict=True):
        # f_l(c) = max_p f_(l-1)(c - c_l(p)) + v_l(p)
        options = np.full((len(value), cells + 1), -np.inf)
        for option, (gain, cell) in enumerate(zip(value, weight, strict=True)):
            if cell <= cells:
                options[option, cell:] = best[: cells + 1 - cell] + gain
        taken.append(options.argmax(0))
        best = options.max(0)
    if best[cells] == -np.inf:
        return [int(np.argmin(item)) for item in costs]
    chosen, left = [], cells
    for option, weight in zip(reversed(taken), reversed(weights), strict=True):
        chosen.append(int(option[left]))
        left -= weight[chosen[-1]]
    return chosen[::-1]


class Table:
    """What the layers of a network cost, as it is now or with fewer filters in one group."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], example: Tensor, latency: Latency | None) -> None:
        macs = Costs(model, [], example).dense
        self.sizes = {name: model.get_submodule(name).weight.shape[1::-1] for name in macs}  # (channels read, made)
        self.latency = latency or (lambda layer, read, made: macs[layer] * read / self.sizes[layer][0] * made / self.sizes[layer][1])
        self.made = {group.name: [member.layer for member, _ in weights_among(model, group.producers)] for group in groups}

    def total(self) -> float:
        """Of the network as it is."""
        return sum(self.latency(layer, *size) for layer, size in self.sizes.items())

    def of(self, group: Group, kept: int) -> float:
        """Of the layers that make a group's filters, when that many are kept and all else is as it is."""
        return sum(
            self.latency(layer, self.sizes[layer][0], self.sizes[layer][1] * kept // group.size)
            for layer in dict.fromkeys(self.made[group.name])
        )


def filters_to_keep(scores: Scores, groups: Sequence[Group], table: Table, target: float, chunk: int = 1) -> dict[str, Tensor]:
    """The filters of the most saliency whose planned cost is within a target: group name -> bool per filter."""
    counts = {group.name: [group.size - gone for gone in range(0, group.size, chunk)] for group in groups}
    ranked = {group.name: scores[group.name].argsort(descending=True, stable=True) for group in groups}
    values = [[float(scores[group.name][ranked[group.name][:count]].sum()) for count in counts[group.name]] for group in groups]
    costs = [[table.of(group, count) for count in counts[group.name]] for group in groups]
    fixed = table.total() - sum(cost[0] for cost in costs)  # layers whose outputs all stay
    kept = {}
    for group, option in zip(groups, knapsack(values, costs, target - fixed), strict=True):
        kept[group.name] = torch.zeros(group.size, dtype=torch.bool)
        kept[group.name][ranked[group.name][: counts[group.name][option]].cpu()] = True
    return kept


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    latency: Latency | None = None,
    rounds: int = 5,
    chunk: int = 1,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The smaller network within the budget, trained after each round if `train` is given.

    Args:
        model: a trained network with convolutions.
        batches: (inputs, targets), at least one.
        amount: what one example may cost, in macs; or in seconds if `latency` tells them.
        train: (model, callbacks) -> model.
        evaluate: not used.
        latency: (layer, channels it reads, channels it makes) -> cost of one example, never less for more channels.
        rounds: in which the budget is approached, >= 1.
        chunk: filters that come and go together, >= 1.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount` is no budget of macs or seconds, or cannot be reached; no batch, a weight is NaN, or nothing can be removed.
    """
    asked = as_amount(amount, Budget)
    if asked.bytes is not None or (asked.seconds is not None and latency is None):
        raise ValueError(f"amount: {asked}; this method takes a budget of macs, or of seconds where `latency` tells them")
    if rounds < 1 or chunk < 1:
        raise ValueError(f"rounds, chunk: {rounds}, {chunk}; both are at least 1")
    budget, network, example = asked.macs or asked.seconds, copy.deepcopy(model), one_example(batches)
    start, done = 0.0, 0
    while True:
        groups = made_by_convolutions(network, removable_groups(network, example))
        table = Table(network, groups, example, latency)
        start = start or table.total()
        if table.total() <= budget:
            return network
        done += 1
        # C_0^(1 - a) B^a
        target = start * (budget / start) ** min(done / rounds, 1.0)
        kept = filters_to_keep(saliency(network, groups, batches, loss), groups, table, target, chunk)
        if done > rounds and all(bool(mask.all()) for mask in kept.values()):
            raise ValueError(f"amount: {budget} cannot be reached with one filter in each layer")
        network = remove(network, groups, kept)
        network = network if train is None else train(network)
