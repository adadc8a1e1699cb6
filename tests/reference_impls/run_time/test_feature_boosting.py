"""FBS (gao2019dynamic): by hand, against a written-out per-example loop, by its counts, and by what gates per input are worth."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.core.training import OwnPenalty, accuracy, fit, momentum_sgd
from reference_impls.run_time.feature_boosting import GatedConvolution, winners_take_all, wrap
from reference_impls.zoo.data import batches, digits


def network(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def test_by_hand():
    # two input channels of 1x2 pixels: ss(x) = ((1+3)/2, (2+0)/2) = (2, 1)
    # saliency: (2*1 - 1*1 + 1, 2*(-1) + 1*1 + 0.5, 2*0.5 + 0 + 0) = (2, -0.5, 1), after the rectifier (2, 0, 1)
    # one channel suppressed: the lowest, so the gate is (2, 0, 1)
    # 1x1 convolution: channel 1 is x_1 = (1, -3), channel 3 is x_1 + x_2 = (3, -3); normalization is (y - mean)/1, shift 0.5
    # mean (0, 0, 1): gate * (norm + shift) = 2*(1.5, -2.5), 0, 1*(2.5, -3.5)
    convolution = nn.Conv2d(2, 3, 1, bias=False)
    convolution.weight.data = torch.tensor([[1.0, 0.0], [5.0, 5.0], [1.0, 1.0]])[:, :, None, None]
    normalization = nn.BatchNorm2d(3, eps=0.0)
    normalization.running_mean = torch.tensor([0.0, 0.0, 1.0])
    normalization.bias.data = torch.full((3,), 0.5)
    normalization.weight.data = torch.full((3,), 100.0)  # gone: the gate is the scale
    layer = GatedConvolution(convolution, normalization).eval()
    layer.predictor.weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.0]])
    layer.predictor.bias.data = torch.tensor([1.0, 0.5, 0.0])
    layer.suppressed = 1
    inputs = torch.tensor([[[[1.0, -3.0]], [[2.0, 0.0]]]])
    torch.testing.assert_close(layer.subsample(inputs), torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(layer.gates(inputs)[0], torch.tensor([[2.0, 0.0, 1.0]]))
    torch.testing.assert_close(layer(inputs), torch.tensor([[[[3.0, -5.0]], [[0.0, 0.0]], [[2.5, -3.5]]]]))


def test_the_winners_are_chosen_for_each_example_and_of_equal_ones_the_first_go():
    saliency = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 5.0, 0.5, 2.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[3.0, 0.0, 0.0, 4.0], [0.0, 5.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    assert torch.equal(winners_take_all(saliency, 2), expected)


def test_gradient_reaches_the_winners_alone():
    saliency = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    winners_take_all(saliency, 2).sum().backward()
    assert saliency.grad.tolist() == [[1.0, 0.0, 0.0]]


def test_each_example_is_computed_as_by_a_smaller_convolution_of_its_own():
    # the oracle really skips: it convolves only the channels read, with only the filters that won
    torch.manual_seed(0)
    convolution, normalization = nn.Conv2d(6, 8, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(8)
    normalization.running_mean.normal_()
    normalization.running_var.uniform_(0.5, 2)
    normalization.bias.data.normal_()
    mean, variance, shift = normalization.running_mean, normalization.running_var, normalization.bias.detach()
    layer = GatedConvolution(convolution, normalization).eval()
    nn.init.normal_(layer.predictor.weight)
    layer.suppressed = 5
    inputs = torch.randn(4, 6, 5, 5)
    inputs[:, 2] = 0
    outputs = layer(inputs)
    for image, output in zip(inputs, outputs, strict=True):
        read = image.abs().sum((1, 2)).nonzero()[:, 0]
        saliency = (image.abs().sum((1, 2)) / 25 @ layer.predictor.weight.T + layer.predictor.bias).clamp(min=0)
        won = saliency.topk(3).indices
        small = nn.functional.conv2d(image[None, read], convolution.weight[won][:, read], stride=2, padding=1)[0]
        normal = (small - mean[won, None, None]) / (variance[won, None, None] + 1e-5).sqrt() + shift[won, None, None]
        expected = torch.zeros_like(output)
        expected[won] = saliency[won, None, None] * normal
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_penalty_is_the_mean_over_examples_of_the_summed_saliencies():
    torch.manual_seed(0)
    model = wrap(network(4), 0.5, strength=0.1).train()
    inputs = torch.randn(5, 1, 8, 8)
    first, second = model.gated()
    hidden = model.network[2](first(inputs))
    # a loop over examples, layers and channels; suppressed channels count too
    total = 0.0
    for layer, seen in ((first, inputs), (second, hidden)):
        for image in seen:
            total += sum(max(value, 0.0) for value in layer.predictor(image.abs().mean((1, 2))).tolist())
    model(inputs)
    assert model.penalty().item() == pytest.approx(0.1 * total / 5, rel=1e-5)
    model.penalty().backward()
    assert first.predictor.weight.grad.abs().sum() > 0


def test_macs_by_hand():
    # predictors 1*4 + 4*8 = 36; linear 8*10 = 80
    # layer 1: 1 channel read, 2 of 4 computed, 8x8 positions, 9 weights: 1*2*64*9 = 1152
    # layer 2: reads the 2 channels that were computed, 4 of 8, 4x4 positions: 2*4*16*9 = 1152; sum 2420
    model = wrap(network(4), 0.5)
    for layer in model.gated():
        layer.shift.data.fill_(10.0)  # so that no computed channel is zero behind the rectifier
    inputs = torch.rand(3, 1, 8, 8)
    inputs[2] = 0  # a black image: the first layer reads nothing
    assert model.macs(inputs).tolist() == [2420, 2420, 2420 - 1152]
    # dense: 36 + 80 + 1*4*64*9 + 4*8*16*9 = 7028
    model.suppress(0.0)
    assert model.macs(inputs)[:2].tolist() == [7028, 7028]


def test_wrap_gates_a_network_with_shortcuts_and_leaves_the_given_one_alone():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.plain = nn.Conv2d(4, 4, 1)

        def forward(self, inputs):
            hidden = self.norm1(self.conv1(inputs)).relu()
            return self.plain((inputs + self.norm2(self.conv2(hidden))).relu())

    model = Residual()
    before = copy.deepcopy(model.state_dict())
    boosted = wrap(model, 0.5)
    assert len(boosted.gated()) == 2  # `plain` has no normalization behind it
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model.conv1, nn.Conv2d) and model.norm1.affine
    boosted.train()(torch.randn(2, 4, 5, 5))
    copy.deepcopy(boosted)  # also while a saliency hangs on a graph


def test_a_convolution_whose_output_is_used_twice_and_a_grouped_one_stay_as_they_are():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.gated, self.first = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
            self.shared, self.second = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
            self.grouped, self.third = nn.Conv2d(2, 2, 1, groups=2), nn.BatchNorm2d(2)

        def forward(self, inputs):
            hidden = self.shared(self.first(self.gated(inputs)))
            return self.third(self.grouped(self.second(hidden) + hidden))

    boosted = wrap(Shared(), 0.5)
    assert boosted.gated() == [boosted.network.gated]
    assert boosted.network.second.affine and boosted.network.third.affine


@pytest.mark.parametrize(("sparsity", "suppressed"), [(0.0, [0, 0]), (0.3, [1, 2]), (0.5, [2, 4]), (0.99, [3, 7])])
def test_counts(sparsity, suppressed):
    # round(0.3*4) = 1, round(0.3*8) = 2; round(0.99*4) = 4 would leave no channel
    assert [layer.suppressed for layer in wrap(network(4), sparsity).gated()] == suppressed


def test_refuses_a_network_without_normalization():
    with pytest.raises(ValueError, match="batch normalization"):
        wrap(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), 0.5)


def test_predictors_are_drawn_from_the_generator():
    first, second = (wrap(network(4), 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for one, other in zip(first.gated(), second.gated(), strict=True):
        assert torch.equal(one.predictor.weight, other.predictor.weight)
        assert one.predictor.bias.tolist() == [1.0] * len(one.shift) and 0.005 < one.predictor.weight.std() < 0.02


@pytest.mark.claim
def test_gates_that_differ_between_inputs_keep_more_than_the_best_fixed_ones_at_the_same_cost():
    # digits from four cameras, each turned by another quarter and in an input channel of its own: which features matter depends on
    # the image. The rival has the same layers and trains as long, but its saliencies do not see the input: they start at the
    # normalization's scales (the choice of network slimming) and learn, so each layer computes the same few channels for all
    def cameras(inputs):
        seen = torch.zeros(len(inputs), 4, 8, 8)
        for camera in range(4):
            seen[camera::4, camera] = inputs[camera::4, 0].rot90(camera, (1, 2))
        return seen

    (inputs, targets), (test_inputs, test_targets) = digits()
    images, test = cameras(test_inputs), batches(cameras(test_inputs), test_targets, 360)
    slow = partial(momentum_sgd, learning_rate=0.03)
    gained = []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        train = batches(cameras(inputs), targets, 64, generator)
        model = nn.Sequential(
            nn.Conv2d(4, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        fit(model, train, 4)
        dynamic = wrap(model, 0.0, generator=generator)
        static = copy.deepcopy(dynamic)
        for layer, normalization in zip(static.gated(), (model[1], model[4]), strict=True):
            layer.predictor.weight.data.zero_()
            layer.predictor.weight.requires_grad_(False)
            layer.predictor.bias.data = normalization.weight.data.abs()
        for boosted in (dynamic, static):
            for sparsity in (0.0, 0.25, 0.5, 0.75, 0.875):
                boosted.suppress(sparsity)
                fit(boosted, train, 6, [OwnPenalty()], optimizer=slow)
        assert dynamic.macs(images).float().mean() <= static.macs(images).float().mean()
        gates = dynamic.gated()[0].gates(images)[1] != 0
        assert len(gates.unique(dim=0)) > 1
        gained.append(accuracy(dynamic, test) - accuracy(static, test))
    assert sum(gained) / 3 > 0.05
