"""NetAdapt (yang2018netadapt): by hand, against its loop written over widths alone, its budget by counting, and its choice."""

from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import netadapt
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.structures import Costs, removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

EXAMPLE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(*widths):
    torch.manual_seed(0)
    layers = [nn.Conv2d(before, after, 1) for before, after in zip((1, *widths[:-1]), widths, strict=True)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())), nn.Conv2d(widths[-1], 2, 1))


def widths_of(network):
    return [layer.out_channels for layer in network if isinstance(layer, nn.Conv2d)][:-1]


def test_the_choice_by_hand():
    # 0.9 -> 0.7 for 100 -> 60: 0.200001 / 40.00001; 0.9 -> 0.85 for 100 -> 95: 0.050001 / 5.00001, twice as dear
    first, second = netadapt.loss_per_saving(0.7, 0.9, 60, 100), netadapt.loss_per_saving(0.85, 0.9, 95, 100)
    assert first == pytest.approx(0.005000024) and second == pytest.approx(0.01000018)
    # no accuracy lost: the larger saving, as 1e-6 is not nothing
    assert netadapt.loss_per_saving(0.9, 0.9, 10, 100) < netadapt.loss_per_saving(0.9, 0.9, 50, 100)


def test_how_many_filters_go_by_hand():
    # a unit of "a" costs 3, one of "b" 5: 4 * 3 + 3 * 5 = 27
    cost = lambda kept: 3 * kept["a"] + 5 * kept["b"]
    sizes = {"a": 4, "b": 3}
    assert netadapt.fewest_removed(cost, sizes, "a", 24) == 3  # 9 + 15
    assert netadapt.fewest_removed(cost, sizes, "a", 23) == 2  # 24 is too much
    assert netadapt.fewest_removed(cost, sizes, "b", 22) == 2  # 12 + 10
    assert netadapt.fewest_removed(cost, sizes, "b", 21) == 1
    assert netadapt.fewest_removed(cost, sizes, "b", 1) == 1  # not even that is enough
    assert netadapt.fewest_removed(cost, sizes, "a", 27) == 3  # one goes in any case


def test_a_run_by_hand():
    # widths 4, 3; a table says 10 per unit of the first layer and 1 per unit of the second: 43. Accuracy is 0.1 per unit of the second.
    # Budget 25, first step 43 / 4 = 10.75, target 32.25: layer one alone meets it with 2 (20 + 3 = 23 <= 32.25, 33 is too much), no
    # accuracy lost; layer two cannot (41 left with one unit), 0.2 lost. So layer one: 23 <= 25, done
    cost = lambda kept: 10 * kept["0"] + kept["2"]
    seen = []

    def evaluate(network):
        seen.append(widths_of(network))
        return 0.1 * seen[-1][1]

    small = netadapt.prune(chain(4, 3), BATCHES, Budget(seconds=25), evaluate=evaluate, cost=cost, first=0.25)
    assert seen == [[4, 3], [2, 3], [4, 1]]
    assert widths_of(small) == [2, 3]
    # by multiply-accumulates the two layers look alike, and accuracy alone would decide: 1 * 4 + 4 * 3 + 3 * 2 = 22 per pixel
    by_macs = netadapt.prune(chain(4, 3), BATCHES, Budget(macs=64 * 18), evaluate=evaluate, first=0.1)
    assert widths_of(by_macs) == [3, 3]  # 3 + 9 + 6


def plan(cost, sizes, budget, first, decay, accuracy_of):
    """The same loop over widths alone."""
    sizes, now, reached, step, path = dict(sizes), cost(sizes), accuracy_of(sizes), first * cost(sizes), []
    while now > budget:
        tried = []
        for name in sizes:
            options = [n for n in range(1, sizes[name]) if cost(sizes | {name: n}) <= max(now - step, budget)]
            if sizes[name] > 1:
                tried.append(sizes | {name: max(options, default=1)})
        ratios = [(reached - accuracy_of(kept) + 1e-6) / (now - cost(kept) + 1e-5) for kept in tried]
        sizes = tried[ratios.index(min(ratios))]
        now, reached, step = cost(sizes), accuracy_of(sizes), step * decay
        path.append(list(sizes.values()))
    return path


@pytest.mark.parametrize(("fraction", "first", "decay"), [(0.5, 0.05, 0.8), (0.3, 0.2, 1.0), (0.1, 0.025, 0.96)])
def test_same_path_as_the_loop_over_widths(fraction, first, decay):
    model = chain(7, 6, 9)
    groups = removable_groups(model, EXAMPLE)
    worth = lambda kept: 1 - sum((kept - full) ** 2 * weight for kept, full, weight in zip(kept, (7, 6, 9), (3, 5, 2), strict=True)) / 400
    costs = Costs(model, groups, EXAMPLE)
    sizes = {group.name: group.size for group in groups}
    dense = costs(sizes)
    expected = plan(costs, sizes, fraction * dense, first, decay, lambda kept: worth(kept.values()))
    small = netadapt.prune(
        model, BATCHES, Budget(macs=fraction * dense), evaluate=lambda network: worth(widths_of(network)), first=first, decay=decay
    )
    assert len(expected) > 1
    assert widths_of(small) == expected[-1]
    assert counting.macs(small, EXAMPLE) <= fraction * dense


def test_the_largest_filters_stay_and_shortcuts_add_up():
    model = chain(4, 3)
    model[0].weight.data = torch.tensor([1.0, -3.0, 2.0, -0.5]).view(4, 1, 1, 1)
    small = netadapt.prune(model, BATCHES, Budget(macs=64 * 14), evaluate=lambda network: float(widths_of(network)[1] == 3), first=1.0)
    assert small[0].weight.flatten().tolist() == [-3, 2]
    network = resnet8(generator=seeded())
    groups = {group.name: group for group in removable_groups(network, EXAMPLE)}
    # the stem and the first block's second convolution write to one stream
    expected = sum(layer.weight.detach().square().sum((1, 2, 3)) for layer in (network.conv1, network.blocks[0].conv2))
    torch.testing.assert_close(netadapt.squared_norms(network, groups["conv1"]), expected)


@pytest.mark.parametrize("build", [convnet, resnet8])
def test_within_budget_and_the_last_removal_was_needed(build):
    model = build(generator=seeded())
    dense = counting.macs(model, EXAMPLE)
    steps = []

    def adapt(network):
        steps.append(network)
        return network

    small = netadapt.prune(model, BATCHES, Budget(macs=0.55 * dense), evaluate=lambda network: 0.5, adapt=adapt, first=0.15)
    assert counting.macs(small, EXAMPLE) <= 0.55 * dense
    before = {group.name: group.size for group in removable_groups(model, EXAMPLE)}
    after = {group.name: group.size for group in removable_groups(small, EXAMPLE)}
    costs = Costs(model, removable_groups(model, EXAMPLE), EXAMPLE)
    assert costs(after) <= 0.55 * dense
    assert any(costs(after | {name: size + 1}) > 0.55 * dense for name, size in after.items() if size < before[name])
    assert any(step is small for step in steps)  # what comes out is a candidate as it was adapted


def test_a_network_within_its_budget_is_only_trained():
    model = chain(4, 3)
    trained = []
    train = lambda network: trained.append(network) or network
    small = netadapt.prune(model, BATCHES, Budget(macs=64 * 22), evaluate=lambda network: 0.0, train=train)
    assert trained == [small] and small is not model
    assert widths_of(small) == [4, 3]


@pytest.mark.parametrize("given", [{"first": 0.0}, {"first": 1.5}, {"decay": 0.0}, {"decay": 1.1}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        netadapt.prune(chain(4, 3), BATCHES, Budget(macs=1000), evaluate=lambda network: 0.5, **given)


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"amount: .* needs a cost"):
        netadapt.prune(chain(4, 3), BATCHES, Budget(seconds=1.0), evaluate=lambda network: 0.5)
    with pytest.raises(ValueError, match="evaluate"):
        netadapt.prune(chain(4, 3), BATCHES, Budget(macs=1000.0))
    with pytest.raises(ValueError, match="amount: a budget of 100 is out of reach, no layer can shrink below 256"):
        netadapt.prune(chain(4, 3), BATCHES, Budget(macs=100), evaluate=lambda network: 0.5)  # 1 + 1 + 2 per pixel, 64 pixels
    with pytest.raises(ValueError, match="nothing to prune"):
        netadapt.prune(nn.Sequential(nn.Conv2d(1, 2, 3)), BATCHES, Budget(macs=1000), evaluate=lambda network: 0.5)


@pytest.mark.claim
def test_the_choice_by_accuracy_beats_a_blind_one():
    """15 % of the multiply-accumulates are left; at 20 % both reach 92 %, and a network made uniformly narrower and trained for as long

    does as well on these digits. What is shown is that the evaluation decides well when it matters: without it, what saves most goes.
    """
    (inputs, targets), test = digits()
    for seed in range(3):
        train = batches(inputs[:1100], targets[:1100], 64, seeded(seed))
        held_out = [(inputs[1100:], targets[1100:])]
        optimizer = partial(momentum_sgd, learning_rate=0.05)
        trained = fit(convnet(generator=seeded(seed)), train, 6, optimizer=optimizer)
        adapt = lambda network, train=train, optimizer=optimizer: fit(network, train, 1, optimizer=optimizer)
        budget = Budget(macs=0.15 * counting.macs(trained, EXAMPLE))
        reach = lambda look, trained=trained, train=train, budget=budget, adapt=adapt: accuracy(
            netadapt.prune(trained, train, budget, evaluate=look, adapt=adapt, train=adapt, first=0.15), [test]
        )
        assert reach(lambda network, held_out=held_out: accuracy(network, held_out)) > 0.15 + reach(lambda network: 0.5)


def test_what_saves_nothing_is_no_candidate_however_much_it_gains():
    # only the second layer costs anything, and narrowing the first would raise accuracy
    model = chain(4, 3)
    cost = lambda kept: 10.0 * kept["2"]
    evaluate = lambda network: 0.9 if widths_of(network)[0] < 4 else 0.5
    assert widths_of(netadapt.prune(model, BATCHES, Budget(seconds=20.0), evaluate=evaluate, cost=cost)) == [4, 2]


def test_a_layer_of_two_can_become_a_layer_of_one():
    model = chain(2, 2)
    cost = lambda kept: 10.0 * kept["0"] + 10.0 * kept["2"]
    assert widths_of(netadapt.prune(model, BATCHES, Budget(seconds=20.0), evaluate=lambda network: 0.5, cost=cost)) == [1, 1]
