"""Rectified maps by group: whose maps a rectifier gives out, however the network calls it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reference_impls.core.activations import rectified_means
from reference_impls.core.structures import removable_groups
from reference_impls.zoo.networks import convnet, densenet_small, lenet_300_100, mobilenet_small, resnet8

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES[:4], None), (IMAGES[4:], None)]


def mean(maps):
    return maps.reshape(*maps.shape[:2], -1).mean(2)


def means(model, batches=BATCHES):
    return rectified_means(model, removable_groups(model, IMAGES[:1]), batches, mean)


def test_a_sequential_network_by_hand():
    model = convnet(generator=torch.Generator().manual_seed(0)).eval()
    found = means(model)
    with torch.no_grad():
        first = model.features[:3](IMAGES)
        hidden = model.classifier[:2](model.features(IMAGES).flatten(1))
    torch.testing.assert_close(found["features.0"], first.mean((0, 2, 3)))
    torch.testing.assert_close(found["classifier.0"], hidden.mean(0))
    assert list(found) == ["features.0", "features.3", "features.7", "features.10", "classifier.0"]


def test_a_stream_is_seen_by_every_rectifier_on_it():
    model = resnet8(generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        stem = model.bn1(model.conv1(IMAGES)).relu()
        block = model.blocks[0](stem)
        inner = model.blocks[0].bn1(model.blocks[0].conv1(stem)).relu()
    found = means(model)
    torch.testing.assert_close(found["conv1"], (stem.mean((0, 2, 3)) + block.mean((0, 2, 3))) / 2)
    torch.testing.assert_close(found["blocks.0.conv1"], inner.mean((0, 2, 3)))


def test_the_model_is_left_as_it_was():
    model = resnet8().train()
    before = model.bn1.running_mean.clone()
    found = means(model)
    assert model.training and torch.equal(model.bn1.running_mean, before)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize(
    "rectify",
    [
        functional.relu,
        torch.relu,
        torch.Tensor.relu,
        lambda x: torch.relu_(x),
        lambda x: x.clone().relu_(),
        lambda x: functional.relu(x, inplace=True),
        nn.ReLU(),
        nn.ReLU(inplace=True),
    ],
)
def test_all_ways_to_rectify(rectify):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(64, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.two(rectify(self.one(x.flatten(1))))

    model = Net()
    found = means(model)
    torch.testing.assert_close(found["one"], model.one(IMAGES.flatten(1)).detach().relu().mean(0))


def test_a_clipped_rectifier_counts_and_a_clip_on_both_sides_does_not():
    def network(clip):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), clip, nn.Linear(5, 2))

    assert means(network(nn.ReLU6()))["1"].shape == (5,)
    assert means(network(nn.Hardtanh())) == {}
    assert means(network(nn.Tanh())) == {}


def test_mobile_networks_are_followed_and_concatenations_are_not():
    found = means(mobilenet_small())
    assert "stem.0" in found and all(value.min() >= 0 for value in found.values())
    assert list(means(densenet_small())) == ["conv"]
    assert list(means(lenet_300_100())) == ["1", "3"]


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="batches"):
        means(resnet8(), [])
