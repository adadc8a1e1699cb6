"""HALP (shen2022structural): by hand, against all ways to fill the knapsack, by budgets that are kept, and against a rank without costs."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import latency_saliency_knapsack as halp
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE[:2], torch.tensor([0, 1])), (EXAMPLE[2:], torch.tensor([2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(first, second):
    """1x1 convolutions without bias: one channel, then as many as given, then as many rows as given, then one."""
    model = nn.Sequential(
        nn.Conv2d(1, len(first), 1, bias=False), nn.Conv2d(len(first), len(second), 1, bias=False), nn.Conv2d(len(second), 1, 1, bias=False)
    )  # fmt: skip
    model[0].weight.data = torch.tensor(first)[:, None, None, None]
    model[1].weight.data = torch.tensor(second)[:, :, None, None]
    nn.init.ones_(model[2].weight)
    return model


def test_the_knapsack_by_hand():
    # of each item one option; within 5: 3 + 4 = 7 at cost 2 + 3, not 5 + 4 at 4 + 3, not 5 + 1 = 6 at 4 + 1
    assert halp.knapsack([[5, 3, 1], [4, 1]], [[4, 2, 1], [3, 1]], 5, cells=5) == [1, 0]
    assert halp.knapsack([[5, 3, 1], [4, 1]], [[4, 2, 1], [3, 1]], 7, cells=7) == [0, 0]
    assert halp.knapsack([[5, 3, 1], [4, 1]], [[4, 2, 1], [3, 1]], 1, cells=9) == [2, 1]  # nothing fits: the cheapest
    assert halp.knapsack([[5, 3], [4, 1]], [[4, 2], [3, 1]], -1.0) == [1, 1]
    assert halp.knapsack([[1, 2]], [[0, 0]], 1.0) == [1]
    # costs are rounded up: 1.1 and 2.9 take two and three of four cells
    assert halp.knapsack([[9, 1], [8, 1]], [[1.1, 1], [2.9, 1]], 4, cells=4) == [0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_the_best_of_all_ways(seed):
    generator = seeded(seed)
    values = [sorted((torch.rand(4, generator=generator) * 10).tolist(), reverse=True) for _ in range(4)]
    costs = [sorted(torch.randint(0, 9, (4,), generator=generator).tolist(), reverse=True) for _ in range(4)]
    capacity = 14
    found = halp.knapsack(values, costs, capacity, cells=capacity)
    allowed = [pick for pick in itertools.product(range(4), repeat=4) if sum(c[p] for c, p in zip(costs, pick, strict=True)) <= capacity]
    if not allowed:
        assert found == [min(range(4), key=cost.__getitem__) for cost in costs]
    else:
        best = max(sum(v[p] for v, p in zip(values, pick, strict=True)) for pick in allowed)
        assert sum(c[p] for c, p in zip(costs, found, strict=True)) <= capacity
        assert sum(v[p] for v, p in zip(values, found, strict=True)) == pytest.approx(best)


def test_saliency_by_hand():
    # y = 3 a x, L = mean(y), so a dL/da = 3 a mean(x). Batch one: x = 1, 3, so |6 a|; batch two: x = -1, so |-3 a|
    # a = 1 and -2: (6 + 3) / 2 and (12 + 6) / 2; the absolute value is taken for each batch
    model = chain([1.0, -2.0], [[3.0, 3.0]])
    group = removable_groups(model, torch.ones(1, 1, 1, 1))[0]
    data = [(torch.tensor([1.0, 3.0])[:, None, None, None], None), (torch.tensor([-1.0])[:, None, None, None], None)]
    found = halp.saliency(model, [group], data, lambda outputs, _: outputs.mean())
    assert found["0"].tolist() == [4.5, 9.0]
    with pytest.raises(ValueError, match="batches"):
        halp.saliency(model, [group], [])


def test_tied_normalizations_add_up_before_the_absolute_value():
    model = resnet8(generator=seeded()).eval()
    group = next(group for group in removable_groups(model, EXAMPLE) if group.name == "conv1")
    found = halp.saliency(model, [group], [(EXAMPLE, torch.arange(4))])["conv1"]
    norms = [model.bn1, model.blocks[0].bn2]
    nn.functional.cross_entropy(model(EXAMPLE), torch.arange(4)).backward()
    expected = sum(norm.weight * norm.weight.grad + norm.bias * norm.bias.grad for norm in norms).abs()
    torch.testing.assert_close(found, expected.detach())


def test_a_layer_is_paid_by_the_filters_that_it_makes():
    model = convnet(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    table = halp.Table(model, groups, EXAMPLE[:1], None)
    assert table.total() == counting.macs(model, EXAMPLE[:1])
    second = next(group for group in groups if group.name == "features.3")
    assert table.of(second, 8) == 64 * 8 * 8 * 9  # pixels, channels read, channels made, kernel
    assert table.of(second, 2) == 64 * 8 * 2 * 9
    model = resnet8(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    table = halp.Table(model, groups, EXAMPLE[:1], lambda layer, read, made: 1000 * read + made)
    stream = next(group for group in groups if group.name == "conv1")
    assert table.of(stream, 5) == (1000 * 1 + 5) + (1000 * 8 + 5)  # the stem reads one channel, the first block's end eight


def test_which_filters_stay_by_hand():
    # saliencies 4, 1, 3 and 5, 2; costs 10 for each filter of the first layer and 1 for each of the second, 7 for the rest
    model = chain([1.0, 1.0, 1.0], [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    groups = removable_groups(model, torch.ones(1, 1, 1, 1))
    table = halp.Table(model, groups, torch.ones(1, 1, 1, 1), lambda layer, read, made: {"0": 10.0, "1": 1.0, "2": 7.0}[layer] * made)
    scores = {"0": torch.tensor([4.0, 1.0, 3.0]), "1": torch.tensor([5.0, 2.0])}
    for target, first, second in (
        (39, [1, 1, 1], [1, 1]),
        (38.1, [1, 0, 1], [1, 1]),  # 7 + 7 at 20 + 2, rather than 8 + 5 at 30 + 1
        (28.1, [1, 0, 1], [1, 0]),  # 7 + 5 at 20 + 1, rather than 4 + 7 at 10 + 2
        (19.1, [1, 0, 0], [1, 1]),
        (18.1, [1, 0, 0], [1, 0]),
    ):
        kept = halp.filters_to_keep(scores, groups, table, target)
        assert (kept["0"].long().tolist(), kept["1"].long().tolist()) == (first, second), target
    kept = halp.filters_to_keep(scores, groups, table, 38.1, chunk=2)
    assert (kept["0"].long().tolist(), kept["1"].long().tolist()) == ([1, 0, 0], [1, 1])  # three filters, or one


@pytest.mark.parametrize("build", [resnet8, convnet])
@pytest.mark.parametrize("part", [0.7, 0.2])
def test_the_budget_is_kept_and_used(build, part):
    model = build(generator=seeded())
    dense = counting.macs(model, EXAMPLE[:1])
    small = halp.prune(model, BATCHES, Budget(macs=part * dense), rounds=12)
    assert 0.85 * part * dense < counting.macs(small, EXAMPLE[:1]) <= part * dense


def test_latency_that_comes_in_steps_leaves_whole_steps():
    def steps_of_four(layer, read, made):
        return float(-(-made // 4))

    model = convnet(generator=seeded())  # 2 + 2 + 4 + 4 steps of filters, 16 and 3 of the two linear layers
    small = halp.prune(model, BATCHES, Budget(seconds=27.0), latency=steps_of_four, rounds=1)
    widths = [small.features[i].out_channels for i in (0, 3, 7, 10)]
    assert all(width % 4 == 0 for width in widths)
    assert sum(widths) == 32
    small = halp.prune(model, BATCHES, Budget(macs=50000.0), rounds=2, chunk=4)
    assert all(small.features[i].out_channels % 4 == 0 for i in (0, 3, 7, 10))


def test_rounds_approach_the_budget_and_training_comes_after_each():
    model, seen = resnet8(generator=seeded()), []
    dense = counting.macs(model, EXAMPLE[:1])

    def train(network):
        seen.append(counting.macs(network, EXAMPLE[:1]) / dense)
        return network

    halp.prune(model, BATCHES, Budget(macs=dense / 8), rounds=3, train=train)
    # at most 1/2, 1/4, 1/8 of the cost
    assert all(part <= target for part, target in zip(seen, (1 / 2, 1 / 4, 1 / 8), strict=False))
    assert seen[0] > 1 / 5  # the first round does not go further than it must
    assert 2 <= len(seen) <= 3
    seen.clear()
    small = halp.prune(model, BATCHES, Budget(macs=float(dense)), train=train)
    assert not seen
    assert counting.macs(small, EXAMPLE[:1]) == dense


def test_bad_input_is_refused():
    for amount, options, named in (
        (Budget(bytes=9.0), {}, "amount"),
        (Budget(seconds=1.0), {}, "amount"),
        (Budget(macs=10.0), {}, "cannot be reached"),
        (Budget(macs=1e6), {"rounds": 0}, "rounds"),
        (Budget(macs=1e6), {"chunk": 0}, "chunk"),
    ):
        with pytest.raises(ValueError, match=named):
            halp.prune(resnet8(generator=seeded()), BATCHES, amount, **options)
    with pytest.raises(ValueError, match="nothing to prune"):
        halp.prune(mlp(), BATCHES, Budget(macs=100.0))


@pytest.mark.claim
def test_under_one_latency_more_saliency_stays_than_by_rank_alone():
    # latency grows in steps of four filters, more slowly in late layers. By rank alone the least salient filters of the network go until
    # the latency fits, as a method does that knows no costs; both keep the same latency, no fine-tuning
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.03)
    seen = []
    for seed in range(3):
        data = batches(inputs, targets, 64, seeded(seed))
        model = fit(convnet((16, 16, 32, 32), generator=seeded(seed)), data, 3, optimizer=optimizer)
        pixels = {"features.0": 4.0, "features.3": 4.0, "features.7": 1.0, "features.10": 1.0}

        def latency(layer, read, made, pixels=pixels):
            return pixels.get(layer, 0.0) * -(-made // 4)

        groups = [group for group in removable_groups(model, inputs[:1]) if group.name in pixels]
        scores = halp.saliency(model, groups, data[:6])
        table = halp.Table(model, groups, inputs[:1], latency)
        budget = 0.6 * table.total()
        kept = halp.filters_to_keep(scores, groups, table, budget)
        for gone in range(96):
            ranked = keep_units(scores, gone / 96)
            if sum(table.of(group, int(ranked[group.name].sum())) for group in groups) <= budget:
                break
        shares = [sum(float(scores[name][mask].sum()) for name, mask in choice.items()) for choice in (kept, ranked)]
        results = [accuracy(fit(remove(model, groups, choice), data, 1, optimizer=optimizer), test) for choice in (kept, ranked)]
        seen.append(torch.tensor([*shares, *results]))
    more, less, better, worse = sum(seen) / 3
    assert more > 1.05 * less
    assert better > worse
