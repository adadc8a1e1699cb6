"""Sparse momentum (dettmers2020sparse): by hand, its momentum against SGD's own, its constant total, and its claim."""

import itertools
import math

import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, HoldMasks, accuracy, fit
from reference_impls.during_training import sparse_momentum
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def test_contributions_by_hand():
    # present: (1, -3) with mean 2, and (6) with mean 6; 9 is absent. 2 / 8 and 6 / 8
    shares = sparse_momentum.contributions(
        {"a": torch.tensor([1.0, -3.0, 9.0]), "b": torch.tensor([6.0])},
        {"a": torch.tensor([True, True, False]), "b": torch.tensor([True])},
    )
    assert shares == {"a": 0.25, "b": 0.75}
    nothing = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    masks = {"a": torch.ones(2).bool(), "b": torch.ones(3).bool(), "c": torch.zeros(1).bool()}
    assert sparse_momentum.contributions(nothing, masks) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_pruning_and_growth_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, True]])
    stays = sparse_momentum.prune_smallest(torch.tensor([[5.0, -1.0, 0.0], [2.0, 0.0, -3.0]]), mask, 0.5)
    assert stays.tolist() == [[True, False, False], [False, False, True]]
    grown = sparse_momentum.grow_by_momentum(stays, torch.tensor([[9.0, 1.0, -4.0], [2.0, 3.0, 8.0]]), 2)
    assert grown.tolist() == [[True, False, True], [False, True, True]]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


class Watch(Callback):
    def __init__(self, moving):
        self.moving, self.steps, self.epochs = moving, [], []

    def look(self, model):
        state = self.moving.optimizer.state
        momenta = {name: state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        return dict(self.moving.masks), weights, dict(self.moving.momenta), momenta

    def after_step(self, model, optimizer):
        self.steps.append(self.look(model))

    def epoch_end(self, model, epoch):
        self.epochs.append(self.look(model))


def run(epochs=3, **given):
    model = network()
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randn(16, 12, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(4)]
    [moving] = sparse_momentum.callbacks(model, 0.7, steps=epochs * 4, generator=generator, **given)
    watch = Watch(moving)
    fit(model, data, epochs, [moving, watch])
    return watch


def test_momentum_is_that_of_sgd_for_present_weights_and_there_for_absent_ones_too():
    # SGD: v <- 0.9 v + g from v = g; M <- 0.9 M + 0.1 g from M = 0: so M = 0.1 v
    masks, _, momenta, buffers = run().steps[3]
    for name, mask in masks.items():
        torch.testing.assert_close(momenta[name][mask], 0.1 * buffers[name][mask])
        assert momenta[name][~mask].abs().mean() > 0 and not buffers[name][~mask].any()
    assert run(smoothing=0.0).steps[3][2]["0.weight"].abs().mean() > 2 * momenta["0.weight"].abs().mean()


def test_layers_begin_equally_dense_and_only_the_total_is_constant():
    watch = run()
    counts = [{name: int(mask.sum()) for name, mask in look[0].items()} for look in watch.steps + watch.epochs]
    assert counts[0] == {"0.weight": 108, "2.weight": 180, "4.weight": 24}
    assert {sum(count.values()) for count in counts} == {312}
    assert counts[-1] != counts[0]
    assert not any(look[1][name][~mask].any() for look in watch.steps + watch.epochs for name, mask in look[0].items())


def test_connections_move_after_every_epoch_but_the_last_and_only_then():
    watch = run()
    moved = [any((a[0][name] != b[0][name]).any() for name in a[0]) for a, b in itertools.pairwise(watch.steps)]
    assert moved == [False] * 3 + [True] + [False] * 3 + [True] + [False] * 3
    assert all(torch.equal(mask, watch.steps[-1][0][name]) for name, mask in watch.epochs[-1][0].items())


def test_a_move_prunes_a_cosines_fraction_of_each_layer_and_grows_by_the_shares():
    watch = run(fraction=0.4)
    (before, weights, momenta, _), (after, fresh, _, rest) = watch.steps[3], watch.epochs[0]
    fraction = 0.2 * (1 + math.cos(math.pi * 4 / 12))  # = 0.3
    stays = {name: sparse_momentum.prune_smallest(weights[name], mask, fraction) for name, mask in before.items()}
    # of 108, 180 and 24: 32, 54 and 7 go, 93 in all
    assert {name: int((before[name] & ~stays[name]).sum()) for name in stays} == {"0.weight": 32, "2.weight": 54, "4.weight": 7}
    shares = sparse_momentum.contributions(momenta, before)
    assert shares["4.weight"] * 93 > 63  # more than the 80 - 17 free places of the last layer: it is full, and the others share the rest
    rest_of_it = 93 - 63
    for name in ("0.weight", "2.weight"):
        share = shares[name] / (shares["0.weight"] + shares["2.weight"])
        assert abs(int(after[name].sum()) - int(stays[name].sum()) - share * rest_of_it) < 1
    for name, mask in stays.items():
        assert after[name][mask].all() and torch.equal(fresh[name][mask], weights[name][mask])
        new = after[name] & ~mask
        assert not fresh[name][new].any() and not rest[name][~mask].any()
        if not after[name].all():
            assert momenta[name].abs()[new].min() >= momenta[name].abs()[~after[name]].max()
    assert after["4.weight"].all()


@pytest.mark.parametrize("given", [{"fraction": 1.5}, {"fraction": -0.1}, {"smoothing": 1.0}, {"smoothing": -0.1}, {"steps": 0}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        sparse_momentum.callbacks(network(), 0.5, **{"steps": 10, **given})
    sparse_momentum.callbacks(network(), 0.5, steps=1, fraction=1, smoothing=0)
    sparse_momentum.callbacks(network(), 0.5, steps=1, fraction=0)


@pytest.mark.claim
def test_growing_by_momentum_beats_a_static_sparse_network_of_equal_density(monkeypatch):
    train, test = digits()
    right = sparse_momentum.grow_by_momentum
    for seed in range(3):

        def reach(kind, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            data = batches(*train, 64, generator)
            model = lenet_300_100(generator=generator)
            [moving] = sparse_momentum.callbacks(model, 0.985, steps=15 * len(data), generator=generator)
            wrong = lambda mask, momentum, count: right(mask, 1 / (momentum.abs() + 1e-9), count)
            monkeypatch.setattr(sparse_momentum, "grow_by_momentum", wrong if kind == "smallest" else right)
            return accuracy(fit(model, data, 15, [HoldMasks(moving.masks)] if kind == "static" else [moving]), [test])

        assert reach("moving") > 0.3 + max(reach("static"), reach("smallest"))
