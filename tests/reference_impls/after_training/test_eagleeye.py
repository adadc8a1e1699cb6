"""EagleEye (li2020eagleeye): adaptation by hand, the draws and the search against brute force, and its claim."""

import copy
import itertools

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from reference_impls.after_training import eagleeye
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.masks import keep_units
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.arange(8))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(model):
    groups = made_by_convolutions(model, removable_groups(model, IMAGES[:1]))
    return groups, Costs(model, groups, IMAGES[:1])


def dense_cost():
    return counting.macs(resnet8(), IMAGES[:1])


def test_adaptation_by_hand():
    # batches (1, 3) and (5, 9): means 2 and 7, variances with n - 1: 2 and 8. From 0 and 1 by momentum 0.5: 1 and 1.5, then 4 and 4.75.
    # Three passes see the first batch again: 3 and 3.375
    data = [(torch.tensor([[1.0], [3.0]]), None), (torch.tensor([[5.0], [9.0]]), None)]
    for passes, mean, variance in ((0, 0.0, 1.0), (1, 1.0, 1.5), (2, 4.0, 4.75), (3, 3.0, 3.375)):
        model = nn.Sequential(nn.BatchNorm1d(1, momentum=0.5), nn.Dropout(0.5), nn.BatchNorm1d(1)).eval()
        eagleeye.adapt(model, data, passes)
        assert (model[0].running_mean.item(), model[0].running_var.item()) == (mean, variance)
        assert not any(part.training for part in model.modules())


def test_adaptation_changes_no_weight_and_takes_no_gradient():
    model = resnet8(generator=seeded())
    model.blocks[0].train(False)
    before = copy.deepcopy(model)
    eagleeye.adapt(model, BATCHES, 3)
    for (name, parameter), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, other) and parameter.grad is None, name
    assert not torch.equal(model.bn1.running_mean, before.bn1.running_mean)
    assert [part.training for part in model.modules()] == [part.training for part in before.modules()]


def test_dropout_stays_out_of_it():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1, momentum=1.0)).train()
    eagleeye.adapt(model, [(torch.ones(64, 1), None)], 1)
    assert model[1].running_var.item() == 0 and model[0].training


def test_filters_are_ranked_by_the_first_layer_of_those_that_are_added():
    model = resnet8(generator=seeded())
    groups, _ = parts(model)
    norms = eagleeye.filter_norms(model, groups)
    assert norms.keys() == {group.name for group in groups}
    torch.testing.assert_close(norms["conv1"], model.conv1.weight.detach().abs().sum((1, 2, 3)))
    torch.testing.assert_close(norms["blocks.1.conv1"], model.blocks[1].conv1.weight.detach().abs().sum((1, 2, 3)))


def test_rates_are_even_and_costs_lie_just_below_the_budget():
    groups, cost = parts(resnet8(generator=seeded()))
    dense, sizes = cost({}), {group.name: group.size for group in groups}
    drawn = list(itertools.islice(eagleeye.strategies(groups, cost, 0.5 * dense, 0.7, seeded()), 30))
    assert all(0.95 * 0.5 * dense <= cost(kept) <= 0.5 * dense for kept in drawn)
    assert all(round(0.3 * sizes[name]) <= number <= sizes[name] for kept in drawn for name, number in kept.items())
    rates = torch.tensor([1 - number / sizes[name] for kept in drawn for name, number in kept.items()])
    assert rates.min() < 0.1 and rates.max() > 0.6
    assert len({tuple(kept.values()) for kept in drawn}) > 20
    again = eagleeye.strategies(groups, cost, 0.5 * dense, 0.7, seeded())
    assert [next(again) for _ in range(5)] == drawn[:5]
    with pytest.raises(ValueError, match="amount: of"):
        next(eagleeye.strategies(groups, cost, 0.2 * dense, 0.1, seeded()))
    # at rate 1 every layer still keeps a filter, and some no more; exactly 95 % of the budget will do
    smallest = [min(next(eagleeye.strategies(groups, lambda _: 0.95, 1.0, 1.0, seeded(s))).values()) for s in range(20)]
    assert min(smallest) == 1


def test_the_search_is_draw_prune_adapt_measure_and_keep_the_best():
    model = resnet8(generator=seeded())
    judged, tuned = [], []

    def evaluate(candidate):
        judged.append(copy.deepcopy(candidate.state_dict()))
        return [0.3, 0.1, 0.5, 0.5, 0.2][len(judged) - 1]

    def train(candidate):
        tuned.append(copy.deepcopy(candidate.state_dict()))
        return candidate

    budget = 0.5 * dense_cost()
    small = eagleeye.prune(
        model, BATCHES, Budget(macs=budget), train=train, evaluate=evaluate, candidates=5, passes=2, largest_rate=0.8, generator=seeded()
    )
    groups, cost = parts(model)
    norms = eagleeye.filter_norms(model, groups)
    wanted = list(itertools.islice(eagleeye.strategies(groups, cost, budget, 0.8, seeded()), 5))
    for kept, state in zip(wanted, judged, strict=True):
        stays = {name: norms[name] >= norms[name].sort(descending=True).values[number - 1] for name, number in kept.items()}
        candidate = remove(model, groups, stays).train()
        with torch.no_grad():
            candidate(IMAGES), candidate(IMAGES)
        for name, value in candidate.state_dict().items():
            torch.testing.assert_close(state[name], value, msg=name)
    assert len(judged) == 5 and len(tuned) == 1
    assert all(torch.equal(value, judged[2][name]) for name, value in tuned[0].items())  # of two equal ones the first
    assert 0.95 * budget <= counting.macs(small, IMAGES[:1]) <= budget


@pytest.mark.parametrize("given", [{"candidates": 0}, {"passes": -1}, {"largest_rate": 0.0}, {"largest_rate": 1.1}])
def test_refuses_what_is_out_of_range(given):
    model, budget = resnet8(generator=seeded()), Budget(macs=0.6 * dense_cost())
    with pytest.raises(ValueError, match=next(iter(given))):
        eagleeye.prune(model, BATCHES, budget, evaluate=lambda _: 0.0, **given)


def test_refuses_what_is_missing():
    model, budget = resnet8(generator=seeded()), Budget(macs=0.6 * dense_cost())
    with pytest.raises(ValueError, match="evaluate"):
        eagleeye.prune(model, BATCHES, budget)
    with pytest.raises(ValueError, match="batches"):
        eagleeye.prune(model, [], budget, evaluate=lambda _: 0.0)
    assert eagleeye.prune(model, BATCHES, budget, evaluate=lambda _: 0.0, candidates=1, passes=0, largest_rate=1.0, generator=seeded())


@pytest.mark.claim
def test_accuracy_after_adaptation_foretells_the_one_after_fine_tuning():
    # fifteen candidates of a fifth of the cost; rank correlations with the accuracy after an epoch of fine-tuning, mean of three networks.
    # Seen besides, at half the cost: all candidates are tuned to within a point of each other, and neither number ranks them
    (inputs, targets), test = digits()
    stale, adapted = 0.0, 0.0
    for seed in range(3):
        generator = seeded(seed)
        data = batches(inputs, targets, 64, generator)
        model = fit(resnet8(generator=generator), data, 4, optimizer=lambda p: momentum_sgd(p, 0.05))
        groups, cost = parts(model)
        norms, rows = eagleeye.filter_norms(model, groups), []
        for kept in itertools.islice(eagleeye.strategies(groups, cost, 0.2 * cost({}), 0.9, generator), 15):
            stays = {name: keep_units({name: norms[name]}, 1 - number / len(norms[name]))[name] for name, number in kept.items()}
            candidate = remove(model, groups, stays)
            before = accuracy(candidate, [test])
            eagleeye.adapt(candidate, data, 30)
            after = accuracy(candidate, [test])
            rows.append((before, after, accuracy(fit(candidate, data, 1, optimizer=lambda p: momentum_sgd(p, 0.01)), [test])))
        befores, afters, tuned = zip(*rows, strict=True)
        stale += spearmanr(befores, tuned).statistic / 3
        adapted += spearmanr(afters, tuned).statistic / 3
    assert adapted > stale + 0.2
