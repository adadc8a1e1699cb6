"""LoSparse (li2023losparse): the sum by hand and as the best of its rank, a run by hand, and against pruning alone."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.training import Callback, accuracy, cross_entropy, fit, momentum_sgd
from reference_impls.fusion import losparse
from reference_impls.fusion.losparse import LoSparse, LowRankSparse, low_rank
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import gpt_small, mlp, vit_small


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made_up(count):
    generator = seeded()
    return [(torch.randn(8, 64, generator=generator), torch.randint(10, (8,), generator=generator)) for _ in range(count)]


def test_the_sum_by_hand():
    # a diagonal matrix: singular values 9, 4, 1. Share 0.3 of 3 * 3 = 9 weights: 2.7 / 6 -> rank 1; sqrt(9) = 3 to each factor
    layer = nn.Linear(3, 3)
    layer.weight.data = torch.diag(torch.tensor([4.0, 9.0, 1.0]))
    layer.bias.data = torch.tensor([0.5, 0.0, -1.0])
    made = LowRankSparse(layer, 0.3)
    torch.testing.assert_close(made.left @ made.right, torch.diag(torch.tensor([0.0, 9.0, 0.0])))
    torch.testing.assert_close(made.left.abs(), torch.tensor([[0.0], [3.0], [0.0]]))
    torch.testing.assert_close(made.right.abs(), torch.tensor([[0.0, 3.0, 0.0]]))
    torch.testing.assert_close(made.sparse.data, torch.diag(torch.tensor([4.0, 0.0, 1.0])))
    # x = (1, 2, 3): 4 + 0.5, 18, 3 - 1
    torch.testing.assert_close(made(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[4.5, 18.0, 2.0]]))
    made.compress(torch.tensor([True, False, False]))  # the third neuron is left to the low-rank part, which has nothing of it
    torch.testing.assert_close(made(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[4.5, 18.0, -1.0]]))
    made = LowRankSparse(layer, 0.3)
    made.compress(torch.tensor([False, False, True]))
    torch.testing.assert_close(made(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[0.5, 18.0, 2.0]]))


@pytest.mark.parametrize(("share", "rank"), [(0.05, 1), (0.4, 3), (0.5, 4), (0.98, 7), (1e-9, 1)])
def test_the_rank_follows_from_the_share(share, rank):
    # 20 x 12: 240 weights, 32 a rank: 0.05 -> 0.375; 0.4 -> 3; 0.5 -> 3.75; 0.98 -> 7.35, but for the rounding up
    weight = torch.randn(20, 12, generator=seeded())
    left, right = low_rank(weight, share)
    expected = rank if share != 0.98 else 8
    assert left.shape == (20, expected) and right.shape == (expected, 12)


def test_the_low_rank_part_is_the_best_of_its_rank():
    # Eckart and Young: what is left has the squared singular values beyond the rank; both factors carry the same size
    weight = torch.randn(20, 12, generator=seeded()).double()
    left, right = low_rank(weight, 0.4)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close((weight - left @ right).square().sum(), values[3:].square().sum())
    torch.testing.assert_close(left.T @ left, torch.diag(values[:3]))
    torch.testing.assert_close(right @ right.T, torch.diag(values[:3]))
    assert low_rank(torch.randn(3, 50, generator=seeded()), 0.99)[0].shape == (3, 3)  # no rank above the smaller side


@pytest.mark.parametrize("build", [vit_small, gpt_small, mlp])
def test_before_anything_is_pruned_the_network_is_the_same(build):
    model = build(generator=seeded()).eval()
    inputs = torch.randint(64, (2, 6), generator=seeded()) if build is gpt_small else torch.randn(2, 1, 8, 8, generator=seeded())
    network = copy.deepcopy(model)
    [method] = losparse.callbacks(network, 0.5, steps=40, share=0.2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    method.start(network, optimizer)
    torch.testing.assert_close(network(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    in_optimizer = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in network.parameters()} <= in_optimizer
    assert all(kept.all() and len(kept) == len(method.layers[name].left) for name, kept in method.kept.items())
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert losparse.decomposable(model) == linear[:-1] == list(method.layers)
    assert (
        len(method.layers) == len(linear) - 1
        and network.get_submodule(linear[-1]).weight.shape == model.get_submodule(linear[-1]).weight.shape
    )


def test_shared_and_frozen_layers_stay_as_they_are():
    model = mlp([64, 16, 16, 16, 10], generator=seeded())
    model[5].weight = model[3].weight
    assert losparse.decomposable(model) == ["1"]
    model[1].weight.requires_grad_(False)
    assert losparse.decomposable(model) == []
    with pytest.raises(ValueError, match="nothing to prune"):
        losparse.callbacks(model, 0.5, steps=40)


def test_a_run_by_hand():
    # window 1, beta 1/2, rate 0. S of the first layer is set to rows (1, 2), (3, 1), (1, 1); gradients (8, 1), (1, 1), (4, 4), and then
    # (0, 0), (4, 6), (2, 2): |s g| rows (8, 2), (3, 1), (4, 4), then (0, 0), (12, 6), (2, 2). The average takes in a step at the
    # next one. Step 2 is the first to prune: halves of the first, halved again, plus halves of the second:
    # (2, 0.5) -> mean 1.25; (0.75 + 6, 0.25 + 3) -> 5; (1 + 1, 1 + 1) -> 2. Two of three rows go: the first and the third
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    [method] = losparse.callbacks(model, 2 / 3, steps=4, window=1, beta=0.5, share=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method.start(model, optimizer)
    layer = model[0]
    layer.sparse.data = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    held = []
    for gradient in ([[8.0, 1], [1, 1], [4, 4]], [[0.0, 0], [4, 6], [2, 2]], [[9.0, 9], [0, 0], [9, 9]]):
        layer.sparse.grad = torch.tensor(gradient)
        method.after_step(model, optimizer)
        held.append(layer.sparse.tolist())
    assert held == [[[1, 2], [3, 1], [1, 1]]] * 2 + [[[0, 0], [3, 1], [0, 0]]]
    assert method.kept["0"].tolist() == [False, True, False]
    small = method.finish(model)
    assert small[0].sparse.tolist() == [[3, 1]] and small[0].rows.tolist() == [1]


class Watching(Callback):
    """Which rows of the sparse parts are zero after every step."""

    def __init__(self, method):
        self.method, self.seen = method, []

    def after_step(self, model, optimizer):
        self.seen.append({name: (layer.sparse == 0).all(1) for name, layer in self.method.layers.items()})


def test_one_ranking_for_all_layers_along_the_cubic_schedule():
    model, data = mlp([64, 24, 16, 10], generator=seeded()), made_up(40)
    [method] = losparse.callbacks(model, 0.75, steps=40, window=4, warmup=8, cooldown=11)
    watching = Watching(method)
    small = fit(model, data, 1, [method, watching])
    gone = [sum(int(rows.sum()) for rows in step.values()) for step in watching.seen]
    assert gone[:9] == [0] * 9 and gone[9:12] == [0] * 3
    # steps 12, 16 ... 28 of 8 ... 29: 0.75 (1 - (1 - t)^3) of 40 rows, t = 4/21, 8/21 ... 20/21; after that the network is pruned each step
    assert [gone[step] for step in (12, 16, 20, 24, 28)] == [round(30 * (1 - (1 - t / 21) ** 3)) for t in (4, 8, 12, 16, 20)]
    assert gone[29:] == [30] * 11
    rows = [len(module.sparse) for module in small.modules() if isinstance(module, LowRankSparse)]
    assert sum(rows) == 10 and rows[0] != 6  # of 24 and 16; by layer it would be 6 and 4
    moved = [(a["1"] & ~b["1"]).any() for a, b in itertools.pairwise(watching.seen)]
    assert any(moved)  # rows come back


def test_the_schedule_by_default():
    # a tenth to warm up, but a window at least; the second half at the final sparsity, but a step at least
    when = lambda steps, **options: [(m.begin, m.end) for m in losparse.callbacks(mlp(), 0.5, steps=steps, **options)]
    assert when(200) == [(20, 100)] and when(60) == [(10, 30)] and when(3, window=1) == [(1, 2)] and when(200, beta=0.0) == [(20, 100)]


def test_importance_is_the_mean_of_weight_times_gradient():
    # one window, by the definition: |s dL/ds| of each step averaged, the row's mean, ranked over both layers
    model, data = mlp([64, 12, 8, 10], generator=seeded()).double(), [(x.double(), y) for x, y in made_up(5)]
    [method] = losparse.callbacks(model, 0.5, steps=5, window=3, warmup=3, cooldown=1)
    reference = copy.deepcopy(model)
    layers = {name: LowRankSparse(reference.get_submodule(name), 0.05) for name in ("1", "3")}
    for name, layer in layers.items():
        reference.set_submodule(name, layer)
    expected = dict.fromkeys(layers, 0)
    for inputs, targets in data[:3]:
        gradients = torch.autograd.grad(cross_entropy(reference(inputs), targets), [layer.sparse for layer in layers.values()])
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
            expected[name] = expected[name] + (layer.sparse * gradient).abs().mean(1) / 3
    fit(model, data, 1, [method], optimizer=partial(torch.optim.SGD, lr=0.0))
    order = torch.cat(list(expected.values())).argsort()
    kept = torch.cat(list(method.kept.values()))
    assert set(order[:10].tolist()) == set((~kept).nonzero().flatten().tolist())
    for name, importance in method.importance.items():
        torch.testing.assert_close(importance.importance.mean(1), 0.15 * expected[name])


def test_what_comes_out_computes_what_the_zeroed_rows_do_with_fewer_products():
    model, data = vit_small(generator=seeded()), [(torch.randn(4, 1, 8, 8, generator=seeded()), torch.arange(4))] * 6
    dense = counting.report(model, data[0][0][:1])
    [method] = losparse.callbacks(model, 0.8, steps=6, window=1)
    method.finish = lambda network: network
    zeroed = fit(model, data, 1, [method]).eval()
    assert any(not layer.sparse.any(1).all() for layer in method.layers.values())
    expected = zeroed(data[0][0])
    small = LoSparse.finish(method, zeroed)
    torch.testing.assert_close(small(data[0][0]), expected)
    now = counting.report(small, data[0][0][:1])
    assert now.parameters < 0.45 * dense.parameters and now.macs < 0.5 * dense.macs
    neurons = sum(len(kept) for kept in method.kept.values())
    assert sum(len(layer.sparse) for layer in method.layers.values()) == neurons - round(0.8 * neurons)


@pytest.mark.parametrize(
    ("steps", "options", "match"),
    [
        (40, {"share": 0.0}, "share"),
        (40, {"share": 1.0}, "share"),
        (40, {"beta": 1.0}, "beta"),
        (40, {"beta": -0.1}, "beta"),
        (40, {"window": 0}, "window"),
        (10, {}, "steps"),
        (40, {"warmup": 9}, "steps"),
        (40, {"cooldown": 0}, "steps"),
        (40, {"warmup": 20, "cooldown": 20}, "steps"),
    ],
)
def test_refuses_what_cannot_be(steps, options, match):
    with pytest.raises(ValueError, match=match):
        losparse.callbacks(mlp(), 0.5, steps=steps, **options)


class Alone(LoSparse):
    """The same pruning with nothing in the low-rank part, which gets no gradient then."""

    def start(self, model, optimizer):
        super().start(model, optimizer)
        with torch.no_grad():
            for layer in self.layers.values():
                layer.sparse += layer.left @ layer.right
                layer.left.zero_()
                layer.right.zero_()


@pytest.mark.claim
def test_the_sum_of_both_does_better_than_pruning_alone():
    # with a tenth of the weights: half of them low-rank, half neurons; all of them low-rank; all of them neurons. Pruning alone falls
    # behind; low-rank alone is not beaten in networks as small as these (seen: 0.944, 0.938 with a fifth more parameters, 0.852)
    (inputs, targets), test = digits()
    reached, sizes = {"both": 0.0, "low-rank": 0.0, "neurons": 0.0}, {}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(mlp([64, 200, 200, 10], generator=seeded(seed)), train, 6, optimizer=partial(momentum_sgd, learning_rate=0.05))
        for name, kind, share, keep in (("both", LoSparse, 0.05, 0.05), ("low-rank", LoSparse, 0.1, 0.003), ("neurons", Alone, 0.001, 0.1)):
            network = copy.deepcopy(model)
            [method] = losparse.callbacks(network, 1 - keep, steps=6 * len(train), share=share)
            method.__class__ = kind
            small = fit(network, train, 6, [method], optimizer=partial(momentum_sgd, learning_rate=0.02))
            reached[name] += accuracy(small, [test]) / 3
            sizes[name] = counting.parameters(small)
    assert sizes["both"] < min(sizes["low-rank"], 1.1 * sizes["neurons"])
    assert reached["both"] > reached["neurons"] + 0.04
    assert reached["both"] > reached["low-rank"] - 0.015
