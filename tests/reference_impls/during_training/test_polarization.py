"""Polarization (zhuang2020neuron): by hand, against all corners, the authors' update and cut, and the l1 penalty."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import network_slimming
from reference_impls.during_training import polarization as polar
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scaled(build=convnet):
    """With different scales in (0, 1)."""
    model, generator = build(generator=seeded()), seeded(1)
    for scale in network_slimming.scales(model).values():
        scale.data.uniform_(0.1, 0.9, generator=generator)
    return model


def finish(model, amount):
    """What is left of an untrained model."""
    callback = polar.callbacks(model, amount)[0]
    callback.example = EXAMPLE[:1]
    return callback.finish(model)


def test_by_hand():
    # mean of (0.2, 0.4, 0.9) = 0.5; t = 1.2: 1.2 * 1.5 - (0.3 + 0.1 + 0.4) = 1.0
    gamma = torch.tensor([0.2, 0.4, 0.9], requires_grad=True)
    value = polar.polarization(gamma, 1.2)
    assert value.item() == pytest.approx(1.0)
    value.backward()
    # d/d gamma_i = t - sign(gamma_i - mean) + (1/n) sum_j sign(gamma_j - mean); the signs are -1, -1, 1, their mean is -1/3
    # 1.2 + 1 - 1/3, 1.2 + 1 - 1/3, 1.2 - 1 - 1/3
    torch.testing.assert_close(gamma.grad, torch.tensor([28 / 15, 28 / 15, -2 / 15]))


@pytest.mark.parametrize(("t", "above"), [(2 / 3, 2), (4 / 3, 1), (0.0, 3), (2.0, 0)])
def test_of_all_scales_between_zero_and_one_the_smallest_penalty_puts_a_half_less_a_quarter_of_t_at_one(t, above):
    # brute force: six scales, each 0, 1/2 or 1; six times 1/2 - t/4 of them at one
    values = {point: polar.polarization(torch.tensor(point), t).item() for point in itertools.product((0.0, 0.5, 1.0), repeat=6)}
    least = min(values.values())
    best = [point for point, value in values.items() if value < least + 1e-5]
    assert all(sorted(point) == [0.0] * (6 - above) + [1.0] * above for point in best)
    assert len(best) == len(list(itertools.combinations(range(6), above)))


def test_one_step_is_the_authors_update():
    # their code: for each normalization t |w|_1 - |w - mean|_1, the mean over all of them; then all scales are clamped to [0, 1]
    class Theirs(Callback):
        def penalty(self, model):
            weights = [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
            mean = sum(weight.sum() for weight in weights) / sum(len(weight) for weight in weights)
            return sum(0.03 * (0.7 * weight.abs().sum() - (weight - mean).abs().sum()) for weight in weights)

        def after_step(self, model, optimizer):
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.data.clamp_(0, 1)

    model = scaled()
    model.features[1].weight.data[:2] = torch.tensor([0.0001, 0.9999])
    theirs = fit(copy.deepcopy(model), BATCHES, 3, [Theirs()])
    ours = copy.deepcopy(model)
    fit(ours, BATCHES, 3, polar.callbacks(ours, 0.0, strength=0.03, t=0.7))
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], msg=name)
    found = torch.cat(list(network_slimming.scales(ours).values()))
    assert found.min() >= 0
    assert found.max() <= 1


def cut_as_in_their_code(weight):
    heights, borders = np.histogram(weight, bins=100, range=(0, 1))
    difference = np.diff(heights)
    for i in range(len(difference) - 1):
        if difference[i] <= 0 <= difference[i + 1]:
            return borders[i + 1]
    return 0


def test_the_valley_by_hand_and_as_in_the_authors_code():
    # bins of 0.01 hold 3, 2, 2, 0, 0, ... : counts fall, stay (slope -1, then 0): cut behind the first bin
    assert polar.valley(torch.tensor([0.001] * 3 + [0.015] * 2 + [0.025] * 2 + [0.8])) == pytest.approx(0.01)
    # 3, 2, 1, 4: falls by 1 and 1, rises by 3: cut where the rise begins
    assert polar.valley(torch.tensor([0.001] * 3 + [0.015] * 2 + [0.025] + [0.035] * 4)) == pytest.approx(0.02)
    assert polar.valley(torch.arange(0, 100) / 100 + 0.005) == pytest.approx(0.01)
    # 1, 2, ..., 100: never falls, never is level
    assert polar.valley(torch.cat([torch.full((count,), count / 100 - 0.005) for count in range(1, 101)])) == 0.0
    # 100, 99, ..., 3, 2, 2: it stops falling only at the last step, from bin 97 on
    assert polar.valley(torch.cat([torch.full((max(100 - i, 2),), (i + 0.5) / 100) for i in range(100)])) == pytest.approx(0.98)
    for seed in range(20):
        weight = torch.rand(64, generator=seeded(seed)) ** 3
        assert polar.valley(weight) == pytest.approx(cut_as_in_their_code(weight.numpy()))


def test_asked_for_a_strength_each_layer_is_cut_at_its_own_gap_and_none_is_emptied():
    model = scaled()
    first, second, third, last = (scale.data for scale in network_slimming.scales(model).values())
    first.copy_(torch.tensor([0, 0.9, 0, 0.9, 0, 0.9, 0, 0.9]))
    second.copy_(torch.tensor([0.02, 0.9, 0.9, 0.9, 0.02, 0.9, 0.9, 0.9]))  # above their gap of 0.01: they stay
    third.fill_(0)
    last.fill_(0.7)
    last[5] = 0.004
    small = finish(model, Strength(0.1))
    assert [small.features[place].out_channels for place in (0, 3, 7, 10)] == [4, 8, 1, 15]
    torch.testing.assert_close(small.features[1].weight.data, torch.full((4,), 0.9))
    assert small.classifier[0].in_features == 15 * 4


def test_negative_scales_count_by_their_size():
    # mean of (-0.2, 0.4) = 0.1; 2 * (0.2 + 0.4) - (0.3 + 0.3) = 0.6
    assert polar.polarization(torch.tensor([-0.2, 0.4]), 2.0).item() == pytest.approx(0.6)
    assert polar.valley(torch.tensor([-0.005, -0.005, -0.015, 0.9])) == pytest.approx(0.02)


def test_a_scale_at_the_border_goes():
    # 26, 25, ..., 2 scales in the bins from 0 to 0.25, then one at 0.25 and one at 0.265: the cut is at 0.25, and > 0.25 stays
    gamma = torch.cat([torch.full((26 - i,), i / 100 + 0.005) for i in range(25)] + [torch.tensor([0.25, 0.265])])
    model = nn.Sequential(nn.Conv2d(1, len(gamma), 1), nn.BatchNorm2d(len(gamma)), nn.Conv2d(len(gamma), 1, 1))
    model[1].weight.data = gamma
    small = finish(model, Strength(0.1))
    torch.testing.assert_close(small[1].weight.data, torch.tensor([0.265]))


def test_weights_that_are_no_numbers_are_refused_before_training():
    model = convnet()
    model.features[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        polar.callbacks(model, 0.5)


def test_asked_for_a_sparsity_the_smallest_scales_of_the_network_go():
    model = scaled(resnet8)
    ours, theirs = finish(model, 0.4), network_slimming.callbacks(model, 0.4)[0]
    theirs.example = EXAMPLE[:1]
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.finish(model).state_dict().items()}


def test_a_strength_is_the_factor_of_the_penalty():
    model = scaled()
    gamma = torch.cat([scale.detach() for scale in network_slimming.scales(model).values()])
    expected = 0.2 * polar.polarization(gamma, 0.5)
    for callback in (polar.callbacks(model, Strength(0.2), t=0.5)[0], polar.callbacks(model, 0.3, strength=0.2, t=0.5)[0]):
        torch.testing.assert_close(callback.penalty(model).detach(), expected)


def test_refuses_a_network_without_normalization():
    with pytest.raises(ValueError, match="batch normalization"):
        polar.callbacks(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)), 0.5)


@pytest.mark.claim
def test_the_scales_part_into_two_crowds_and_what_falls_to_zero_goes_without_harm():
    # the same data, network and steps as the l1 penalty; scales start at 0.5 as in the authors' code. Counted: scales neither near zero nor
    # near the largest; and the accuracy right after the channels below the gap went, before any fine-tuning
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    between, full, slim, gone = {"polar": 0.0, "l1": 0.0}, 0.0, 0.0, 0.0
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        for penalty in between:
            model = convnet((16, 16, 32, 32), generator=seeded(seed))
            for scale in network_slimming.scales(model).values():
                scale.data.fill_(0.5)
            chosen = polar.callbacks(model, Strength(0.01)) if penalty == "polar" else network_slimming.callbacks(model, 0.0, strength=0.01)
            small = fit(model, train, 10, chosen, optimizer=partial(momentum_sgd, learning_rate=0.05))
            found = torch.cat([scale.detach() for scale in network_slimming.scales(model).values()]).abs()
            between[penalty] += ((found > 0.02) & (found < 0.8 * found.max())).float().mean().item() / 3
            if penalty == "polar":
                full, slim = full + accuracy(model, test) / 3, slim + accuracy(small, test) / 3
                gone += (1 - counting.macs(small, inputs[:1]) / counting.macs(model, inputs[:1])) / 3
    assert between["polar"] < between["l1"] - 0.2
    assert slim > full - 0.03
    assert gone > 0.3
