"""LeGR: learns by evolution one ranking of all filters, whose lower end is cut off at any budget (chin2020efficient).

Idea: norms of filters cannot be compared across layers. Give each layer a scale and a shift of its own, and they can: one list
of all filters, from which the lowest go until the budget is met. The few numbers per layer are found by evolution at the
smallest budget that is wanted; the same list then gives the networks for all larger budgets, with no search of their own.

Cost: each of `candidates` rankings is cut, fine-tuned for a few steps and evaluated once; any further budget costs one cut.

Implementation details (of the authors' code, except where said)
1. What is ranked is the sum of a filter's squared weights. Filters that a shortcut adds together go together, ranked by the sum
   of what their layers give them.
2. The first population draws scales from a log-normal distribution, shifts from a normal one as wide as the layer's norms
   deviate; its last member is the plain norm. Every later candidate is the best of a random sample of the population, mutated in
   a tenth of the layers, and takes the place of the oldest: regularized evolution.
3. A mutation's scale becomes smaller in the course of the search, its shift does not. The layers that mutate are drawn with
   replacement.
4. The best candidate ever seen wins, also when it has died of age since.

Deviations: at least one layer mutates; a tenth of a small network's layers would be none. Fitness is the accuracy that `evaluate`
measures, where the authors' code takes the validation loss. No layer's minimum width is set (the authors' runs: a tenth of it),
one filter of each stays. Filters only: neurons of linear layers stay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train, fit, momentum_sgd

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"candidates": 6, "population": 3, "samples": 2}  # to see that it runs; far too few to learn
# idempotent does not hold: after fine-tuning, the search starts from other norms; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})

Ranking = dict[str, tuple[float, float]]  # layer -> (scale alpha, shift kappa)


def squared_norms(model: nn.Module, groups: Sequence[Group]) -> dict[str, dict[str, Tensor]]:
    """Group -> convolution that makes its units -> sum of squared weights per unit, shape (size of the group,)."""
    found: dict[str, dict[str, Tensor]] = {}
    for group in groups:
        for member, weight in weights_among(model, group.producers):
            if isinstance(model.get_submodule(member.layer), nn.modules.conv._ConvNd):
                norms = weight.double().square().movedim(member.dim, 0).flatten(1).sum(1)
                found.setdefault(group.name, {})[member.layer] = per_unit(member, norms, group.size)
    return found


def scores(norms: Mapping[str, Mapping[str, Tensor]], ranking: Ranking) -> Scores:
    """Where each unit stands in the list of all: group -> (units,); the lowest go first."""
    # I_i = alpha_l ||Theta_i||_2^2 + kappa_l, added over the layers l that make unit i
    return {name: sum(ranking[layer][0] * norm + ranking[layer][1] for layer, norm in made.items()) for name, made in norms.items()}


def cut(ranked: Scores, cost: Callable[[Mapping[str, int]], float], budget: float) -> dict[str, Tensor]:
    """The lowest of the list go, as few as the budget allows; the highest of each group stays: group -> bool per unit, True = kept.

    Args:
        cost: of numbers of kept units per group; removing a unit never makes it larger.

    Raises:
        ValueError: the budget is out of reach.
    """
    flat = sorted((float(value), name, unit) for name, score in ranked.items() for unit, value in enumerate(score.tolist()))
    highest = {name: unit for _, name, unit in flat}  # the last of each group
    flat = [(name, unit) for _, name, unit in flat if highest[name] != unit]

    def without(number: int) -> dict[str, Tensor]:
        kept = {name: torch.ones(len(score), dtype=torch.bool) for name, score in ranked.items()}
        for name, unit in flat[:number]:
            kept[name][unit] = False
        return kept

    price = lambda number: cost({name: int(mask.sum()) for name, mask in without(number).items()})
    if price(len(flat)) > budget:
        raise ValueError(f"amount: a budget of {budget:g} is out of reach, the least is {price(len(flat)):g}")
    low, high = 0, len(flat)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if price(middle) <= budget else (middle + 1, high)
    return without(low)


def mutate(ranking: Ranking, deviations: Mapping[str, float], width: float, generator: torch.Generator | None = None) -> Ranking:
    """The ranking with a tenth of its layers changed, at least one.

    Args:
        deviations: layer -> standard deviation of its norms.
        width: standard deviation of the logarithm of what a scale is multiplied by.
    """
    layers, mutated = list(deviations), dict(ranking)
    number = max(1, len(layers) // 10)
    for place in set(torch.randint(len(layers), (number,), generator=generator).tolist()):
        layer = layers[place]
        drawn, shift = torch.randn(2, generator=generator).tolist()
        scale, before = ranking[layer]
        mutated[layer] = scale * math.exp(width * drawn), before + deviations[layer] * shift
    return mutated


def evolve(
    deviations: Mapping[str, float],
    fitness: Callable[[Ranking], float],
    candidates: int = 400,
    population: int = 64,
    samples: int = 16,
    generator: torch.Generator | None = None,
) -> tuple[Ranking, list[tuple[Ranking, float]]]:
    """The fittest ranking, and all candidates in order, each with its fitness."""
    seen: list[tuple[Ranking, float]] = []
    for number in range(candidates):
        if number == population - 1:
            ranking = dict.fromkeys(deviations, (1.0, 0.0))
        elif number < population:
            drawn = torch.randn(len(deviations), 2, generator=generator).tolist()
            # alpha_l = e^N(0, 1), kappa_l = N(0, sigma_l)
            ranking = {layer: (math.exp(a), sigma * b) for (layer, sigma), (a, b) in zip(deviations.items(), drawn, strict=True)}
        else:
            living = seen[-population:]
            sample = torch.randint(population, (samples,), generator=generator).tolist()
            winner = max((living[place] for place in sample), key=lambda pair: pair[1])
            ranking = mutate(winner[0], deviations, 1 - number / (1.25 * candidates), generator)
        seen.append((ranking, fitness(ranking)))
    return max(seen, key=lambda pair: pair[1])[0], seen


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    lowest: Amount | None = None,
    candidates: int = 400,
    population: int = 64,
    samples: int = 16,
    steps: int = 0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network within the budget that the learned ranking gives, fine-tuned if `train` is given.

    Args:
        batches: one example, to count costs; and what the steps of fine-tuning take.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model.
        evaluate: model -> accuracy in [0, 1], on images held out from training.
        lowest: the budget at which the ranking is learned, `amount` by default; the smallest, if several networks are wanted.
        candidates: rankings that are tried, the first population included.
        population: how many live at a time.
        samples: of which a parent is the fittest.
        steps: of fine-tuning before a candidate is evaluated; the authors' scripts take 0.
        generator: draws the rankings.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `evaluate`, a NaN weight, or nothing can be removed.
    """
    budgets = [as_amount(asked, Budget).macs for asked in (amount, amount if lowest is None else lowest)]
    if None in budgets:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    example = one_example(batches)
    groups = made_by_convolutions(model, removable_groups(model, example))
    if evaluate is None:
        raise ValueError("evaluate: the fitness needs evaluate(model) -> accuracy")
    norms, costs = squared_norms(model, groups), Costs(model, groups, example)
    first = list(islice(cycle(batches), steps))

    def network(ranking: Ranking, budget: float) -> nn.Module:
        return remove(model, groups, cut(scores(norms, ranking), costs, budget))

    def fitness(ranking: Ranking) -> float:
        small = network(ranking, budgets[1])
        return evaluate(fit(small, first, 1, optimizer=lambda weights: momentum_sgd(weights, 0.01)) if first else small)

    deviations = {layer: float(norm.std(unbiased=False)) for made in norms.values() for layer, norm in made.items()}
    learned, _ = evolve(deviations, fitness, candidates, population, samples, generator)
    small = network(learned, budgets[0])
    return small if train is None else train(small)
