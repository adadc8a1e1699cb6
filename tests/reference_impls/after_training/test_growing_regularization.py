"""GReg (wang2021neural): by hand, against the closed form of a quadratic loss, and against a sudden cut of the same filters."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import growing_regularization as greg
from reference_impls.core import counting, surgery
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(first, second):
    """Two 1x1 convolutions without bias: from one channel to two, and to two again, each map by itself."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    model[0].weight.data = torch.tensor(first)[:, None, None, None]
    model[1].weight.data = torch.diag(torch.tensor(second))[:, :, None, None]
    return model


def pulled(model, steps, data=None, loss=None, rate=0.1, **options):
    """The first layer's weights after the run, before the cut; only that layer is trained."""
    callback = greg.callbacks(model, 0.5, steps=steps, **options)[0]
    callback.finish = lambda model: model
    flat = loss or (lambda outputs, targets: 0 * outputs.sum())
    data = data or [(torch.ones(1, 1, 1, 1), torch.zeros(1))]
    fit(model, data, steps, [callback], loss=flat, optimizer=lambda ps: torch.optim.SGD(ps[:1], lr=rate))
    return model[0].weight.detach().flatten()


def test_by_hand_the_smallest_filter_is_pulled_ever_more_strongly():
    # GReg-1, 4 steps on a flat loss: lambda = 1/3, 2/3, 1, 1; w <- w - 0.1 lambda w for the smaller one, nothing for the other
    found = pulled(chain([2.0, -1.0], [1.0, 1.0]), 4, by_growth=False)
    torch.testing.assert_close(found, torch.tensor([2.0, -(1 - 0.1 / 3) * (1 - 0.2 / 3) * 0.9 * 0.9]))


def test_by_hand_all_are_pulled_before_the_choice_and_the_kept_recover_after_it():
    # GReg-2, 8 steps: lambda = 0.005, 0.01 for both; then 0.01 + 0.99 * (1/4, 2/4, 3/4, 1, 1, 1) for one and -0.0001 for the other
    found = pulled(chain([2.0, -1.0], [1.0, 1.0]), 8)
    both = (1 - 0.0005) * (1 - 0.001)
    one = (1 - 0.02575) * (1 - 0.0505) * (1 - 0.07525) * 0.9 * 0.9 * 0.9
    torch.testing.assert_close(found, torch.tensor([2.0 * both * 1.00001**6, -both * one]))
    found = pulled(chain([2.0, -1.0], [1.0, 1.0]), 8, pick_ceiling=0.1, ceiling=0.5, recover=-0.2)
    both = (1 - 0.005) * (1 - 0.01)
    one = (1 - 0.02) * (1 - 0.03) * (1 - 0.04) * 0.95 * 0.95 * 0.95
    torch.testing.assert_close(found, torch.tensor([2.0 * both * 1.02**6, -both * one]))


def test_the_filter_in_the_flatter_direction_gives_way_though_it_is_larger():
    # loss sum_j (c_j w_j - c_j w0_j)^2 / 2 has curvature h_j = c_j^2: 4 and 0.25; under lambda its least is w0_j h_j / (h_j + lambda)
    start, scale = [1.0, 1.1], [2.0, 0.5]
    target = torch.tensor(start)[None, :, None, None] * torch.tensor(scale)[None, :, None, None]
    data = [(torch.ones(1, 1, 1, 1), target)]

    def squared(outputs, targets):
        return (outputs - targets).square().sum() / 2

    slow = {"steps": 400, "data": data, "loss": squared, "rate": 0.2, "ceiling": 1.0, "pick_ceiling": 0.2, "recover": 0.0}
    w = pulled(chain(start, scale), **slow)
    torch.testing.assert_close(w, torch.tensor([1.0, 1.1 * 0.25 / 1.25]), rtol=1e-3, atol=0)  # the flat one is condemned
    w = pulled(chain(start, scale), **slow, by_growth=False)
    torch.testing.assert_close(w, torch.tensor([1.0 * 4 / 5, 1.1]), rtol=1e-3, atol=0)  # magnitude condemns the steep one


def test_the_factor_by_hand():
    # from step 10 to step 13 in four equal parts, then level
    assert [greg.factor(step, 10, 14, 1.0, 3.0) for step in (10, 11, 13, 14, 20)] == [1.5, 2.0, 3.0, 3.0, 3.0]


def test_the_norm_of_a_filter_is_summed_over_the_layers_that_a_shortcut_adds():
    model = resnet8(generator=seeded())
    group = next(group for group in removable_groups(model, EXAMPLE) if group.name == "conv1")
    expected = sum(layer.weight.detach().abs().sum((1, 2, 3)) for layer in (model.conv1, model.blocks[0].conv2))
    torch.testing.assert_close(greg.filter_norms(model, group), expected)


def test_in_a_concatenation_each_filter_has_its_own_factor():
    # w <- w - 0.5 lambda w with lambda = 1 on what is condemned, on a flat loss; nothing else changes
    model = densenet_small(generator=seeded())
    before = copy.deepcopy(model)
    callback = greg.callbacks(model, 0.5, steps=1, by_growth=False)[0]
    callback.finish = lambda model: model
    fit(model, BATCHES, 1, [callback], loss=lambda outputs, targets: 0 * outputs.sum(), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.5))
    assert len(callback.condemned) == 4
    for name, gone in callback.condemned.items():
        old, new = before.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.weight")
        torch.testing.assert_close(new[gone], old[gone] / 2)
        assert torch.equal(new[~gone], old[~gone])
        assert int(gone.sum()) == len(gone) // 2
    assert torch.equal(model.fc.weight, before.fc.weight)


def test_a_layer_of_which_no_filter_is_asked_carries_no_penalty():
    # round(0.05 * 8) = 0 of the first layers' filters, round(0.05 * 16) = 1 of the others'
    model = convnet(generator=seeded())
    before = copy.deepcopy(model)
    callback = greg.callbacks(model, 0.05, steps=1, by_growth=False)[0]
    callback.finish = lambda model: model
    fit(model, BATCHES, 1, [callback], loss=lambda outputs, targets: 0 * outputs.sum(), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.5))
    changed = [int((model.features[i].weight != before.features[i].weight).flatten(1).any(1).sum()) for i in (0, 3, 7, 10)]
    assert changed == [0, 0, 1, 1]
    model = convnet(generator=seeded())
    callback = greg.callbacks(model, 0.05, steps=9)[0]  # all filters of the layers that are pruned, before the choice
    callback.finish = lambda model: model
    fit(model, BATCHES, 1, [callback], loss=lambda outputs, targets: 0 * outputs.sum(), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.5))
    changed = [int((model.features[i].weight != before.features[i].weight).flatten(1).any(1).sum()) for i in (0, 3, 7, 10)]
    assert changed == [0, 0, 16, 16]


def test_weights_that_are_no_numbers_are_refused_before_training():
    model = convnet()
    model.features[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        greg.callbacks(model, 0.5, steps=5)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small])
def test_the_smaller_network_computes_what_the_masked_one_does(build):
    model = build(generator=seeded())
    callback = greg.callbacks(model, 0.5, steps=2)[0]
    small = fit(model, BATCHES, 2, [callback])
    kept = {name: ~gone for name, gone in callback.condemned.items()}
    torch.testing.assert_close(small(EXAMPLE), surgery.masked(model.eval(), callback.groups, kept)(EXAMPLE), rtol=1e-5, atol=1e-5)
    assert counting.macs(small, EXAMPLE) < counting.macs(model, EXAMPLE)
    assert not model._forward_pre_hooks
    assert not any(name.startswith("classifier") for name in kept)


def test_the_choice_is_made_once_at_a_quarter_of_the_run_or_at_the_start_and_at_the_latest_at_the_end():
    model = resnet8(generator=seeded())
    first = greg.GrowingRegularization(0.5, 100, True, 0.01, 1.0, 0.0)
    assert (first.pick_at, first.full_at) == (25, 75)
    first = greg.GrowingRegularization(0.5, 100, False, 0.01, 1.0, 0.0)
    assert (first.pick_at, first.full_at, first.pick_ceiling) == (0, 75, 0.0)
    first = greg.GrowingRegularization(0.5, 1, True, 0.01, 1.0, 0.0)
    assert (first.pick_at, first.full_at) == (1, 2)
    small = fit(model, BATCHES, 1, greg.callbacks(model, 0.5, steps=1000))
    assert small.conv1.out_channels == 4


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="steps"):
        greg.callbacks(resnet8(), 0.5, steps=0)


def plain(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.mark.claim
def test_a_growing_penalty_beats_a_sudden_cut_of_the_same_filters():
    # the paper's first finding. Both lose three quarters of each layer's filters, the same ones, chosen at the start, and see the same
    # number of steps; only that for one of them the penalty is zero. Without normalization the cut after the growth costs nothing. With
    # it, the shifts of the pruned channels go at the cut, which one epoch of fine-tuning has to mend, for both alike
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.02)
    full, at_cut, tuned = 0.0, {1.0: 0.0, 0.0: 0.0}, {1.0: 0.0, 0.0: 0.0}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        for build, tuning in ((plain, 0), (lambda seed: convnet(generator=seeded(seed)), 1)):
            model = fit(build(seed), train, 3, optimizer=optimizer)
            full += accuracy(model, test) / 3 if tuning == 0 else 0
            for ceiling in (1.0, 0.0):
                callbacks = greg.callbacks(model, 0.75, steps=4 * len(train), by_growth=False, ceiling=ceiling)
                small = fit(copy.deepcopy(model), train, 4, callbacks, optimizer=optimizer)
                if tuning:
                    tuned[ceiling] += accuracy(fit(small, train, tuning, optimizer=optimizer), test) / 3
                else:
                    at_cut[ceiling] += accuracy(small, test) / 3
    assert at_cut[1.0] > full - 0.05
    assert at_cut[1.0] > at_cut[0.0] + 0.15
    assert tuned[1.0] > tuned[0.0] + 0.05
