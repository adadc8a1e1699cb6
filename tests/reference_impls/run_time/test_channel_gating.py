"""CGNet (hua2019channel): by hand, against a loop that really skips, by its counts, and by what partial sums foretell."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time.channel_gating import GatedConvolution, target_threshold, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8


def layer_by_hand():
    # 1x1 convolution of two input channels, base = the first; partial sums are normalized with mean 1 and variance 4
    convolution = nn.Conv2d(2, 2, 1)
    convolution.weight.data = torch.tensor([[1.0, 10.0], [2.0, -5.0]])[:, :, None, None]
    convolution.bias.data = torch.tensor([1.0, 0.0])
    layer = GatedConvolution(convolution, partitions=2, threshold=0.5, slope=2.0)
    layer.normalization.eps = 0.0
    layer.normalization.running_mean = torch.tensor([1.0, 1.0])
    layer.normalization.running_var = torch.tensor([4.0, 4.0])
    return layer.eval()


def test_by_hand():
    # one row of two pixels: x_1 = (2, 0), x_2 = (1, 3)
    # partial sums: channel 1: 1*2 + 1 = 3, 1*0 + 1 = 1; channel 2: 2*2 = 4, 2*0 = 0
    # normalized: (3-1)/2 = 1, (1-1)/2 = 0; (4-1)/2 = 1.5, (0-1)/2 = -0.5. Threshold 0.5: finished, not; finished, not
    # results: 3 + 10*1 = 13, 1; 4 - 5*1 = -1, 0
    layer = layer_by_hand()
    inputs = torch.tensor([[[[2.0, 0.0]], [[1.0, 3.0]]]])
    partial = layer.partial_sum(inputs)
    torch.testing.assert_close(partial, torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]]))
    assert layer.gates(partial).tolist() == [[[[1.0, 0.0]], [[1.0, 0.0]]]]
    torch.testing.assert_close(layer(inputs), torch.tensor([[[[13.0, 1.0]], [[-1.0, 0.0]]]]))


def test_the_step_has_the_gradient_of_the_sigmoid():
    # channel 1, pixel 1: argument 2*(1 - 0.5) = 1; d gate / d Delta = -2 s (1 - s), s = sigmoid(1); the gated part is 10*1
    # pixel 2: argument 2*(0 - 0.5) = -1, the same product s (1 - s); the part not computed is 10*3
    layer = layer_by_hand()
    layer(torch.tensor([[[[2.0, 0.0]], [[1.0, 3.0]]]]))[:, 0].sum().backward()
    s = 1 / (1 + torch.e**-1)
    assert layer.threshold.grad[0].item() == pytest.approx(-2 * s * (1 - s) * (10 + 30), rel=1e-5)
    assert layer.threshold.grad[1] == 0


def test_a_partial_sum_at_the_threshold_is_not_finished():
    layer = layer_by_hand()
    # normalized (2 - 1)/2 = 0.5 = threshold
    assert layer.gates(torch.full((1, 2, 1, 1), 2.0)).sum() == 0


def test_each_activation_is_computed_as_by_a_loop_that_really_skips():
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 4, 3, padding=1, stride=2)
    layer = GatedConvolution(convolution, partitions=3, threshold=0.2, slope=2.0).eval()
    layer.normalization.running_mean.normal_()
    layer.normalization.running_var.uniform_(0.5, 2)
    layer.threshold.data.normal_()
    inputs = torch.randn(2, 6, 5, 5)
    outputs = layer(inputs)
    patches = nn.functional.unfold(inputs, 3, padding=1, stride=2).view(2, 6, 9, 9)  # (examples, channels, 3x3, positions)
    weight = convolution.weight.flatten(2)
    for example in range(2):
        for channel in range(4):
            for position in range(9):
                total = convolution.bias[channel] + (patches[example, :2, :, position] * weight[channel, :2]).sum()
                deviation = (layer.normalization.running_var[channel] + 1e-5).sqrt()
                if (total - layer.normalization.running_mean[channel]) / deviation > layer.threshold[channel]:
                    total = total + (patches[example, 2:, :, position] * weight[channel, 2:]).sum()
                torch.testing.assert_close(outputs[example, channel].flatten()[position], total, rtol=1e-4, atol=1e-5)


def test_macs_by_hand():
    # 8 input channels in 4 partitions: base 2, rest 6; 3 outputs of 2x2 positions, kernel 1x1; then linear 12 -> 5
    # base 2*12 = 24; each finished activation 6; linear 60
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Conv2d(8, 3, 1), nn.Flatten(), nn.Linear(12, 5)), 0.5).eval()
    (layer,) = model.gated()
    inputs = torch.randn(6, 8, 2, 2)
    finished = (layer.normalization(layer.partial_sum(inputs)) > layer.threshold[:, None, None]).flatten(1).sum(1)
    assert 0 < finished.sum() < 72
    assert model.macs(inputs).tolist() == [24 + 6 * int(each) + 60 for each in finished]
    layer.threshold.data.fill_(-100.0)
    assert model.macs(inputs).tolist() == [counting.macs(nn.Sequential(nn.Conv2d(8, 3, 1), nn.Flatten(), nn.Linear(12, 5)), inputs[:1])] * 6


def test_macs_of_one_example_and_one_output():
    # base 1 of 2 inputs, kernel 3x3, one position: 9, and 9 more where the gate is open
    model = wrap(nn.Sequential(nn.Conv2d(2, 1, 3)), 0.5, partitions=2)
    model.gated()[0].threshold.data.fill_(-100.0)
    assert model.macs(torch.randn(1, 2, 3, 3)).tolist() == [18]
    assert not list(model.gated()[0].normalization.parameters())


def test_asked_for_nothing_it_computes_what_the_network_computes():
    torch.manual_seed(0)
    model, inputs = resnet8().eval(), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(wrap(model, 0.0).eval()(inputs), model(inputs))


def test_the_target_is_the_quantile_of_the_normal_distribution():
    assert target_threshold(0.5) == pytest.approx(0)
    # 97.5 % of a normal distribution lie below 1.959964
    assert target_threshold(0.975) == pytest.approx(1.959964, abs=1e-6)
    # and that share of a normalized layer's activations stays at its partial sum
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Conv2d(64, 8, 3)), 0.7).train()
    (layer,) = model.gated()
    layer.normalization.momentum = 1.0
    inputs = torch.randn(64, 64, 10, 10)
    assert 1 - layer.gates(layer.partial_sum(inputs)).mean().item() == pytest.approx(0.7, abs=0.01)


def test_penalty_by_hand():
    # thresholds 1, 3 with target 1 (84.1345 % of a normal distribution lie below): 0.1 * (0 + 4) = 0.4, for two layers 0.8
    model = wrap(nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 1)), 0.841344746, partitions=2, strength=0.1)
    assert model.gated()[1].threshold.tolist() == pytest.approx([1.0, 1.0])
    for layer in model.gated():
        layer.threshold.data = torch.tensor([1.0, 3.0])
    assert model.penalty().item() == pytest.approx(0.8)


def test_only_ungrouped_convolutions_with_enough_inputs_are_gated():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 2, 1))
    gated = wrap(model, 0.5)
    assert gated.gated() == [gated.network[2], gated.network[3]]
    assert gated.network[2].base == 2
    assert gated.network[2].bias is None
    assert not any(isinstance(layer, GatedConvolution) for layer in model)
    with pytest.raises(ValueError, match="at least 9"):
        wrap(model, 0.5, partitions=9)
    with pytest.raises(ValueError, match="partitions: 1"):
        wrap(model, 0.5, partitions=1)
    model[0].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        wrap(model, 0.5)


class RandomGates(GatedConvolution):
    def gates(self, partial):
        return (torch.rand_like(partial) < 0.5).to(partial)


class OppositeGates(GatedConvolution):
    def gates(self, partial):
        return 1 - super().gates(partial)


@pytest.mark.claim
def test_partial_sums_foretell_which_activations_matter():
    # half of all activations stay at a quarter of their sum, nothing is trained but the normalizations' statistics: random choice costs
    # 10 points more of accuracy, the opposite choice 40. (Where networks are trained with their gates, random ones come within 2 points.)
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    kept = {kind: [] for kind in (GatedConvolution, RandomGates, OppositeGates)}
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        train = batches(inputs, targets, 64, generator)
        gated = wrap(fit(resnet8(16, generator=generator), train, 3), 0.5)
        costs = []
        for kind, accuracies in kept.items():
            rival = copy.deepcopy(gated).train()
            for layer in rival.gated():
                layer.__class__ = kind
            with torch.no_grad():
                for images, _ in train:
                    rival(images)
            accuracies.append(accuracy(rival, test))
            costs.append(rival.macs(test_inputs).float().mean().item())
        assert costs[0] < 1.01 * min(costs)
    own, random, opposite = (sum(accuracies) / 3 for accuracies in kept.values())
    assert own > random + 0.05
    assert own > opposite + 0.25
