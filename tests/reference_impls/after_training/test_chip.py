"""CHIP (sui2021chip): by hand, against the authors' loop, what an independent map is, and its claim."""

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import chip
from reference_impls.core.masks import keep_units
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_by_hand():
    # rows (3, 0), (0, 4), (0, 3): singular values 3 and sqrt(16 + 9) = 5, in sum 8. Without the first 5; without the second 3 + 3 = 6;
    # without the third 3 + 4 = 7. Independence 3, 2, 1. By their norms the first and the third would be equal
    maps = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]], [[0.0, 3.0]]]])
    torch.testing.assert_close(chip.channel_independence(maps), torch.tensor([[3.0, 2.0, 1.0]]))
    # two examples, each with its own matrix: the second one's maps are all alike, norms sqrt(3), sqrt(2)
    same = torch.tensor([[[[1.0, 0.0]]] * 3])
    expected = torch.tensor([[3.0, 2.0, 1.0], [3**0.5 - 2**0.5] * 3])
    torch.testing.assert_close(chip.channel_independence(torch.cat([maps, same])), expected)


def test_same_scores_as_the_authors_loop():
    # their code: for each image and row a copy with the row set to zero, and the difference of torch's nuclear norms; theirs rounds first
    maps = torch.randn(3, 6, 4, 4, generator=seeded()).relu()
    rows = torch.tensor(np.round(maps.numpy(), 4)).reshape(3, 6, -1)
    theirs = torch.zeros(3, 6)
    for i in range(3):
        for j in range(6):
            without = rows[i].clone()
            without[j] = 0
            theirs[i, j] = torch.norm(rows[i], p="nuc") - torch.norm(without, p="nuc")
    torch.testing.assert_close(chip.channel_independence(rows.view(3, 6, 4, 4)), theirs, rtol=1e-4, atol=1e-4)


def test_a_map_that_others_span_is_less_independent_than_one_that_is_orthogonal():
    rows = torch.linalg.qr(torch.randn(16, 5, generator=seeded()))[0].T
    spanned = torch.cat([rows, rows[:2].mean(0, keepdim=True) * 2**0.5])  # unit length, in the plane of the first two
    scores = chip.channel_independence(spanned.view(1, 6, 4, 4))[0]
    torch.testing.assert_close(scores[2:5], torch.ones(3))  # orthogonal to all others: all of its own norm
    assert scores[5] < 0.5 and (scores[:2] < 0.8).all()


def test_scores_are_means_over_images_of_what_leaves_the_rectifier():
    model = convnet(generator=seeded()).eval()
    groups = made_by_convolutions(model, removable_groups(model, IMAGES))
    data = [(IMAGES[:3], None), (IMAGES[3:], None)]
    with torch.no_grad():
        expected = chip.channel_independence(model.features[:6](IMAGES)).mean(0)
    found = chip.mean_independence(model, groups, data)
    torch.testing.assert_close(found["features.3"], expected, rtol=1e-4, atol=1e-4)
    small = chip.prune(model, data, 0.5)
    kept = found["features.3"].argsort(descending=True)[:4].sort().values
    inputs = found["features.0"].argsort(descending=True)[:4].sort().values
    assert torch.equal(small.features[3].weight, model.features[3].weight[kept][:, inputs])
    assert small.classifier[0].out_features == model.classifier[0].out_features


def test_fine_tunes_the_smaller_network():
    model, seen = resnet8(generator=seeded()), []
    chip.prune(model, [(IMAGES, None)], 0.5, train=lambda network: seen.append(network.conv1.out_channels) or network)
    assert seen == [4]


def test_a_network_without_rectifiers_is_refused():
    with pytest.raises(ValueError, match="rectifier"):
        chip.prune(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3)), [(IMAGES, None)], 0.5)


@pytest.mark.claim
def test_dependent_maps_can_go_before_independent_ones_and_before_any():
    # a quarter of each layer's filters, nothing trained afterwards: the least independent, the most independent, and drawn at random
    (inputs, targets), test = digits()
    reached = {"least": 0.0, "most": 0.0, "random": 0.0}
    for seed in range(3):
        generator = seeded(seed)
        data = batches(inputs, targets, 64, generator)
        model = fit(resnet8(generator=generator), data, 4, optimizer=lambda p: momentum_sgd(p, 0.05))
        groups = made_by_convolutions(model, removable_groups(model, inputs[:1]))
        scores = chip.mean_independence(model, groups, data[:2])
        changed = {
            "least": scores,
            "most": {name: -score for name, score in scores.items()},
            "random": {name: torch.rand(score.shape, generator=generator) for name, score in scores.items()},
        }
        for kind, order in changed.items():
            reached[kind] += accuracy(remove(model, groups, keep_units(order, 0.25, "layer")), [test]) / 3
    assert reached["least"] > max(reached["most"], reached["random"]) + 0.1
