"""Dual gating (li2021dynamic): by hand, against a block that computes only what is open, by its counts, and by what two gates are worth."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.training import OwnPenalty, accuracy, fit
from reference_impls.run_time.dual_gating import DualGatedBlock, gate, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import ResidualBlock, ResNet, resnet8


def block(inward=4, outward=6, stride=2, tile=2):
    torch.manual_seed(0)
    made = DualGatedBlock(ResidualBlock(inward, outward, stride), tile)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.bias.data.normal_()
    return made.eval()


def decide(gated, tiles, channels):
    gated.gates = lambda inputs: (tiles, channels)
    return gated


def test_a_gate_opens_from_zero_on_and_in_training_with_the_probability_of_its_score():
    assert gate(torch.tensor([-0.1, 0.0, 0.1]), training=False).tolist() == [0.0, 1.0, 1.0]
    torch.manual_seed(0)
    # logistic noise is above -1 with probability sigmoid(1) = 0.7311
    assert gate(torch.full((20000,), 1.0), training=True).mean().item() == pytest.approx(0.7311, abs=0.01)


def test_a_gate_has_the_gradient_of_the_soft_gate(monkeypatch):
    # u = 1/2: no noise. sigmoid(1 / (2/3)) = sigmoid(1.5) = 0.8176; its derivative 0.8176 * 0.1824 * 3/2 = 0.2237
    monkeypatch.setattr(torch, "rand_like", lambda scores: torch.full_like(scores, 0.5))
    score = torch.tensor([1.0], requires_grad=True)
    opened = gate(score, training=True)
    opened.sum().backward()
    assert opened.item() == 1.0
    assert score.grad.item() == pytest.approx(0.2237, abs=1e-4)
    # u = 0.2: log(0.2/0.8) = -1.3863, so a score of 1 closes and one of 1.5 opens
    monkeypatch.setattr(torch, "rand_like", lambda scores: torch.full_like(scores, 0.2))
    assert gate(torch.tensor([1.0, 1.5]), training=True).tolist() == [0.0, 1.0]


def test_scores_by_hand():
    # two channels of 4x4 places, stride 1, tiles of 2x2: tile means; the spatial convolution has only its middle weight
    # channel 1 is 1 in the upper left tile and 0 elsewhere, channel 2 is 0.5 everywhere; weights 1 and -1:
    # scores 1 - 0.5 = 0.5 there, -0.5 elsewhere
    # channels: means (0.25, 0.5); inner layer w = (2, 1): 1.0, normalized (1 - 0.5)/1 = 0.5; outer weights (3, -3): 1.5, -1.5
    gated = DualGatedBlock(ResidualBlock(2, 2, 1), 2).eval()
    gated.spatial_scores.weight.data.zero_()
    gated.spatial_scores.weight.data[0, :, 1, 1] = torch.tensor([1.0, -1.0])
    gated.channel_scores[0].weight.data = torch.tensor([[2.0, 1.0]])[:, :, None, None]
    gated.channel_scores[1].running_mean.fill_(0.5)
    gated.channel_scores[3].weight.data = torch.tensor([[3.0], [-3.0]])[:, :, None, None]
    inputs = torch.zeros(1, 2, 4, 4)
    inputs[0, 0, :2, :2] = 1.0
    inputs[0, 1] = 0.5
    tiles, channels = gated.gates(inputs)
    assert tiles[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert channels.flatten().tolist() == [1.0, 0.0]
    # below the norm's mean nothing passes the rectifier: (1 - 1.5)/1, and scores of 0 open
    gated.channel_scores[1].running_mean.fill_(1.5)
    assert gated.gates(inputs)[1].flatten().tolist() == [1.0, 1.0]


def test_an_image_that_tiles_do_not_divide_gets_one_tile_more():
    tiles, _ = block(stride=2, tile=2).gates(torch.randn(3, 4, 10, 7))
    assert tiles.shape == (3, 1, 3, 2)  # outputs of 5x4 places


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_computes_open_channels_at_open_tiles_and_the_shortcut_everywhere(stride):
    gated = block(4, 6, stride)
    inputs = torch.randn(2, 4, 8, 8)
    size = 8 // stride
    tiles = (torch.rand(2, 1, size // 2, size // 2) > 0.5).float()
    channels = (torch.rand(2, 6, 1, 1) > 0.4).float()
    outputs = decide(gated, tiles, channels)(inputs)
    inner = gated
    for example in range(2):
        kept = channels[example, :, 0, 0].nonzero()[:, 0]
        hidden = F.conv2d(inputs[example : example + 1], inner.conv1.weight[kept], stride=stride, padding=1)
        norm = inner.bn1
        hidden = F.batch_norm(hidden, norm.running_mean[kept], norm.running_var[kept], norm.weight[kept], norm.bias[kept]).relu()
        places = tiles[example].repeat_interleave(2, 1).repeat_interleave(2, 2)
        hidden = hidden * places
        out = inner.bn2(F.conv2d(hidden, inner.conv2.weight[:, kept], padding=1))
        short = inner.shortcut(inputs[example : example + 1])
        for row in range(size):
            for column in range(size):
                expected = short[0, :, row, column] + (out[0, :, row, column] if places[0, row, column] else 0)
                torch.testing.assert_close(outputs[example, :, row, column], expected.relu(), rtol=1e-4, atol=1e-5)


def test_in_training_the_first_convolution_is_gated_by_channel_alone():
    gated = block(4, 4, 1).train()
    inputs = torch.randn(2, 4, 8, 8)
    tiles = torch.zeros(2, 1, 4, 4)
    tiles[:, :, 0] = 1
    decide(gated, tiles, torch.ones(2, 4, 1, 1))
    plain = copy.deepcopy(gated)
    outputs = gated(inputs)
    expected = plain.bn2(plain.conv2(plain.bn1(plain.conv1(inputs)).relu()))
    expected[:, :, 2:] = 0
    torch.testing.assert_close(outputs, (expected + inputs).relu())


def test_macs_and_penalty_by_hand():
    # one block 2 -> 2 on 4x4 places, after a stem 1 -> 2 of kernel 1 and before a classifier of 32 inputs and 3 outputs
    # stem 32, each convolution 16*2*2*9 = 576, classifier 96: dense 1280
    # gates: spatial 4 tiles * 2 * 9 = 72, channels 2 + 2 = 4 (one inner channel): 76
    # example 1: half of the tiles, one of two channels: 1152 / 4 = 288; example 2: all tiles, both channels: 1152
    # macs 32 + 96 + 76 + 288 = 492 and 1356; mean of body 720, so C = 924, C / 1280 = 0.721875
    # target d = 0.25: (0.471875)^2 * 2 = 0.445332
    model = nn.Sequential(nn.Conv2d(1, 2, 1), ResidualBlock(2, 2, 1), nn.Flatten(), nn.Linear(32, 3))
    dual = wrap(model, 0.75, strength=2.0, bound=0.0)
    tiles = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])[:, None]
    channels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])[:, :, None, None]
    (gated,) = dual.gated()
    plain = gated.gates
    gated.gates = lambda inputs: (plain(inputs), (tiles[: len(inputs)], channels[: len(inputs)]))[1]  # their layers run and are counted
    inputs = torch.randn(2, 1, 4, 4)
    assert dual.macs(inputs).tolist() == [492, 1356]
    dual.train()(inputs)
    assert dual.penalty().item() == pytest.approx(0.445332, rel=1e-4)
    assert counting.macs(model, inputs[:1]) == 1280


def test_bounds_by_hand():
    # d = 0.25, sqrt(d) = 0.5; p = exp(-0.1 * 7) = 0.4966: lower bound 0.2483, upper 1 - 0.4966 * 0.5 = 0.7517
    # tiles open 0.1 and 0.9 in two blocks: (0.1483^2 + 0.1483^2) / 2 = 0.021993
    # channels open 0.5 and 0.8: (0 + 0.0483^2) / 2 = 0.001166; sum 0.023159
    dual = wrap(nn.Sequential(ResidualBlock(2, 2, 1), ResidualBlock(2, 2, 1)), 0.75, annealing=0.1)
    dual.batches.fill_(7)
    first, second = dual.gated()
    first.open = torch.tensor([0.0, 0.2]), torch.tensor([0.4, 0.6])
    second.open = torch.tensor([0.9, 0.9]), torch.tensor([0.7, 0.9])
    assert dual.bounds().item() == pytest.approx(0.023159, abs=1e-5)


def test_the_penalty_adds_its_bounds_and_reaches_both_gates():
    torch.manual_seed(0)
    dual = wrap(resnet8(), 0.5, strength=3.0, bound=2.0)
    assert dual.tightness() == 1
    dual.train()(torch.randn(8, 1, 8, 8))
    assert dual.batches == 1
    assert dual.tightness() == pytest.approx(0.999, abs=1e-5)
    full = dual.penalty()
    dual.bound = 0.0
    assert (full - dual.penalty()).item() == pytest.approx(2 * dual.bounds().item(), rel=1e-4)
    full.backward()
    for gated in dual.gated():
        assert gated.spatial_scores.weight.grad.abs().sum() > 0
        assert gated.channel_scores[3].weight.grad.abs().sum() > 0
    copy.deepcopy(dual)  # also while fractions hang on a graph


def test_a_new_shape_of_images_is_counted_anew():
    dual = wrap(resnet8(), 0.5).train()
    for size in (8, 16, 8):
        dual(torch.randn(2, 1, size, size))
        assert dual.counts[dual.shape][0] == counting.macs(resnet8(), torch.randn(1, 1, size, size))
    assert len(dual.counts) == 2


def test_wrap_gates_residual_blocks_and_leaves_the_given_network_alone():
    model = resnet8()
    dual = wrap(model, 0.5)
    assert [gated.conv1.out_channels for gated in dual.gated()] == [8, 16, 32]
    assert [gated.channel_scores[0].out_channels for gated in dual.gated()] == [2, 2, 4]
    assert isinstance(model.blocks[0], ResidualBlock)
    one, other = (wrap(model, 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert wrap(model, 0.5, tile=1).gated()[0].tile == 1
    with pytest.raises(ValueError, match="tile: 0"):
        wrap(model, 0.5, tile=0)
    with pytest.raises(ValueError, match="no residual block"):
        wrap(nn.Sequential(nn.Conv2d(1, 1, 1)), 0.5)
    model.fc.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        wrap(model, 0.5)


class BlindBlock(DualGatedBlock):
    def gates(self, inputs):
        return super().gates(torch.ones_like(inputs))


@pytest.mark.claim
def test_gates_that_see_the_input_keep_more_than_gates_that_do_not_at_no_higher_cost():
    # digits in one of the four corners of a larger image: where to compute depends on the image. The rival's gates learn as well,
    # but see the same for every image; it is 13 points worse and spends a third more
    def cornered(images, generator):
        canvas = images.new_full((len(images), 1, 16, 16), images.min().item())
        for place, image, corner in zip(canvas, images, torch.randint(4, (len(images),), generator=generator).tolist(), strict=True):
            place[:, 8 * (corner // 2) :, 8 * (corner % 2) :][:, :8, :8] = image
        return canvas

    def adam(parameters):
        return torch.optim.Adam(parameters, 0.01)

    (inputs, targets), (test_inputs, test_targets) = digits()
    generator = torch.Generator().manual_seed(0)
    inputs, test_inputs = cornered(inputs, generator), cornered(test_inputs, generator)
    test, scores, costs = batches(test_inputs, test_targets, 360), {}, {}
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        train = batches(inputs, targets, 64, generator)
        dual = wrap(fit(ResNet(1, 4, 1, 10), train, 2, optimizer=adam), 0.7, generator=generator)
        for kind in (DualGatedBlock, BlindBlock):
            rival = copy.deepcopy(dual)
            for gated in rival.gated():
                gated.__class__ = kind
            fit(rival, train, 4, [OwnPenalty()], optimizer=adam)
            scores.setdefault(kind, []).append(accuracy(rival, test))
            costs.setdefault(kind, []).append(rival.macs(test_inputs).float())
        own = costs[DualGatedBlock][-1]
        assert own.max() > 1.2 * own.min()
    assert sum(scores[DualGatedBlock]) / 3 > sum(scores[BlindBlock]) / 3 + 0.03
    assert torch.cat(costs[DualGatedBlock]).mean() <= torch.cat(costs[BlindBlock]).mean()
