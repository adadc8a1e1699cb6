"""Random pruning at ERK densities (liu2022unreasonable): by hand, against the hypergeometric law, and its claim."""

import pytest
import torch
from scipy.stats import hypergeom
from torch import nn

from reference_impls.before_training import erk_random
from reference_impls.core.densities import random_masks
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp


def layers(*shapes):
    return nn.ModuleList(nn.Linear(inward, outward, bias=False) for outward, inward in shapes)


def test_by_hand():
    # (4, 4) and (2, 8): 16 of 32 stay, 4 + 4 = 8 and 2 + 8 = 10 dimensions: 16 * 8/18 = 7.11 and 16 * 10/18 = 8.89,
    # rounded down 7 + 8 = 15, so the larger fraction is rounded up: 7 and 9
    model = layers((4, 4), (2, 8))
    assert erk_random.kept_per_layer(model, 0.5) == {"0.weight": 7, "1.weight": 9}
    masks = erk_random.masks(model, [], 0.5, generator=torch.Generator().manual_seed(0))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 7, "1.weight": 9}
    assert {name: mask.shape for name, mask in masks.items()} == {"0.weight": (4, 4), "1.weight": (2, 8)}


def test_a_small_layer_stays_dense_by_hand():
    # (10, 10) and (1, 2): a share of 3/2 against 20/100; 51 of 102 stay, the small layer whole, 49 of the large one
    assert erk_random.kept_per_layer(layers((10, 10), (1, 2)), 0.5) == {"0.weight": 49, "1.weight": 2}


def test_the_kernel_counts_among_the_dimensions_by_hand():
    # a convolution (4, 2, 3, 3): 72 weights, 12 dimensions, and a linear layer (6, 12): 72 weights, 18 dimensions;
    # 30 of 144 stay: 30 * 12/30 = 12 and 30 * 18/30 = 18
    model = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Linear(12, 6)])
    assert erk_random.kept_per_layer(model, 1 - 30 / 144) == {"0.weight": 12, "1.weight": 18}


def test_the_weights_of_an_output_follow_the_hypergeometric_law():
    # of 6 x 5 weights k stay, all choices equally likely: how many of them lie in one row of 5 is hypergeometric;
    # drawn weight by weight, the variance would be larger by a factor of 29 / 25
    model, generator = layers((6, 5), (3, 40)), torch.Generator().manual_seed(1)
    k = erk_random.kept_per_layer(model, 0.7)["0.weight"]
    draws = torch.stack([erk_random.masks(model, [], 0.7, generator=generator)["0.weight"] for _ in range(2000)])
    assert (draws.sum((1, 2)) == k).all()
    law = hypergeom(30, k, 5)
    rows = draws.sum(2).double()
    torch.testing.assert_close(rows.mean(0), torch.full((6,), float(law.mean()), dtype=torch.float64), atol=0.1, rtol=0)
    assert float(rows.var()) == pytest.approx(law.var(), rel=0.05)


def test_a_generator_decides():
    model = layers((6, 5))
    draw = lambda seed: erk_random.masks(model, [], 0.5, generator=torch.Generator().manual_seed(seed))["0.weight"]
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


@pytest.mark.claim
def test_wider_networks_lose_less_and_equal_densities_lose_more():
    # the paper: the performance of randomly pruned networks grows with width until it meets the dense one; ERK beats equal densities
    train, test = digits()
    lost = {"narrow": [], "wide": [], "equal": []}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)

        def reached(network, masks, data=data):
            return accuracy(fit(network, data, 8, [HoldMasks(masks)] if masks else []), [test])

        for width, name in ((32, "narrow"), (256, "wide")):
            model = mlp([64, width, width, 10], generator=torch.Generator().manual_seed(seed))
            dense = reached(mlp([64, width, width, 10], generator=torch.Generator().manual_seed(seed)), None)
            weights = {key: weight.detach().clone() for key, weight in prunable_weights(model).items()}
            lost[name].append(dense - reached(model, erk_random.masks(model, data, 0.95, generator=generator)))
            if name == "wide":
                equal = random_masks(weights, {key: round(0.05 * weight.numel()) for key, weight in weights.items()}, generator)
                again = mlp([64, width, width, 10], generator=torch.Generator().manual_seed(seed))
                lost["equal"].append(dense - reached(again, equal))
    assert all(narrow > wide + 0.3 for narrow, wide in zip(lost["narrow"], lost["wide"], strict=True))
    assert all(equal > wide + 0.1 for equal, wide in zip(lost["equal"], lost["wide"], strict=True))
