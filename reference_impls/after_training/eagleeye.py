"""EagleEye: of many random prunings the one that is best once its batch normalization is measured anew is fine-tuned (li2020eagleeye).

Idea: how many filters each layer should lose can be found by trying, if candidates can be ranked without fine-tuning each. Their accuracy
right after pruning ranks them badly, mostly because batch normalization still holds the means and variances of the dense network. A few
forward passes in which only these statistics are updated repair that, and the accuracy measured then foretells the one after fine-tuning.
So: draw rates at random, prune, adapt, measure; only the winner is trained.

Cost: per candidate some tens of forward passes and one evaluation; one fine-tuning in all.

Implementation details
1. A rate per layer is drawn evenly between 0 and the largest rate; a draw whose multiply-accumulates miss the target is thrown away.
2. Within a layer the filters of smallest l1 norm go. Maps that a shortcut adds go together, and the first of their layers decides.
3. Adaptation lets the running statistics follow the candidate's own, with no gradient and no weight changed, for about 50 batches of
   training data, by the momentum of the layers; the statistics begin with those of the dense network. As in the authors' code.
4. The authors' largest rates are 0.7 for half the operations of MobileNetV1 or ResNet-50, 0.8 for a quarter.

Deviations: a candidate may cost between 95 % of the budget and all of it; the authors accept half a percent of the dense cost on either
side. The authors' code puts the whole network in training mode to adapt it, here only batch normalization, so dropout stays out.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, slice_norms, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train, evaluating

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"candidates": 3, "passes": 2}
# no exact_count: the draw decides how many filters go; no identity_at_zero or weights_only: a budget is asked, and data ranks
TRAITS = frozenset({"shrinks"})

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
DRAWS = 10_000  # until a search that finds no candidate within the budget gives up


@torch.no_grad()
def adapt(model: nn.Module, batches: Batches, passes: int = 50) -> None:
    """Let batch normalization's running statistics follow those of the model as it is now, in place; nothing else changes.

    Args:
        batches: gone through again until there were enough.
        passes: batches to see, >= 0.
    """
    with evaluating(model):
        for module in model.modules():
            if isinstance(module, NORMS):
                module.train()  # mu <- (1 - m) mu + m mu_batch, and the variance alike
        for inputs, _ in itertools.islice(itertools.cycle(batches), passes):
            model(inputs)


def filter_norms(model: nn.Module, groups: list[Group]) -> dict[str, Tensor]:
    """The l1 norm of each filter, by group: one number per unit. Of several convolutions that make it, the first one's."""
    norms = {}
    for group in groups:
        made = weights_among(model, group.producers)
        leader, weight = next(pair for pair in made if isinstance(model.get_submodule(pair[0].layer), nn.modules.conv._ConvNd))
        norms[group.name] = per_unit(leader, slice_norms(weight, leader.dim), group.size)
    return norms


def strategies(
    groups: list[Group], cost: Callable[[dict[str, int]], float], budget: float, largest_rate: float, generator: torch.Generator | None
):
    """Endless random numbers of kept filters per group, of those whose cost lies between 95 % of the budget and the budget.

    Raises:
        ValueError: none of many draws does.
    """
    while True:
        for _ in range(DRAWS):
            rates = torch.rand(len(groups), generator=generator) * largest_rate
            kept = {group.name: max(group.size - round(float(rate) * group.size), 1) for group, rate in zip(groups, rates, strict=True)}
            if 0.95 * budget <= cost(kept) <= budget:
                break
        else:
            raise ValueError(f"amount: of {DRAWS} random prunings with rates up to {largest_rate} none costs just below {budget:.0f}")
        yield kept


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    candidates: int = 50,
    passes: int = 50,
    largest_rate: float = 0.7,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The best of many random prunings by accuracy after adaptation, fine-tuned if `train` is given.

    Args:
        batches: for adaptation; one example is taken to follow the channels.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model; for the winner only.
        evaluate: model -> accuracy, or another number that is higher for better networks; best on data kept apart.
        candidates: how many are compared, >= 1.
        passes: batches that each candidate's statistics see.
        largest_rate: of each layer's filters, in (0, 1].
        generator: of the draws; the default generator if None.

    Raises:
        ValueError: an argument is out of its range or missing, no batch, a NaN or infinite weight, nothing can be removed, or no random
            pruning costs as much as the budget allows.
    """
    budget = as_amount(amount, Budget).macs
    if budget is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    if evaluate is None:
        raise ValueError("evaluate: this method compares candidates; give evaluate(model) -> float")
    if candidates < 1 or passes < 0 or not 0 < largest_rate <= 1:
        raise ValueError(f"candidates: {candidates}, passes: {passes}, largest_rate: {largest_rate}; needed are >= 1, >= 0, in (0, 1]")
    example = one_example(batches)
    groups = made_by_convolutions(model, removable_groups(model, example))
    norms, cost = filter_norms(model, groups), Costs(model, groups, example)
    best, best_score = None, -float("inf")
    for kept in itertools.islice(strategies(groups, cost, budget, largest_rate, generator), candidates):
        stays = {name: keep_units({name: norms[name]}, 1 - number / len(norms[name]))[name] for name, number in kept.items()}
        candidate = remove(model, groups, stays)
        adapt(candidate, batches, passes)
        score = evaluate(candidate)
        if score > best_score:
            best, best_score = candidate, score
    return best if train is None else train(best)
