"""GraphPruning (zhang2022graph): convolutions by hand, neighbours by surgery, written weights against a cut network, and its claim."""

import copy
import itertools
from functools import cache, partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import graph_pruning
from reference_impls.after_training.graph_pruning import GraphPruningNet, normalized
from reference_impls.core import counting, surgery
from reference_impls.core.amounts import Budget
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training.metapruning import SCALES, numbers
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, resnet8

EXAMPLE = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE[:3], torch.tensor([0, 1, 2])), (EXAMPLE[3:], torch.tensor([3, 4, 5]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(hidden=1):
    """One value in, two channels, one out: two layers that share a group."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    return GraphPruningNet(model, removable_groups(model, EXAMPLE[:1]), hidden, seeded())


def test_normalization_by_hand():
    # a chain of three: with themselves they have 2, 3 and 2 neighbours
    chain = torch.tensor([[False, True, False], [True, False, True], [False, True, False]])
    sixth = 6**-0.5
    torch.testing.assert_close(normalized(chain), torch.tensor([[1 / 2, sixth, 0], [sixth, 1 / 3, sixth], [0, sixth, 1 / 2]]))


def test_features_and_weights_by_hand():
    net = tiny()
    assert net.nodes == ["0.weight", "3.weight"] and net.sides == [[[0], []], [[], [0]]]
    assert net.adjacency.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with torch.no_grad():
        for layer, weight, bias in zip(net.convolutions, ([[2.0, -1.0]], [[3.0]]), ([0.5], [-1.0]), strict=True):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        net.writers[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        net.writers[0].bias.copy_(torch.tensor([0.25, 0.5]))
    # a tenth: the first layer makes 0.1 and reads 1, the second makes 1 and reads 0.1; their mean is (0.55, 0.55) for both
    # 2 * 0.55 - 0.55 + 0.5 = 1.05; 3 * 1.05 - 1 = 2.15; weights 2.15 + 0.25 and, cut, 0 instead of -4.3 + 0.5
    torch.testing.assert_close(net.features((0,)).flatten(), torch.tensor([2.15, 2.15]))
    torch.testing.assert_close(net.weights((0,))["0.weight"].flatten(), torch.tensor([2.4, 0.0]))
    # the widest: 2 - 1 + 0.5 = 1.5; 3 * 1.5 - 1 = 3.5; weights 3.75 and -6.5
    torch.testing.assert_close(net.weights((30,))["0.weight"].flatten(), torch.tensor([3.75, -6.5]))
    with torch.no_grad():
        net.convolutions[0].bias.fill_(-9.0)  # the rectifier
        net.convolutions[1].bias.fill_(0.5)
    assert net.features((0,)).flatten().tolist() == [0.5, 0.5]


def test_a_node_knows_what_it_makes_from_what_it_reads_and_averages_what_is_concatenated():
    model = densenet_small(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    net = GraphPruningNet(model, groups, 2, seeded())
    for node, (makes, reads) in zip(net.nodes, net.sides, strict=True):
        assert makes == [p for p, g in enumerate(groups) if node in {m.tensor for m in g.producers}]
        assert reads == [p for p, g in enumerate(groups) if node in {m.tensor for m in g.consumers}]
    assert max(len(reads) for _, reads in net.sides) > 1
    seen = []
    net.convolutions = nn.ModuleList([nn.Identity()])
    net.adjacency = torch.eye(len(net.nodes))
    structure = tuple((7 * place + 5) % 29 for place in range(len(groups)))
    for row, sides in zip(net.features(structure), net.sides, strict=True):
        expected = [sum(SCALES[structure[p]] for p in places) / len(places) if places else 1.0 for places in sides]
        seen.append(row.tolist() == pytest.approx(expected))
    assert all(seen)


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_neighbours_are_the_layers_that_lose_slices_together(build):
    model = build(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    net = GraphPruningNet(model, groups, 2, seeded())
    together = torch.eye(len(net.nodes), dtype=torch.bool)
    for group in groups:
        small = surgery.remove(model, [group], {group.name: torch.arange(group.size) > 0})
        cut = [small.get_parameter(name).shape != model.get_parameter(name).shape for name in net.nodes]
        together |= torch.tensor(cut)[:, None] & torch.tensor(cut)
    assert torch.equal(net.adjacency > 0, together)
    assert not together.all()


def test_a_structure_computes_what_a_network_computes_that_is_really_cut():
    model = resnet8(generator=seeded())
    groups = removable_groups(model, EXAMPLE[:1])
    net = GraphPruningNet(model, groups, 3, seeded())
    structure = tuple((7 * place + 5) % 29 for place in range(len(groups)))
    full = copy.deepcopy(model)
    for module in full.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        hidden = net.features(structure)
        for place, name in enumerate(net.nodes):
            weight = net.writers[place].weight @ hidden[place] + net.writers[place].bias
            full.get_parameter(name).copy_(weight.view_as(full.get_parameter(name)))
        kept = {g.name: torch.arange(g.size) < n for g, n in zip(groups, numbers(groups, structure), strict=True)}
        small = surgery.remove(full, groups, kept).train()
        net.structure = structure
        torch.testing.assert_close(net.train()(EXAMPLE), small(EXAMPLE), rtol=1e-4, atol=1e-4)


def test_the_graph_network_learns_together_with_what_it_writes():
    net = tiny(hidden=3)
    net.structure = (30,)
    net(EXAMPLE).square().sum().backward()
    trained = [*net.convolutions.parameters(), *net.writers.parameters()]
    assert all(parameter.grad is not None for parameter in trained) and any(parameter.grad.any() for parameter in trained)
    states = [torch.cat([p.flatten() for p in GraphPruningNet(net.network, net.groups, 3, seeded(s)).parameters()]) for s in (0, 0, 1)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@cache
def parts():
    model = resnet8(generator=seeded())
    return model, counting.macs(model, EXAMPLE[:1])


def test_the_agent_sees_learned_features_and_earns_the_negative_error(monkeypatch):
    model, dense = parts()
    seen, trained = {}, []

    def search(space, agent, episodes, warmup, generator):
        seen.update(space=space, agent=agent, episodes=episodes, warmup=warmup)
        return [11, *[21] * (len(space.sizes) - 1)], []

    monkeypatch.setattr(graph_pruning, "search", search)
    options = {"train": lambda network: trained.append(network) or network, "evaluate": lambda network: 0.75, "hidden": 5}
    small = graph_pruning.prune(model, BATCHES, Budget(macs=0.9 * dense), **options, episodes=7, warmup=3, generator=seeded())
    net, space = trained[0], seen["space"]
    groups = net.groups
    assert isinstance(net, GraphPruningNet) and trained[1] is small and (seen["episodes"], seen["warmup"]) == (7, 3)
    assert space.sizes == [31] * len(groups) and space.least == [1] * len(groups) and space.budget == 0.9 * dense
    # the state of the third step: its layer's features, the first two as chosen, all others wide
    structure = (4, 9, *[30] * (len(groups) - 2))
    node = net.nodes.index(f"{groups[2].name}.weight")
    assert torch.equal(space.state([5, 10]), net.features(structure)[node].detach())
    assert seen["agent"].actor[0].in_features == 5
    assert space.reward([5] * len(groups)) == pytest.approx(-0.25)
    assert net.structure == (4,) * len(groups)
    counts = dict(zip((g.name for g in groups), numbers(groups, (10, *[20] * (len(groups) - 1))), strict=True))
    assert space.cost([11, *[21] * (len(groups) - 1)]) == counting.macs(small, EXAMPLE[:1])
    assert {name: small.get_submodule(name).out_channels for name in counts} == counts
    assert torch.equal(small.conv1.weight, model.conv1.weight[: counts["conv1"]])


def test_every_structure_tried_is_within_the_budget_and_the_best_is_trained():
    model, dense = parts()
    groups = removable_groups(model, EXAMPLE[:1])
    tried = []

    def evaluate(network):
        tried.append(network.structure)
        return float(len(tried) == 5)

    options = {"episodes": 8, "warmup": 6, "hidden": 2, "generator": seeded()}
    small = graph_pruning.prune(model, BATCHES, Budget(macs=0.4 * dense), train=lambda network: network, evaluate=evaluate, **options)
    for structure in tried:
        kept = {g.name: torch.arange(g.size) < n for g, n in zip(groups, numbers(groups, structure), strict=True)}
        assert counting.macs(surgery.remove(model, groups, kept), EXAMPLE[:1]) <= 0.4 * dense
    assert len(tried) == 8
    assert [small.get_submodule(g.name).out_channels for g in groups] == numbers(groups, tried[4])


def test_the_narrowest_is_reached_and_nothing_below_it():
    model, dense = parts()
    groups = removable_groups(model, EXAMPLE[:1])
    kept = {group.name: torch.arange(group.size) < max(1, group.size // 10) for group in groups}
    least = counting.macs(surgery.remove(model, groups, kept), EXAMPLE[:1])
    options = {"train": lambda network: network, "evaluate": lambda network: 0.5, "episodes": 1, "warmup": 1, "hidden": 2}
    assert counting.macs(graph_pruning.prune(model, BATCHES, Budget(macs=least), **options), EXAMPLE[:1]) == least
    with pytest.raises(ValueError, match=rf"amount: a budget of \d+ is out of reach, the least is {least}"):
        graph_pruning.prune(model, BATCHES, Budget(macs=least - 1), **options)
    with pytest.raises(ValueError, match=r"amount.*multiply-accumulates"):
        graph_pruning.prune(model, BATCHES, Budget(bytes=100.0), **options)
    with pytest.raises(ValueError, match="evaluate"):
        graph_pruning.prune(model, BATCHES, Budget(macs=dense), train=options["train"])
    with pytest.raises(ValueError, match="train"):
        graph_pruning.prune(model, BATCHES, Budget(macs=dense), evaluate=options["evaluate"])


@pytest.mark.claim
def test_any_structure_gets_usable_weights_only_if_structures_were_drawn_in_training():
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = [(test_inputs, test_targets)]
    reached = {True: 0.0, False: 0.0}
    for seed, drawing in itertools.product(range(3), reached):
        train = batches(inputs, targets, 64, seeded(seed))
        model = convnet(generator=seeded(seed))
        groups = removable_groups(model, EXAMPLE[:1])
        net = GraphPruningNet(model, groups, 16, seeded(seed))
        net.structure = None if drawing else (30,) * len(groups)
        fit(net, train, 12, optimizer=partial(momentum_sgd, learning_rate=0.02))
        for structure in torch.randint(10, 25, (6, len(groups)), generator=seeded(seed)).tolist():
            net.take(tuple(structure), train[:4])
            reached[drawing] += accuracy(net, test) / 18
    assert reached[True] > 0.2 + reached[False], reached
