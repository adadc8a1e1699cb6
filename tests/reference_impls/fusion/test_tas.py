"""TAS (dong2019network): mixtures, draws and expected costs by hand and by enumeration, sizes that are known to be right, distillation."""

import copy
import itertools
import math
from functools import cache

import pytest
import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, removable_groups
from reference_impls.core.training import cross_entropy, fit
from reference_impls.fusion import tas
from reference_impls.fusion.tas import Choice, Distillation, Search, build, depths, mixture, widths
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import ResNet, convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))] * 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def deep(blocks=3, width=4):
    torch.manual_seed(0)
    return ResNet(blocks, width, 1, 10)


@cache
def parts(build=deep):
    model = build()
    groups = made_by_convolutions(model, removable_groups(model, EXAMPLE[:1]))
    return model, groups, Costs(model, groups, EXAMPLE[:1])


def searching(build=deep, with_depth=True):
    model, groups, costs = parts(build)
    return Search(model, [*widths(model, groups), *(depths(model, EXAMPLE[:1]) if with_depth else [])], costs, seeded())


def test_a_mixture_by_hand():
    # four channels of one pixel; two of them, stretched to three: (1, 1.5, 2), and three: (1, 2, 3); 0.25 and 0.75
    maps = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    assert mixture(maps, [2, 3], torch.tensor([0.25, 0.75])).flatten().tolist() == [1.0, 1.875, 2.75, 0.0]
    assert mixture(maps, [3, 2], torch.tensor([0.75, 0.25])).flatten().tolist() == [1.0, 1.875, 2.75, 0.0]
    # one, stretched to two: (1, 1) and (1, 2)
    assert mixture(maps, [1, 2], torch.tensor([0.5, 0.5])).flatten().tolist() == [1.0, 1.5, 0.0, 0.0]
    assert torch.equal(mixture(maps, [4], torch.tensor([1.0])), maps)


def test_a_mixture_stretches_channels_and_nothing_else():
    # the authors' definition: channel i of C' is the mean of those from floor(i C / C') to ceil((i + 1) C / C')
    maps = torch.randn(2, 7, 3, 2, generator=seeded())
    mixed = mixture(maps, [5, 7], torch.tensor([1.0, 0.0]))
    for channel in range(7):
        low, high = channel * 5 // 7, math.ceil((channel + 1) * 5 / 7)
        torch.testing.assert_close(mixed[:, channel], maps[:, low:high].mean(1))


def test_widths_and_where_they_are_mixed():
    model, groups, _ = parts(resnet8)
    found = {choice.name: choice for choice in widths(model, groups)}
    assert set(found) == {group.name for group in groups}
    assert found["conv1"].sizes == (2, 3, 4, 5, 6, 7, 8)  # 2.4, 3.2, 4, 4.8, 5.6, 6.4, 7.2, 8
    assert found["blocks.2.conv1"].sizes == (9, 12, 16, 19, 22, 25, 28, 32)
    assert found["conv1"].modules == ("bn1", "blocks.0.bn2") and not found["conv1"].depth
    model, groups, _ = parts(densenet_small)
    assert all("bn" not in module for choice in widths(model, groups) for module in choice.modules)
    tiny = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    assert widths(tiny, removable_groups(tiny, EXAMPLE[:1])) == [Choice("0", (1, 2), ("0",), False)]


def test_depths_are_thirds_of_stages():
    model, *_ = parts()
    assert depths(model, EXAMPLE[:1]) == [
        Choice(f"depth of blocks.{first}", (1, 2, 3), tuple(f"blocks.{first + i}" for i in range(3)), True) for first in (0, 3, 6)
    ]
    assert [choice.sizes for choice in depths(deep(7, 2), EXAMPLE[:1])] == [(2, 4, 7)] * 3
    assert [choice.sizes for choice in depths(deep(2, 2), EXAMPLE[:1])] == [(1, 2)] * 3
    assert depths(parts(resnet8)[0], EXAMPLE[:1]) == depths(parts(convnet)[0], EXAMPLE[:1]) == []
    frozen = deep()
    frozen.blocks[1].conv1.weight.requires_grad_(False)  # a frozen block must not go, so it begins a stage
    assert depths(frozen, EXAMPLE[:1])[0].modules == ("blocks.1", "blocks.2")


@pytest.mark.parametrize("build_network", [resnet8, convnet, mobilenet_small, deep])
def test_the_cost_of_picked_sizes_is_that_of_the_network_built(build_network):
    search = searching(build_network)
    model, groups, _ = parts(build_network)
    for seed in range(4):
        picked = [int(torch.randint(len(choice.sizes), (), generator=seeded(7 * seed + i))) for i, choice in enumerate(search.choices)]
        small = build(model, groups, search.choices, picked)
        assert counting.macs(small, EXAMPLE[:1]) == pytest.approx(float(search.cost(picked)))
        for choice, place in zip(search.choices, picked, strict=True):
            if not any(other.depth for other in search.choices):  # else blocks are gone, and later ones have other names
                assert small.get_submodule(choice.name).out_channels == choice.sizes[place]
    whole = build(model, groups, search.choices, [len(choice.sizes) - 1 for choice in search.choices])
    torch.testing.assert_close(whole.eval()(EXAMPLE), copy.deepcopy(model).eval()(EXAMPLE))


def test_what_is_left_of_a_stage_are_its_first_blocks():
    model, groups, _ = parts()
    choices = depths(model, EXAMPLE[:1])
    small = build(model, groups, choices, [0, 2, 1])
    assert len(small.blocks) == 1 + 3 + 2
    for ours, theirs in zip(small.blocks, (0, 3, 4, 5, 6, 7), strict=True):
        assert torch.equal(ours.conv1.weight, model.blocks[theirs].conv1.weight)
    assert len(model.blocks) == 9


def test_the_expected_cost_by_enumeration():
    # two layers and a depth: the cost is linear in each size for itself, so the mean over all combinations, each with its probability,
    # is the cost at the mean sizes
    search = searching()
    search.choices = [search.choices[0], search.choices[3], search.choices[-1]]
    search.logits = [torch.randn(len(choice.sizes), generator=seeded(i)).double() for i, choice in enumerate(search.choices)]
    assert [choice.depth for choice in search.choices] == [False, False, True]
    chances = [logits.softmax(0).tolist() for logits in search.logits]
    mean = sum(
        float(search.cost(picked)) * math.prod(chance[place] for chance, place in zip(chances, picked, strict=True))
        for picked in itertools.product(*(range(len(choice.sizes)) for choice in search.choices))
    )
    assert float(search.cost()) == pytest.approx(mean)


def test_the_expected_cost_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    groups = removable_groups(model, EXAMPLE[:1])
    search = Search(model, [Choice("0", (1, 4), ("0",), False)], Costs(model, groups, EXAMPLE[:1]), seeded())
    search.logits = [torch.tensor([0.25, 0.75]).log().requires_grad_(True)]
    # mean width 3.25: 64 pixels * (3.25 + 2 * 3.25) = 624
    assert search.cost().item() == pytest.approx(624)
    # too dear: 4 channels cost 768; log 624, and its gradient pulls towards the smaller width
    assert search.penalty(700.0).item() == pytest.approx(math.log(624))
    search.penalty(700.0).backward()
    assert search.logits[0].grad[0] < 0 < search.logits[0].grad[1]
    assert search.penalty(768.0).item() == 0 and search.penalty(800.0).item() == 0  # 768 is above 0.95 * 800 = 760
    assert search.penalty(810.0).item() == pytest.approx(-math.log(624))  # below 769.5
    assert search.structure(768.0) == [1] and search.structure(767.0) == [0]


def test_sizes_go_down_where_that_costs_least_probability():
    search = searching(convnet)
    search.logits = [torch.zeros(len(choice.sizes)).double() for choice in search.choices]
    for place, logits in enumerate(search.logits):
        logits[-1] = 2.0 + place
    search.logits[1][-2] = 3.0 - 1e-3  # almost as probable as the largest of the same layer
    top = [len(choice.sizes) - 1 for choice in search.choices]
    full = float(search.cost(top))
    assert search.structure(full) == top
    down = search.structure(full - 1)
    assert down == [top[0], top[1] - 1, *top[2:]]
    # next the first layer's, which is worth 2; then free steps, as all smaller sizes are as probable
    less = search.structure(float(search.cost(down)) - 1)
    assert less == [top[0] - 1, top[1] - 1, *top[2:]]


class Recorded(Search):
    """Runs no network."""

    def __init__(self, logits, choices, generator):
        self.logits, self.choices, self.generator, self.network = logits, choices, generator, lambda inputs: inputs


def test_two_widths_are_drawn_by_their_probabilities_and_all_depths_are_weighted():
    chances = torch.tensor([0.6, 0.3, 0.1]).double()
    search = Recorded([chances.log(), chances.log()], [Choice("w", (3, 5, 9), (), False), Choice("d", (1, 2, 4), (), True)], seeded())
    first, kept = torch.zeros(3), torch.zeros(3)
    for _ in range(3000):
        search(None, 1.0)
        (sizes, weights), (all_sizes, all_weights) = search.drawn
        assert len(set(sizes)) == 2 and weights.sum().item() == pytest.approx(1)
        assert sorted(all_sizes) == [1, 2, 4] and all_weights.sum().item() == pytest.approx(1)
        first[(3, 5, 9).index(sizes[int(weights.argmax())])] += 1
        kept[(1, 2, 4).index(all_sizes[int(all_weights.argmax())])] += 1
    # the largest of log p + Gumbel noise is a draw from p; four deviations are 0.036
    assert (kept / 3000 - chances).abs().max() < 0.036
    assert first[0] > first[1] > first[2] > 100
    # without heat the draw decides alone, with much heat nothing does
    search(None, 1e-4)
    assert search.drawn[1][1].max() > 0.999
    search(None, 1e4)
    assert (search.drawn[1][1] - 1 / 3).abs().max() < 0.01


def test_a_network_runs_at_its_mixed_sizes():
    # at one size each it is the network built of these sizes: first channels, first blocks; what is filled up is zero behind the norms
    search = searching()
    model, groups, _ = parts()
    picked = [int(torch.randint(len(choice.sizes), (), generator=seeded(i))) for i, choice in enumerate(search.choices)]
    assert any(p < 2 for c, p in zip(search.choices, picked, strict=True) if c.depth)
    search.network.eval()
    small = build(model, groups, search.choices, picked).eval()
    search.drawn = [([choice.sizes[place]], torch.ones(1)) for choice, place in zip(search.choices, picked, strict=True)]
    torch.testing.assert_close(search.network(EXAMPLE), small(EXAMPLE), rtol=1e-4, atol=1e-5)
    # a stage at two depths: the mean of what one and three of its blocks put out
    depth = next(place for place, choice in enumerate(search.choices) if choice.depth)
    whole = copy.deepcopy(model).eval()
    search.drawn = [([choice.sizes[-1]], torch.ones(1)) for choice in search.choices]
    search.drawn[depth] = ([1, 3], torch.tensor([0.25, 0.75]))
    x = torch.relu(whole.bn1(whole.conv1(EXAMPLE)))
    one = whole.blocks[0](x)
    x = 0.25 * one + 0.75 * whole.blocks[2](whole.blocks[1](one))
    for block in whole.blocks[3:]:
        x = block(x)
    torch.testing.assert_close(search.network(EXAMPLE), whole.fc(x.mean((2, 3))), rtol=1e-4, atol=1e-5)


def test_distillation_by_hand():
    # logits (0, 2 ln 3) and (0, 0), T = 2: the teacher says (1/4, 3/4), the network (1/2, 1/2);
    # KL = 1/4 ln(1/2) + 3/4 ln(3/2); times 0.5 * 4 / 0.5
    teacher, student = nn.Linear(1, 2), nn.Linear(1, 2)
    for layer, bias in ((teacher, [0.0, 2 * math.log(3)]), (student, [0.0, 0.0])):
        layer.weight.data.zero_()
        layer.bias.data = torch.tensor(bias)
    method = Distillation(teacher, 0.5, 2.0)
    method.start(student, None)
    student(torch.ones(3, 1))
    penalty = method.penalty(student)
    assert penalty.item() == pytest.approx(4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5)))
    penalty.backward()
    # towards the teacher: 4 / 2 * (p - q), q of the teacher
    torch.testing.assert_close(student.bias.grad, 2 * torch.tensor([0.25, -0.25]))
    assert teacher.bias.grad is None and method.teacher.bias.grad is None
    # together with the cross entropy it is the authors' loss over 1 - alpha
    method = Distillation(teacher, 0.9, 2.0)
    method.start(student, None)
    outputs, targets = student(torch.ones(3, 1)), torch.tensor([0, 1, 1])
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    theirs = 0.1 * cross_entropy(outputs, targets) + 0.9 * 4 * divergence
    torch.testing.assert_close(cross_entropy(outputs, targets) + method.penalty(student), theirs / 0.1)
    assert method.finish(student) is student and len(student._forward_hooks) == 1  # that of the first method is still there


def test_weights_and_sizes_learn_in_turns_from_their_own_halves(monkeypatch):
    model, _, costs = parts(convnet)
    seen = []

    class Spy(Search):
        def __call__(self, inputs, temperature):
            seen.append((int(inputs[0, 0, 0, 0]), temperature, [logits.detach().clone() for logits in self.logits]))
            return super().__call__(inputs, temperature)

    data = [(torch.full((4, 1, 8, 8), float(place)) + EXAMPLE * (place > 9), torch.tensor([0, 1, 2, 3])) for place in range(4)]
    monkeypatch.setattr(tas, "Search", Spy)
    tas.prune(model, data, Budget(macs=0.5 * costs({})), train=lambda network, callbacks: network, epochs=2, generator=seeded())
    assert [place for place, _, _ in seen] == [0, 1, 2, 3, 0, 1, 2, 3]
    # the logits change after every second pass only
    same = [all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True)) for one, other in itertools.pairwise(seen)]
    assert same == [True, False] * 3 + [True]
    heats = [heat for _, heat, _ in seen[::2]]
    assert heats == pytest.approx([5.0, 0.1 + 4.9 * (1 + math.sqrt(0.5)) / 2, 2.55, 0.1 + 4.9 * (1 - math.sqrt(0.5)) / 2])


def test_the_network_found_is_trained_by_its_teacher_and_fits():
    model, _, costs = parts()
    given = []

    def train(network, callbacks):
        given.append(callbacks)
        return fit(network, BATCHES, 1, callbacks)

    small = tas.prune(model, BATCHES[:1], Budget(macs=0.4 * costs({})), train=train, epochs=1, generator=seeded())
    [[method]] = given
    assert isinstance(method, Distillation)
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), model.parameters(), strict=True))
    assert counting.macs(small, EXAMPLE[:1]) <= 0.4 * costs({}) and not small._forward_hooks


def test_refuses_what_cannot_be():
    model, _, costs = parts(convnet)
    with pytest.raises(ValueError, match=r"amount.*multiply-accumulates"):
        tas.prune(model, BATCHES, Budget(seconds=1.0), train=fit)
    with pytest.raises(ValueError, match=r"amount: a budget of 100 is out of reach, the least is \d+"):
        tas.prune(model, BATCHES, Budget(macs=100), train=fit)
    with pytest.raises(ValueError, match="train"):
        tas.prune(model, BATCHES, Budget(macs=0.5 * costs({})))


@pytest.mark.claim
def test_the_search_leads_the_most_probable_sizes_to_the_budget(monkeypatch):
    # before anything is made to fit: their cost at two budgets; without the penalty they stay too dear for the smaller one
    (inputs, targets), _ = digits()
    found = {}

    class Spy(Search):
        def structure(self, budget):
            found[self.kind].append(float(self.cost([int(logits.argmax()) for logits in self.logits])) / budget)
            return super().structure(budget)

    class Free(Spy):
        def penalty(self, budget, tolerance=0.05):
            return torch.tensor(0.0)

    for (name, kind, share), seed in itertools.product((("led", Spy, 0.3), ("led", Spy, 0.8), ("free", Free, 0.3)), range(3)):
        kind.kind = (name, share)
        found.setdefault(kind.kind, [])
        monkeypatch.setattr(tas, "Search", kind)
        model = convnet(generator=seeded(seed))
        budget = Budget(macs=share * counting.macs(model, EXAMPLE[:1]))
        data = batches(inputs, targets, 64, seeded(seed))[:16]
        tas.prune(model, data, budget, train=lambda network, callbacks: network, epochs=4, generator=seeded(seed))
    for share in (0.3, 0.8):
        assert all(0.85 < reached < 1.15 for reached in found["led", share])
    assert all(reached > 1.15 for reached in found["free", 0.3])
