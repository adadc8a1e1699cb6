"""RigL (evci2020rigging): by hand, against an independent implementation, its constant count, and its claim."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, HoldMasks, accuracy, cross_entropy, fit, momentum_sgd
from reference_impls.during_training import rigl
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

ORACLE = Path(__file__).parents[2] / "oracle"


def test_by_hand():
    # active: 5, 1, 3, 4; half of them move: 1 and 3 are dropped; the largest gradients outside 5 and 4 are 9 and 6 (8 is on 5)
    weight = torch.tensor([[5.0, -1.0, 0.0, 0.0], [3.0, -4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False], [True, True, False, False]])
    gradient = torch.tensor([[8.0, 2.0, -9.0, 5.0], [1.0, 7.0, 6.0, -3.0]])
    assert rigl.drop_and_grow(weight, gradient, mask, 0.5).tolist() == [[True, False, True, False], [False, True, True, False]]


def test_a_dropped_connection_may_return_by_hand():
    # 1 is dropped, and its own gradient is the largest of all that did not survive
    weight = torch.tensor([5.0, 1.0, 0.0])
    mask = torch.tensor([True, True, False])
    assert rigl.drop_and_grow(weight, torch.tensor([9.0, -4.0, 3.0]), mask, 0.5).tolist() == [True, True, False]


def test_same_mask_as_the_rigl_reproduction():
    # its counting rule: ceil(0.3 * 134) = 41 of 134 connections move; ours round(fraction * 134)
    case = {name: torch.from_numpy(array) for name, array in np.load(ORACLE / "rigl_step.npz").items()}
    moved = rigl.drop_and_grow(case["W"] * case["mask"], case["grad"], case["mask"], 41 / 134)
    assert torch.equal(moved, case["mask_after_grow"])
    survivors = case["mask_after_prune"].bool() & case["mask"]
    assert (moved | ~survivors).all()


class Watch(Callback):
    """Writes down the masks and weights after every step; entry 0 is before the first."""

    def __init__(self, moving):
        self.moving, self.masks, self.weights = moving, [], []

    def start(self, model, optimizer):
        self.after_step(model, optimizer)

    def after_step(self, model, optimizer):
        self.masks.append(dict(self.moving.masks))
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


def run(model, steps, amount, optimizer=momentum_sgd, **given):
    torch.manual_seed(1)
    moving = rigl.callbacks(model, amount, steps=steps, **given)
    watch = Watch(moving[0])
    data = [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(steps)]
    fit(model, data, 1, [*moving, watch], optimizer=optimizer)
    return watch


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


def test_each_layer_keeps_its_number_of_connections_and_its_erk_density():
    # shares are sums of dimensions over their products: 42/360, 50/600, 24/80. Of 1040 weights 312 are to stay, and
    # 312 / (42 + 50 + 24) = 2.6897 for each dimension: 42, 50 and 24 times that are 112.97, 134.48 and 64.55
    watch = run(network(), 40, 0.7, every=4)
    first = {name: int(mask.sum()) for name, mask in watch.masks[0].items()}
    assert first == {"0.weight": 113, "2.weight": 134, "4.weight": 65}
    for masks, weights in zip(watch.masks, watch.weights, strict=True):
        for name, mask in masks.items():
            assert int(mask.sum()) == first[name]
            assert not weights[name][~mask].any()


def test_connections_move_at_multiples_of_every_until_the_end_and_ever_fewer(monkeypatch):
    fractions = []
    right = rigl.drop_and_grow
    monkeypatch.setattr(rigl, "drop_and_grow", lambda *given: (fractions.append(given[-1]), right(*given))[1])
    watch = run(network(), 40, 0.7, every=4, end=30, fraction=0.4)
    moved = [int((before["2.weight"] & ~after["2.weight"]).sum()) for before, after in itertools.pairwise(watch.masks)]
    assert {step for step, count in enumerate(moved) if count} <= {0, 4, 8, 12, 16, 20, 24, 28}
    assert moved[0] > 0 and moved[8] > 0
    # 0.4 / 2 * (1 + cos(π t / 30)), once for each of three layers
    assert fractions[::3] == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 30)) for t in range(0, 32, 4)])


def test_a_step_that_moves_connections_trains_nothing_and_new_ones_start_at_zero():
    watch = run(network(), 20, 0.7, every=5, end=15)
    for step in range(20):
        before, after = watch.weights[step], watch.weights[step + 1]
        if step in (0, 5, 10):
            for name in before:
                still = before[name] if name not in watch.masks[0] else before[name] * watch.masks[step + 1][name]
                assert torch.equal(after[name], still)  # what was absent was 0 and is 0 now
        else:
            assert any((after[name] != before[name]).any() for name in before)


@pytest.mark.parametrize("optimizer", [momentum_sgd, torch.optim.Adam])
def test_a_new_connection_has_no_past_in_the_optimizer(optimizer):
    model = network()
    kept = {}

    class Probe(Callback):
        def start(self, model, optimizer):
            kept["optimizer"] = optimizer

    [moving] = rigl.callbacks(model, 0.7, steps=40, every=5)
    fit(model, [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(9)], 1, [moving, Probe()], optimizer=optimizer)
    weight, before, stepper = model[2].weight, moving.masks["2.weight"], kept["optimizer"]
    moments = [state for state in stepper.state[weight].values() if isinstance(state, torch.Tensor) and state.shape == weight.shape]
    for moment in moments:
        moment.fill_(1.0)
    moving.after_step(model, stepper)  # step 9
    cross_entropy(model(torch.randn(16, 12)), torch.randint(4, (16,))).backward()
    moving.after_backward(model, stepper)  # step 10: connections move
    new = moving.masks["2.weight"] & ~before
    assert new.any() and moments
    for moment in moments:
        assert not moment[new].any() and moment[before].all()
    moving.after_step(model, stepper)
    for moment in moments:
        assert torch.equal(moment != 0, moving.masks["2.weight"] & before)


def test_inactive_weights_gather_no_momentum():
    model = network()
    kept = {}

    class Probe(Callback):
        def start(self, model, optimizer):
            kept["optimizer"] = optimizer

    moving = rigl.callbacks(model, 0.7, steps=8, end=0)
    fit(model, [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(8)], 1, [*moving, Probe()])
    for name, mask in moving[0].masks.items():
        momentum = kept["optimizer"].state[model.get_parameter(name)]["momentum_buffer"]
        assert momentum[mask].any() and not momentum[~mask].any()


def test_a_generator_decides_the_first_connections():
    draw = lambda seed: rigl.callbacks(network(), 0.7, steps=10, generator=torch.Generator().manual_seed(seed))[0].masks
    assert all(torch.equal(mask, draw(0)[name]) for name, mask in draw(0).items())
    assert any(not torch.equal(mask, draw(1)[name]) for name, mask in draw(0).items())


# a twentieth of the run, from 5 to 100; three quarters of it
@pytest.mark.parametrize(("steps", "every", "end"), [(10, 5, 7), (80, 5, 60), (420, 21, 315), (4000, 100, 3000)])
def test_what_follows_from_the_length_of_the_run(steps, every, end):
    [moving] = rigl.callbacks(network(), 0.7, steps=steps)
    assert (moving.every, moving.end) == (every, end)


@pytest.mark.parametrize(("given", "named"), [({"fraction": 1.5}, "fraction"), ({"every": 0}, "every"), ({"steps": 0}, "steps")])
def test_refuses_what_is_out_of_range(given, named):
    with pytest.raises(ValueError, match=named):
        rigl.callbacks(network(), 0.5, **{"steps": 10, **given})


@pytest.mark.claim
def test_moving_connections_to_the_gradient_beats_a_static_sparse_network_of_equal_density(monkeypatch):
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        first = lenet_300_100(generator=generator)
        given = {"steps": 10 * len(data), "every": 5}

        def reach(callbacks_of, first=first, data=data, seed=seed):
            model = copy.deepcopy(first)
            return accuracy(fit(model, data, 10, callbacks_of(model, torch.Generator().manual_seed(seed))), [test])

        moving = reach(lambda model, drawn, given=given: rigl.callbacks(model, 0.99, generator=drawn, **given))
        static = reach(lambda model, drawn, given=given: [HoldMasks(rigl.callbacks(model, 0.99, generator=drawn, **given)[0].masks)])
        with monkeypatch.context() as patch:
            right = rigl.drop_and_grow
            patch.setattr(rigl, "drop_and_grow", lambda w, g, mask, fraction, right=right: right(w, 1 / (g.abs() + 1e-9), mask, fraction))
            smallest = reach(lambda model, drawn, given=given: rigl.callbacks(model, 0.99, generator=drawn, **given))
        assert moving > 0.2 + max(static, smallest)
