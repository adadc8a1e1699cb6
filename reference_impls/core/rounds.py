"""Removing units in rounds: score what is left, remove some of it, train, and score again."""

import copy
from collections.abc import Callable

from torch import nn

from reference_impls.core.amounts import Amount, sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores, keep_units
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.structures import one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train


def made_by_convolutions(model: nn.Module, groups: list[Group]) -> list[Group]:
    """Those groups whose units are filters.

    Raises:
        ValueError: there is none.
    """
    filters = nn.modules.conv._ConvNd
    found = [g for g in groups if any(isinstance(model.get_submodule(m.layer), filters) for m, _ in weights_among(model, g.producers))]
    if not found:
        raise ValueError("model: nothing to prune, no filter of a convolution can be removed")
    return found


def remove_in_rounds(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    importance: Callable[[nn.Module, list[Group]], Scores],
    *,
    rounds: int,
    train: Train | None,
) -> nn.Module:
    """The network without the units of lowest importance over all groups; after the last round exactly round(sparsity * n) are gone.

    Args:
        batches: one example is taken, to follow the channels.
        amount: the fraction of all scored units to remove; one of each group always stays.
        importance: (network, its groups) -> group name -> importance per unit, for the groups that may be pruned.
        rounds: each removes the same fraction of what is left, >= 1.
        train: (model, callbacks) -> model; called after each round, if given.

    Raises:
        ValueError: `amount` or `rounds` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    plan = sparsities_in_rounds(sparsity(amount), rounds)
    network, total = copy.deepcopy(model), 0
    for reached in plan:
        groups = removable_groups(network, one_example(batches))
        scores = importance(network, groups)
        left = sum(len(score) for score in scores.values())
        total = total or left
        due = round(reached * total) - (total - left)
        network = remove(network, groups, keep_units(scores, min(due, left - len(scores)) / left))
        network = network if train is None else train(network)
    return network
