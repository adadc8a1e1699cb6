"""ThiNet (luo2017thinet): by hand, against brute force and numpy's least squares, and by what the next layer's outputs lose."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import pruning_filters, thinet
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def products(terms):
    return terms.double().T @ terms.double()


def test_by_hand():
    # terms of three channels in two samples: (1, 3, -1) and (2, 0, -2.5)
    # alone: 1 + 4 = 5, 9 + 0 = 9, 1 + 6.25 = 7.25: channel 0 goes first
    # with channel 0: (1+3)^2 + (2+0)^2 = 20 for channel 1, (1-1)^2 + (2-2.5)^2 = 0.25 for channel 2: so channel 2 goes, though its
    # own terms are not small; alone, the two smallest would be the same set, the next test tells them apart
    terms = torch.tensor([[1.0, 3.0, -1.0], [2.0, 0.0, -2.5]])
    assert thinet.greedy_removal(products(terms), 2) == [0, 2]
    # y = (3, -0.5); channel 1 has (3, 0): w = (3*3 + 0) / 9 = 1
    torch.testing.assert_close(thinet.rescaling(products(terms), torch.tensor([False, True, False])), torch.ones(1).double())
    # kept 0 and 1: [[1, 3], [2, 0]] w = (3, -0.5), so w_0 = -0.25 and w_1 = 3.25 / 3
    factors = thinet.rescaling(products(terms), torch.tensor([True, True, False]))
    torch.testing.assert_close(factors, torch.tensor([-0.25, 3.25 / 3]).double())


def test_channels_that_cancel_go_together():
    # alone: 1, 4, 1.21, 3.61; first 0 (1). Then 0 with 1: (1-2)^2 = 1, with 2: 2.1^2, with 3: (1+1.9)^2: so 1, the largest alone
    terms = torch.tensor([[1.0, -2.0, 1.1, 1.9]])
    assert thinet.greedy_removal(products(terms), 2) == [0, 1]


def test_each_step_is_the_best_one_and_the_first_the_best_of_all_sets_of_one():
    # the oracle sums the samples anew for every candidate, and looks at every subset for how far greedy is from the best
    terms = torch.randn(50, 7, generator=seeded()).double()
    removed = thinet.greedy_removal(products(terms), 4)

    def lost(channels):
        return float(terms[:, list(channels)].sum(1).square().sum())

    for step, channel in enumerate(removed):
        candidates = [c for c in range(7) if c not in removed[:step]]
        assert channel == min(candidates, key=lambda c: lost([*removed[:step], c]))
    assert {removed[0]} == set(min(itertools.combinations(range(7), 1), key=lost))
    all_sets = sorted(lost(channels) for channels in itertools.combinations(range(7), 4))
    assert lost(removed) <= all_sets[len(all_sets) // 4]


def test_rescaling_is_the_least_squares_solution_of_numpy():
    terms = torch.randn(60, 6, generator=seeded()).double()
    keep = torch.tensor([True, False, True, True, False, True])
    expected = np.linalg.lstsq(terms[:, keep].numpy(), terms.sum(1).numpy(), rcond=None)[0]
    torch.testing.assert_close(thinet.rescaling(products(terms), keep), torch.from_numpy(expected))


def test_a_channel_that_never_fires_keeps_the_factor_one():
    terms = torch.randn(60, 4, generator=seeded()).double()
    terms[:, 2] = 0
    factors = thinet.rescaling(products(terms), torch.tensor([True, False, True, True]))
    assert factors[1].item() == pytest.approx(1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 2), stride=2, dilation=(2, 1)),
        nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"),
        nn.Conv2d(3, 4, (1, 3), padding=(2, 0)),
        nn.Linear(3, 4),
    ],
)
def test_terms_add_up_to_outputs_of_every_place_and_filter(layer):
    inputs = torch.randn(2, 5, 3, generator=seeded()) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 6, 7, generator=seeded())
    terms = thinet.terms(layer, inputs, 500, seeded(1)).detach()
    outputs = layer(inputs).detach()
    shape = [-1 if dim == (outputs.dim() - 1 if outputs.dim() == 3 else 1) else 1 for dim in range(outputs.dim())]
    outputs = (outputs - layer.bias.detach().view(shape)).flatten(1)
    for image, sampled in zip(outputs, terms.sum(1).view(2, 500), strict=True):
        distance, which = (sampled[:, None] - image[None]).abs().min(1)
        assert distance.max() < 1e-5
        assert len(which.unique()) > 0.5 * len(image)


def test_a_channel_without_effect_is_what_goes_and_the_rest_reproduces_the_output():
    # channel 1 is twice channel 0 and channel 3 is ignored by the reader: without 1 and 3 nothing is lost, after rescaling
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 3, 3, padding=1))
    torch.manual_seed(0)
    model[0].weight.data = torch.randn(4, 2, 1, 1)
    model[0].weight.data[1] = 2 * model[0].weight.data[0]
    model[1].weight.data.uniform_(0.5, 1)
    model[1].weight.data[:, 0] = 0.01
    model[1].weight.data[:, 1] = 0.01
    model[1].weight.data[:, 3] = 0
    images = torch.randn(16, 2, 5, 5)
    before = model(images)
    small = thinet.prune(model, [(images, None)], 0.5, generator=seeded())
    assert small[0].weight.shape[0] == 2
    torch.testing.assert_close(small(images), before, rtol=1e-3, atol=1e-3)
    assert torch.equal(model(images), before)


def test_rescaling_goes_into_the_reader_of_flattened_maps_pixel_by_pixel():
    # unit c of the convolution is read by columns 4c .. 4c+3; a factor is one number per unit
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    small = thinet.prune(model, [(torch.randn(64, 1, 2, 2), None)], 0.5, generator=seeded())
    assert small[3].weight.shape == (3, 8)
    kept = [c for c in range(4) if any(torch.equal(model[0].weight[c], small[0].weight[k]) for k in range(2))]
    ratio = (small[3].weight / model[3].weight.unflatten(1, (4, 4))[:, kept].flatten(1)).unflatten(1, (2, 4))
    torch.testing.assert_close(ratio, ratio[:1, :, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert (ratio[0, :, 0] - 1).abs().max() > 0.01


def test_the_reader_comes_closer_to_its_output_than_without_rescaling(monkeypatch):
    torch.manual_seed(0)
    images = digits()[0][0][:200]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    model[2].weight.data.abs_()  # all channels add up, so what stays must grow

    def error():
        return (thinet.prune(model, [(images, None)], 0.5, generator=seeded())(images) - model(images)).square().mean()

    rescaled = error()
    monkeypatch.setattr(thinet, "rescaling", lambda products, keep: torch.ones(int(keep.sum()), dtype=torch.float64))
    assert rescaled < 0.8 * error()


def test_in_residual_blocks_only_the_inner_convolution_is_thinned():
    images = digits()[0][0][:50]
    model = resnet8(generator=seeded()).eval()
    small = thinet.prune(model, [(images, None)], 0.5, generator=seeded())
    assert [block.conv1.out_channels for block in small.blocks] == [4, 8, 16]
    assert [block.conv2.out_channels for block in small.blocks] == [8, 16, 32] and small.conv1.out_channels == 8
    dense, now = counting.report(model, images[:1]), counting.report(small, images[:1])
    assert now.parameters < dense.parameters and now.macs < dense.macs
    # a channel of the masked network that is zero behind the normalization adds nothing: the smaller network is that one
    masked = resnet8(generator=seeded()).eval()
    for block, thin in zip(masked.blocks, small.blocks, strict=True):
        kept = [next(c for c in range(block.conv1.out_channels) if torch.equal(block.conv1.weight[c], w)) for w in thin.conv1.weight]
        gone = [c for c in range(block.conv1.out_channels) if c not in kept]
        block.bn1.weight.data[gone] = 0
        block.bn1.bias.data[gone] = 0
        block.conv2.weight.data[:, kept] = thin.conv2.weight.data
    torch.testing.assert_close(small(images), masked(images), rtol=1e-5, atol=1e-5)


def test_trains_after_each_layer():
    widths = []

    def train(model):
        widths.append([layer.out_channels for layer in model.features if isinstance(layer, nn.Conv2d)])
        return model

    thinet.prune(convnet(), [(torch.randn(8, 1, 8, 8), None)], 0.5, train=train, generator=seeded())
    assert widths == [[4, 8, 16, 16], [4, 4, 16, 16], [4, 4, 8, 16], [4, 4, 8, 8], [4, 4, 8, 8]]  # the last is the hidden layer


def test_refuses_what_it_cannot_thin():
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(ValueError, match="read by one"):
        thinet.prune(grouped, [(torch.ones(1, 2, 3, 3), None)], 0.5)
    with pytest.raises(ValueError, match="positions"):
        thinet.prune(convnet(), [(torch.ones(1, 1, 8, 8), None)], 0.5, positions=0)


@pytest.mark.claim
def test_the_next_layer_tells_more_about_a_filter_than_the_filter_itself(monkeypatch):
    # accuracy right after pruning, against the smallest l1 norms, and against filters drawn at random but rescaled as well
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    over_norm, over_random = [], []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(convnet(generator=seeded(seed)), train, 4)
        thin = accuracy(thinet.prune(model, train, 0.3, generator=seeded(seed)), test)
        order = torch.randperm(64, generator=seeded(seed)).tolist()
        with monkeypatch.context() as patched:
            patched.setattr(thinet, "greedy_removal", lambda p, count, order=order: [c for c in order if c < len(p)][:count])
            drawn = accuracy(thinet.prune(model, train, 0.3, generator=seeded(seed)), test)
        over_random.append(thin - drawn)
        over_norm.append(thin - accuracy(pruning_filters.prune(model, train, 0.3), test))
    assert sum(over_norm) / 3 > 0.05
    assert sum(over_random) / 3 > 0.1
