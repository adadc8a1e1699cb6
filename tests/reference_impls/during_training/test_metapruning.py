"""MetaPruning (liu2019metapruning): written weights by hand and against a network that is really cut, the search by exhaustion."""

import copy
import itertools
from functools import cache, partial

import pytest
import torch
from torch import nn

from reference_impls.core import counting, surgery
from reference_impls.core.amounts import Budget
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training import metapruning
from reference_impls.during_training.metapruning import SCALES, PruningNet, cross, mutate, numbers, search
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE[:3], torch.tensor([0, 1, 2])), (EXAMPLE[3:], torch.tensor([3, 4, 5]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny():
    """One value in, two channels, one out; a network of four weights."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    return model, removable_groups(model, EXAMPLE[:1])


def test_scales_and_numbers_by_hand():
    assert len(SCALES) == 31 and SCALES[0] == 0.1 and SCALES[1] == 0.13 and SCALES[30] == 1.0
    _, groups = tiny()
    # 2 * 0.1 = 0.2, but one stays; 2 * 0.49 = 0.98; 2 * 0.52 = 1.04; 2 * 0.97 = 1.94; 2
    assert [numbers(groups, (place,)) for place in (0, 13, 14, 29, 30)] == [[1], [1], [1], [1], [2]]


def test_written_weights_by_hand():
    model, groups = tiny()
    net = PruningNet(model, groups, hidden=2, generator=seeded())
    assert net.touching == {"0.weight": [0], "3.weight": [0]}
    first, last = net.writers[0][0], net.writers[0][2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        first.bias.copy_(torch.tensor([-0.5, 0.3]))
        last.weight.copy_(torch.tensor([[1.0, 10.0], [-2.0, 10.0]]))
        last.bias.copy_(torch.tensor([0.25, 0.5]))
    # the widest, 1: hidden (2 - 0.5, -1 + 0.3 -> 0) = (1.5, 0); weights 1.5 + 0.25 and -3 + 0.5
    assert net.weights((30,))["0.weight"].flatten().tolist() == pytest.approx([1.75, -2.5])
    # a tenth: hidden (0.2 - 0.5 -> 0, -0.1 + 0.3) = (0, 0.2); weights 2 + 0.25 and, cut, 0 instead of 2 + 0.5
    assert net.weights((0,))["0.weight"].flatten().tolist() == pytest.approx([2.25, 0.0])
    # what reads the cut channel reads zeros, and is written in full
    assert net.weights((0,))["3.weight"].flatten().tolist() == pytest.approx(
        net.writers[1](torch.tensor([0.1])).flatten().tolist(),
    )


def test_what_is_cut_teaches_nothing_and_the_given_model_learns_nothing():
    model, groups = tiny()
    before = copy.deepcopy(model.state_dict())
    net = PruningNet(model, groups, hidden=4, generator=seeded())
    net.structure = (0,)
    net(EXAMPLE).square().sum().backward()
    gradient = net.writers[0][2].bias.grad
    assert gradient[1] == 0 and gradient[0] != 0
    assert net.writers[1][2].bias.grad[1] == 0 and net.writers[1][2].bias.grad[0] != 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert net.network.get_parameter("0.weight").grad is None


def test_layers_read_the_groups_that_they_touch_and_keep_weights_of_their_own_elsewhere():
    model = resnet8(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    place = {group.name: number for number, group in enumerate(groups)}
    net = PruningNet(model, groups, hidden=3, generator=seeded())
    assert net.touching["conv1.weight"] == [place["conv1"]]
    assert net.touching["blocks.1.conv1.weight"] == sorted([place["conv1"], place["blocks.1.conv1"]])
    assert all(writer[0].in_features == len(places) for writer, places in zip(net.writers, net.touching.values(), strict=True))
    assert all(norm.weight is None and norm.bias is None for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if name.startswith("network.")} == {"network.fc.bias"}
    frozen = PruningNet(model, groups[:1], hidden=3, generator=seeded())
    assert "blocks.0.conv1.weight" in frozen.touching and "blocks.1.conv2.weight" not in frozen.touching
    assert frozen.network.blocks[1].conv2.weight.requires_grad and frozen.network.blocks[1].bn1.weight is not None


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_a_structure_computes_what_a_network_computes_that_is_really_cut(build):
    # the written weights put into a copy of the network, its channels removed by surgery; its normalization trained on the same data
    model = build(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    net = PruningNet(model, groups, hidden=3, generator=seeded())
    structure = tuple((7 * place + 5) % 29 for place in range(len(groups)))
    full = copy.deepcopy(model)
    for module in full.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            module.momentum = None
    with torch.no_grad():
        for name, places in net.touching.items():
            writer = net.writers[list(net.touching).index(name)]
            first, _, last = writer
            encoding = torch.tensor([SCALES[structure[place]] for place in places])
            full.get_parameter(name).copy_(
                (last.weight @ (first.weight @ encoding + first.bias).clamp(min=0) + last.bias).view_as(full.get_parameter(name))
            )
    kept = {g.name: torch.arange(g.size) < n for g, n in zip(groups, numbers(groups, structure), strict=True)}
    small = surgery.remove(full, groups, kept).train()
    with torch.no_grad():
        expected = [small(inputs) for inputs, _ in BATCHES]
    net.structure = structure
    net.train()
    torch.testing.assert_close(net(BATCHES[0][0]), expected[0], rtol=1e-4, atol=1e-4)
    net.take(structure, BATCHES)
    assert not net.training
    torch.testing.assert_close(net(EXAMPLE), small.eval()(EXAMPLE), rtol=1e-4, atol=1e-4)
    other = tuple(29 - place for place in structure)
    net.take(other, BATCHES)
    net.take(structure, BATCHES)  # nothing of the other structure's statistics is left
    torch.testing.assert_close(net(EXAMPLE), small(EXAMPLE), rtol=1e-4, atol=1e-4)


def test_training_draws_structures_and_evaluation_takes_the_widest():
    model = resnet8(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    net = PruningNet(model, groups, hidden=3, generator=seeded(1))
    seen = []
    net.weights = lambda structure: seen.append(structure) or {}
    with torch.no_grad():
        for _ in range(300):
            net(EXAMPLE[:2])
        net.eval()(EXAMPLE[:2])
        net.structure = (3,) * len(groups)
        net.train()(EXAMPLE[:2])
    assert seen[-2] == (30,) * len(groups) and seen[-1] == (3,) * len(groups)
    counts = torch.tensor(seen[:-2]).flatten().bincount(minlength=31)
    assert len(counts) == 31 and ((counts - 300 * len(groups) / 31).abs() < 35).all()  # four deviations of 7.5


def test_mutation_moves_a_tenth_of_the_places_to_any_other():
    parent = (0, 15, 30) * 400
    child = torch.tensor(mutate(parent, seeded()))
    moved = child != torch.tensor(parent)
    assert abs(int(moved.sum()) - 120) < 42  # four deviations of 10.4
    assert child.min() >= 0 and child.max() <= 30
    assert mutate(parent, seeded(), 0.0) == parent
    always = torch.tensor(mutate((4,) * 3000, seeded(), 1.0))
    counts = always.bincount(minlength=31)
    assert counts[4] == 0 and len(counts) == 31 and (counts[counts > 0] > 60).all() and (counts > 0).sum() == 30


def test_a_cross_takes_each_place_from_one_or_the_other():
    one, other = (1,) * 400, (2,) * 400
    child = cross(one, other, seeded())
    assert set(child) == {1, 2} and abs(child.count(1) - 200) < 40
    assert cross(one, one, seeded()) == one


class Counting:
    """A fitness that counts, and a budget: the sum of all places."""

    def __init__(self, value, budget=10**9):
        self.value, self.budget, self.seen = value, budget, []

    def __call__(self, structure):
        self.seen.append(structure)
        return self.value(structure)

    def fits(self, structure):
        return sum(structure) <= self.budget


@pytest.mark.parametrize("seed", range(3))
def test_no_structure_is_tried_twice_or_beyond_the_budget(seed):
    fitness = Counting(lambda structure: float(sum(structure)), budget=40)
    tried = search(4, fitness.fits, fitness, 6, 10, 3, seeded(seed))
    assert len(fitness.seen) == len(set(fitness.seen)) == 60
    assert all(sum(structure) <= 40 for structure in fitness.seen)
    assert list(tried.values()) == sorted(tried.values(), reverse=True)
    assert set(tried) == set(fitness.seen) and all(fitness.value(structure) == value for structure, value in tried.items())


def test_a_generation_is_made_of_the_best_of_all_before():
    # fitness sinks with every trial, so the parents stay the first three of all
    order = itertools.count()
    fitness = Counting(lambda structure: -float(next(order)))
    search(40, fitness.fits, fitness, 5, 20, 3, seeded())
    parents = fitness.seen[:3]
    for generation in range(1, 5):
        children = fitness.seen[20 * generation : 20 * generation + 20]
        alike = [max(sum(a == b for a, b in zip(child, parent, strict=True)) for parent in parents) for child in children]
        assert all(number > 25 for number in alike[:10])  # mutated: nine of ten places are one parent's
        mixed = [all(place in values for place, values in zip(child, zip(*parents, strict=True), strict=True)) for child in children[10:]]
        assert all(mixed) and max(alike[10:]) < 40


def test_what_mutation_leaves_open_is_crossed_and_drawn(monkeypatch):
    # no mutation gives anything new: after ten tries for every place in the generation, ten are crossed and ten drawn
    order, asked = itertools.count(), []
    fitness = Counting(lambda structure: -float(next(order)))
    monkeypatch.setattr(metapruning, "mutate", lambda parent, generator=None: asked.append(parent) or parent)
    search(40, fitness.fits, fitness, 2, 20, 3, seeded())
    assert len(asked) == 200 and set(asked) == set(fitness.seen[:3])
    parents = list(zip(*fitness.seen[:3], strict=True))
    mixed = [all(place in values for place, values in zip(child, parents, strict=True)) for child in fitness.seen[20:]]
    assert mixed == [True] * 10 + [False] * 10


def test_one_parent_is_only_mutated_and_two_are_crossed():
    for parents in (1, 2):
        order = itertools.count()
        fitness = Counting(lambda structure, order=order: -float(next(order)))
        search(40, fitness.fits, fitness, 2, 10, parents, seeded())
        values = list(zip(*fitness.seen[:parents], strict=True))
        mixed = [all(place in own for place, own in zip(child, values, strict=True)) for child in fitness.seen[15:]]
        assert mixed == [parents == 2] * 5


def test_random_structures_that_are_too_dear_are_narrowed_until_they_fit():
    fitness = Counting(lambda structure: 0.0, budget=6)
    search(5, fitness.fits, fitness, 1, 80, 3, seeded())
    assert len(fitness.seen) == 80 and {sum(structure) for structure in fitness.seen} == {6}
    wide = Counting(lambda structure: 0.0)
    search(3, wide.fits, wide, 1, 200, 3, seeded())
    assert torch.tensor(wide.seen).min() == 0 and torch.tensor(wide.seen).max() == 30


def test_ends_when_nothing_new_fits():
    fitness = Counting(lambda structure: 0.0, budget=1)
    tried = search(2, fitness.fits, fitness, 4, 10, 3, seeded())
    assert set(tried) <= {(0, 0), (0, 1), (1, 0)} and len(tried) >= 2


@pytest.mark.parametrize("seed", range(3))
def test_comes_near_the_optimum_of_exhaustive_search(seed):
    # 31^3 structures, a third of which fit; the optimum on the budget's border is found by trying all
    value = lambda s: -((s[0] - 25) ** 2) - (s[1] - 5) ** 2 - (s[2] - 20) ** 2 - 0.5 * (s[0] - s[2]) ** 2
    fitness = Counting(value, budget=40)
    everything = sorted((value(s) for s in itertools.product(range(31), repeat=3) if sum(s) <= 40), reverse=True)
    tried = search(3, fitness.fits, fitness, 20, 30, 8, seeded(seed))
    # of 600 out of 11,000 drawn at random the best would be about the 18th
    assert everything.index(next(iter(tried.values()))) < 6


@cache
def parts():
    model = resnet8(generator=seeded())
    return model, counting.macs(model, EXAMPLE[:1])


def test_trains_the_pruning_net_and_then_the_winner_of_the_search():
    model, dense = parts()
    trained, tried = [], []

    def train(network):
        trained.append(network)
        return network

    def evaluate(network):
        assert not network.training
        tried.append(network.structure)
        return float(len(tried) == 4)

    options = {"generations": 2, "population": 3, "hidden": 2, "generator": seeded()}
    small = metapruning.prune(model, BATCHES, Budget(macs=0.6 * dense), train=train, evaluate=evaluate, **options)
    assert isinstance(trained[0], PruningNet) and trained[1] is small and len(trained) == 2 and len(tried) == 6
    groups = removable_groups(model, EXAMPLE[:1])
    counts = dict(zip((group.name for group in groups), numbers(groups, tried[3]), strict=True))
    assert {name: small.get_submodule(name).out_channels for name in counts} == counts
    assert torch.equal(small.conv1.weight, model.conv1.weight[: counts["conv1"]])
    assert counting.macs(small, EXAMPLE[:1]) <= 0.6 * dense


def test_every_structure_tried_is_within_the_budget():
    model, dense = parts()
    groups = removable_groups(model, EXAMPLE[:1])
    tried = []
    evaluate = lambda network: tried.append(network.structure) or 0.5
    options = {"generations": 1, "population": 12, "hidden": 2, "generator": seeded()}
    metapruning.prune(model, BATCHES[:1], Budget(macs=0.3 * dense), train=lambda network: network, evaluate=evaluate, **options)
    for structure in tried:
        kept = {g.name: torch.arange(g.size) < n for g, n in zip(groups, numbers(groups, structure), strict=True)}
        assert counting.macs(surgery.remove(model, groups, kept), EXAMPLE[:1]) <= 0.3 * dense
    assert len(set(tried)) == 12


def test_the_narrowest_is_found_where_nothing_else_fits():
    model, _ = parts()
    groups = removable_groups(model, EXAMPLE[:1])
    narrowest = surgery.remove(model, groups, {group.name: torch.arange(group.size) < max(1, group.size // 10) for group in groups})
    least = counting.macs(narrowest, EXAMPLE[:1])
    options = {"train": lambda network: network, "evaluate": lambda network: 0.5, "generations": 1, "population": 1, "hidden": 2}
    assert counting.macs(metapruning.prune(model, BATCHES, Budget(macs=least), **options), EXAMPLE[:1]) == least


def test_the_generator_draws_the_first_writers():
    model, groups = tiny()
    state = lambda seed: torch.cat([parameter.flatten() for parameter in PruningNet(model, groups, 3, seeded(seed)).writers.parameters()])
    assert torch.equal(state(0), state(0)) and not torch.equal(state(0), state(1))


def test_refuses_what_cannot_be():
    model, dense = parts()
    options = {"train": lambda network: network, "evaluate": lambda network: 0.5}
    with pytest.raises(ValueError, match=r"amount.*multiply-accumulates"):
        metapruning.prune(model, BATCHES, Budget(bytes=100.0), **options)
    with pytest.raises(ValueError, match=r"amount: a budget of 10 is out of reach, the least is \d+"):
        metapruning.prune(model, BATCHES, Budget(macs=10), **options)
    with pytest.raises(ValueError, match="evaluate"):
        metapruning.prune(model, BATCHES, Budget(macs=dense), train=options["train"])
    with pytest.raises(ValueError, match="train"):
        metapruning.prune(model, BATCHES, Budget(macs=dense), evaluate=options["evaluate"])


@pytest.mark.claim
def test_structures_are_judged_without_training_only_if_the_pruning_net_has_drawn_them():
    # accuracy of six structures that were never trained, with weights from a PruningNet that drew structures while it trained, and
    # from one that was trained as long at full width
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = [(test_inputs, test_targets)]
    reached = {True: 0.0, False: 0.0}
    for seed, drawing in itertools.product(range(3), reached):
        train = batches(inputs, targets, 64, seeded(seed))
        model = convnet(generator=seeded(seed))
        groups = removable_groups(model, EXAMPLE[:1])
        net = PruningNet(model, groups, 16, seeded(seed))
        net.structure = None if drawing else (30,) * len(groups)
        fit(net, train, 12, optimizer=partial(momentum_sgd, learning_rate=0.02))
        for structure in torch.randint(10, 25, (6, len(groups)), generator=seeded(seed)).tolist():
            net.take(tuple(structure), train[:4])
            reached[drawing] += accuracy(net, test) / 18
    assert reached[True] > 0.65 and reached[False] < 0.35
