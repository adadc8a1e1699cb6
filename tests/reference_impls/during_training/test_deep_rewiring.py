"""DEEP R (bellec2018deep): by hand, its signs and its constant count, the random walk's moments, and its claim."""

import itertools
import math

import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, HoldMasks, accuracy, fit
from reference_impls.during_training import deep_rewiring
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def test_the_walk_by_hand():
    # eta = 0.5, alpha = 0.2: 0.1 off each; sqrt(2 * 0.5 * 4) = 2 times the noise; the dormant one stays 0
    moved = deep_rewiring.walk(
        torch.tensor([1.0, 0.3, 0.0]), torch.tensor([True, True, False]), 0.5, 0.2, 4.0, torch.tensor([0.5, -0.25, 3.0])
    )
    torch.testing.assert_close(moved, torch.tensor([1.9, -0.3, 0.0]))


def plain(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def one_step(weight, gradient, mask, l1, temperature=0.0, optimizer=plain):
    """One step on a layer whose gradient is given; connections that are free to be drawn: those absent in the mask."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    rewiring = deep_rewiring.Rewiring({"weight": mask}, l1, temperature, torch.Generator().manual_seed(0))
    stepper = optimizer([layer.weight])
    rewiring.start(layer, stepper)
    layer.weight.grad = gradient
    stepper.step()
    rewiring.after_step(layer, stepper)
    return layer.weight.detach(), rewiring.masks["weight"]


def test_a_step_by_hand():
    # signs + - + -; strengths 1, 2, 0.2, 0.5. Gradient step with eta 0.5: 1 - 0.2 = 0.8; -2 + 0.5 = -1.5; 0.2 - 0.5 = -0.3, dead;
    # -0.5 - 0.4 = -0.9. Decay 0.5 * 0.2 = 0.1 of every strength: 0.7, 1.4, 0.8. In the dead one's place, or the fifth's: 0
    weight = torch.tensor([[1.0, -2.0, 0.2, -0.5, 7.0]])
    gradient = torch.tensor([[0.4, -1.0, 1.0, 0.8, 5.0]])
    after, mask = one_step(weight, gradient, torch.tensor([[True, True, True, True, False]]), 0.2)
    torch.testing.assert_close(after, torch.tensor([[0.7, -1.4, 0.0, -0.9 + 0.1, 0.0]]))
    assert mask[0, [0, 1, 3]].all() and int(mask.sum()) == 4


def test_a_strength_of_exactly_zero_is_still_a_connection():
    # the awakened start there: without a gradient and a penalty they would else be drawn anew in every step
    mask = torch.tensor([[True, True] + [False] * 8])
    after, moved = one_step(torch.zeros(1, 10), torch.zeros(1, 10), mask, 0.0)
    assert torch.equal(moved, mask) and not after.any()


def test_an_awakened_connection_has_no_past_in_the_optimizer():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.1, 1.0, 1.0]])
    rewiring = deep_rewiring.Rewiring({"weight": torch.tensor([[True, True, False, False]])}, 0.0, 0.0, torch.Generator().manual_seed(0))
    stepper = torch.optim.SGD([layer.weight], lr=0.5, momentum=0.9)
    rewiring.start(layer, stepper)
    layer.weight.grad = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    stepper.step()
    rewiring.after_step(layer, stepper)  # 1 - 0.5 lives, 0.1 - 0.5 dies
    assert stepper.state[layer.weight]["momentum_buffer"].tolist() == [[1, 0, 0, 0]]
    assert layer.weight.tolist() == [[0.5, 0, 0, 0]] and int(rewiring.masks["weight"].sum()) == 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


class Watch(Callback):
    def __init__(self, moving):
        self.moving, self.masks, self.weights = moving, [], []

    def after_step(self, model, optimizer):
        self.masks.append(dict(self.moving.masks))
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


def run(steps=30, **given):
    model = network()
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(16, 12, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(steps)]
    [moving] = deep_rewiring.callbacks(model, 0.7, steps=steps, generator=generator, **given)
    signs = {name: weight.detach().sign() for name, weight in model.named_parameters()}
    watch = Watch(moving)
    fit(model, data, 1, [moving, watch], optimizer=plain)
    return watch, signs


def test_the_first_step_is_made_with_the_sparse_network_already():
    model = network()
    [rewiring] = deep_rewiring.callbacks(model, 0.7, steps=1)
    rewiring.start(model, plain(list(model.parameters())))
    assert all(torch.equal(model.get_parameter(name) != 0, mask) for name, mask in rewiring.masks.items())


def test_every_step_keeps_each_layers_number_and_every_connections_sign():
    # 312 of 1040 weights; 312 / (42 + 50 + 24) = 2.6897 per dimension: 112.97, 134.48 and 64.55
    watch, signs = run(l1=1e-2)
    for masks, weights in zip(watch.masks, watch.weights, strict=True):
        for name, count in {"0.weight": 113, "2.weight": 134, "4.weight": 65}.items():
            assert int(masks[name].sum()) == count
            assert not weights[name][~masks[name]].any()
            assert (weights[name] * signs[name] >= 0).all()
    moved = [sum(int((a[n] != b[n]).sum()) for n in a) for a, b in itertools.pairwise(watch.masks)]
    assert sum(count > 0 for count in moved) > 20


def test_the_random_walk_has_the_deviation_of_its_temperature():
    # sqrt(2 * 0.5 * 0.04) = 0.2, on strengths far above zero
    weight = 9 * (torch.randint(2, (100, 100), generator=torch.Generator().manual_seed(0)) * 2.0 - 1)
    after, mask = one_step(weight, torch.zeros(100, 100), torch.ones(100, 100, dtype=torch.bool), 0.6, temperature=0.04)
    change = (after - weight) * weight.sign()
    assert mask.all()
    assert change.std().item() == pytest.approx(math.sqrt(2 * 0.5 * 0.04), rel=0.03)
    assert change.mean().item() == pytest.approx(-0.5 * 0.6, abs=0.01)


def test_who_wakes_up_is_drawn_uniformly():
    counts = torch.zeros(1, 6)
    for seed in range(600):
        masks = {"weight": torch.tensor([[True, True, False, False, False, False]])}
        layer = nn.Linear(6, 1, bias=False)
        layer.weight.data = torch.tensor([[5.0, 0.1, 1.0, 1.0, 1.0, 1.0]])
        rewiring = deep_rewiring.Rewiring(masks, 1.0, 0.0, torch.Generator().manual_seed(seed))
        stepper = plain([layer.weight])
        rewiring.start(layer, stepper)
        layer.weight.grad = torch.zeros(1, 6)
        rewiring.after_step(layer, stepper)
        counts += rewiring.masks["weight"]
    assert counts[0, 0] == 600
    assert (counts[0, 1:] - 120).abs().max() < 50  # five deviations; the one that died is among the five


@pytest.mark.parametrize("given", [{"l1": -1e-5}, {"temperature": -1.0}, {"l1": math.inf}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        deep_rewiring.callbacks(network(), 0.5, **{"steps": 10, **given})
    deep_rewiring.callbacks(network(), 0.5, steps=10, l1=0, temperature=0)


@pytest.mark.claim
def test_rewiring_beats_a_static_sparse_network_of_equal_density(monkeypatch):
    train, test = digits()
    right = deep_rewiring.grow_random
    for seed in range(3):

        def reach(kind, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            data = batches(*train, 64, generator)
            model = lenet_300_100(generator=generator)
            [moving] = deep_rewiring.callbacks(model, 0.985, steps=20 * len(data), l1=1e-3, generator=generator)
            if kind == "wrong sign":  # the penalty pushes away from zero
                moving.l1 = -moving.l1
            monkeypatch.setattr(deep_rewiring, "grow_random", (lambda mask, *_: mask) if kind == "none wakes" else right)
            return accuracy(fit(model, data, 20, [HoldMasks(moving.masks)] if kind == "static" else [moving]), [test])

        assert reach("rewiring") > 0.12 + max(reach("static"), reach("wrong sign"), reach("none wakes"))
