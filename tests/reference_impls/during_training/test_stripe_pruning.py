"""SWP (meng2020pruning): by hand, against the authors' update, stripes as 1 x 1 convolutions, and its claim."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import stripe_pruning
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mobilenet_small, resnet8

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 3]))] * 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_stripe_is_one_position_over_all_input_channels_by_hand():
    # two channels, kernel 1 x 2: stripes (1, 3) and (2, 4); factors 10 and 100
    weight = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    skeleton = stripe_pruning.Skeleton(weight)
    assert skeleton.factors.tolist() == [[[1.0, 1.0]]]
    skeleton.factors.data = torch.tensor([[[10.0, 100.0]]])
    assert skeleton(weight).tolist() == [[[[10.0, 200.0]], [[30.0, 400.0]]]]


def test_a_step_by_hand():
    # alpha 0.5, threshold 0.1. Factors 0.8, -0.6, 0.1, with gradients 1, 2, 3: 1 + 0.5, 2 - 0.5, and 0.1 is not above the threshold: both 0
    swp = stripe_pruning.StripeTraining(0.5, 0.1)
    swp.skeletons["layer"] = skeleton = stripe_pruning.Skeleton(torch.ones(1, 1, 1, 3))
    skeleton.factors.data = torch.tensor([[[0.8, -0.6, 0.1]]])
    skeleton.factors.grad = torch.tensor([[[1.0, 2.0, 3.0]]])
    swp.after_backward(None, None)
    torch.testing.assert_close(skeleton.factors.grad, torch.tensor([[[1.5, 1.5, 0.0]]]))
    torch.testing.assert_close(skeleton.factors.data, torch.tensor([[[0.8, -0.6, 0.0]]]))


def test_a_layer_keeps_its_largest_stripe():
    kept = stripe_pruning.kept_stripes(torch.tensor([[[0.01, -0.03]], [[0.02, 0.0]]]), 0.1)
    assert kept.tolist() == [[[False, True]], [[False, False]]]
    assert stripe_pruning.kept_stripes(torch.tensor([[[0.2, -0.3]], [[0.1, 0.0]]]), 0.1).tolist() == [[[True, True]], [[False, False]]]


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(98, 4))


class Skeletons(Callback):
    """The factors before the end writes them into the weights."""

    def __init__(self, swp):
        self.swp = swp

    def finish(self, model):
        self.factors = {name: skeleton.factors.detach().clone() for name, skeleton in self.swp.skeletons.items()}
        return model


def test_steps_are_the_authors_update():
    # their layer multiplies weight and skeleton in its forward pass; their loop adds sr * sign to the gradient after the backward pass,
    # then clears by the threshold. Twelve steps, in which some stripes go
    model = small_network()
    theirs = copy.deepcopy(model)
    [swp] = stripe_pruning.callbacks(model, Strength(0.2), threshold=0.4)
    seen = Skeletons(swp)
    data = BATCHES * 4
    optimizer = lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01)
    fit(model, data, 1, [seen, swp], optimizer=optimizer)

    factors = [torch.ones(3, 3, 3, requires_grad=True), torch.ones(2, 2, 2, requires_grad=True)]
    peer = optimizer([*theirs.parameters(), *factors])
    for inputs, targets in data:
        peer.zero_grad()
        hidden = functional.conv2d(inputs, theirs[0].weight * factors[0][:, None], padding=1).relu()
        hidden = functional.conv2d(hidden, theirs[2].weight * factors[1][:, None], theirs[2].bias)
        functional.cross_entropy(theirs[4](hidden.flatten(1)), targets).backward()
        for factor in factors:
            factor.grad += 0.2 * factor.data.sign()
            mask = factor.data.abs() > 0.4
            factor.data *= mask
            factor.grad *= mask
        peer.step()
    for name, factor, layer in zip(("0", "2"), factors, (0, 2), strict=True):
        torch.testing.assert_close(seen.factors[name], factor.detach())
        mask = factor.detach().abs() > 0.4
        assert 0 < int(mask.sum()) < mask.numel()
        torch.testing.assert_close(model[layer].weight.detach(), theirs[layer].weight.detach() * (factor.detach() * mask)[:, None])
    torch.testing.assert_close(model[4].weight, theirs[4].weight)
    assert not hasattr(model[0], "parametrizations")
    assert isinstance(model[0].weight, nn.Parameter)


def sparse(layer):
    """With half of the layer's stripes zero, one filter altogether."""
    keep = torch.rand(layer.weight[:, :1].shape, generator=seeded()) > 0.5
    keep[0] = False
    layer.weight.data *= keep
    return layer


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 3), "padding": (2, 0), "bias": False},
        {"kernel_size": (2, 3), "dilation": (1, 2)},
        {"kernel_size": 3, "dilation": (2, 1), "padding": (1, 2), "stride": (2, 1)},
        {"kernel_size": 1},
    ],
)
def test_stripes_compute_what_the_convolution_does(given):
    torch.manual_seed(0)
    layer = sparse(nn.Conv2d(3, 4, **given))
    inputs = torch.randn(2, 3, 9, 10)
    stripes = stripe_pruning.StripeConvolution(layer)
    torch.testing.assert_close(stripes(inputs), layer(inputs))
    assert stripes.weight.shape == (int((layer.weight != 0).all(1).sum()), 3, 1, 1)


@pytest.mark.parametrize("build", [resnet8, mobilenet_small])
def test_a_reorganized_network_is_smaller_and_computes_the_same(build):
    model = build(generator=seeded()).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            sparse(module)
    before = copy.deepcopy(model.state_dict())
    small = stripe_pruning.reorganized(model)
    torch.testing.assert_close(small(IMAGES), model(IMAGES))
    assert counting.parameters(small) < 0.7 * counting.parameters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    left = [module for module in small.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.groups > 1 for module in left) and bool(left) == (build is mobilenet_small)


def test_what_cannot_be_reorganized_stays():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(2, 2, 1))
    kinds = [type(module).__name__ for module in stripe_pruning.reorganized(model)]
    assert kinds == ["Conv2d", "Conv2d", "StripeConvolution"]


def test_frozen_shared_and_missing_convolutions():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    assert stripe_pruning.convolutions(model) == ["3"]
    with pytest.raises(ValueError, match="nothing to prune"):
        stripe_pruning.callbacks(nn.Sequential(nn.Linear(2, 2)), Strength(0.1))
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            stripe_pruning.callbacks(model, Strength(0.1), threshold=wrong)
    assert stripe_pruning.callbacks(model, Strength(0.1), threshold=0)
    model[3].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        stripe_pruning.callbacks(model, Strength(0.1))


@pytest.mark.claim
def test_trained_under_the_penalty_most_stripes_can_go_without_harm():
    # next to it: factors without penalty, of which as many go, the smallest. Five of six stripes go or more; nothing is trained afterwards
    (inputs, targets), test = digits()

    class Slower(Callback):
        def start(self, model, optimizer):
            self.optimizer = optimizer

        def epoch_end(self, model, epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = 0.05 * (1 - (epoch + 1) / 10)

    class Before(Callback):
        def __init__(self, swp, share=None):
            self.swp, self.share = swp, share

        def finish(self, model):
            self.accuracy = accuracy(model, [test])
            if self.share is not None:
                sizes = torch.cat([skeleton.factors.detach().abs().flatten() for skeleton in self.swp.skeletons.values()])
                self.swp.threshold = sizes.quantile(self.share).item()
            return model

    def run(seed, strength, share=None):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        [swp] = stripe_pruning.callbacks(model, Strength(strength), threshold=0.05)
        before = Before(swp, share)
        data = batches(inputs, targets, 64, seeded(seed))
        fit(model, data, 10, [before, swp, Slower()], optimizer=lambda p: momentum_sgd(p, 0.05))
        gone = torch.cat([(model[place].weight == 0).all(1).flatten() for place in (0, 2, 5)])
        return before.accuracy, accuracy(model, [test]), float(gone.float().mean())

    for seed in range(3):
        before, after, share = run(seed, 0.025)
        assert share > 0.83 and after > before - 0.02 and after > 0.87
        assert after > 0.2 + run(seed, 0.0, share)[1]
