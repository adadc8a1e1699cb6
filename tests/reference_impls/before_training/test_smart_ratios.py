"""Random tickets at smart ratios (su2020sanity): by hand, against the rule worked out in fractions, and its claim."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from reference_impls.before_training import smart_ratios, snip
from reference_impls.core.densities import random_masks
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8


def network(*layers):
    """Convolutions of 1 x 1 (out, in), or linear layers where the third number is 0."""
    return nn.ModuleList(nn.Linear(i, o, bias=False) if rest else nn.Conv2d(i, o, 1, bias=False) for o, i, *rest in layers)


def test_by_hand():
    # L = 3, shares 3^2 + 3 = 12, 2^2 + 2 = 6, and the linear layer 0.3 * 10 = 3; 60 of 150 stay, 57 in the convolutions:
    # 12 * 40 + 6 * 100 = 1080, 57/1080 of it: 40 * 12 * 57/1080 = 25.33 and 100 * 6 * 57/1080 = 31.67
    model = network((4, 10), (10, 10), (5, 2, 0))
    assert smart_ratios.kept_per_layer(model, 0.6) == {"0.weight": 25, "1.weight": 32, "2.weight": 3}
    masks = smart_ratios.masks(model, [], 0.6, generator=torch.Generator().manual_seed(0))
    assert [int(mask.sum()) for mask in masks.values()] == [25, 32, 3]


def test_steeper_divides_by_the_squared_depth_by_hand():
    # 12 / 1 and 6 / 4 = 1.5: 12 * 40 + 1.5 * 100 = 630; 42 of 150 stay, 39 in the convolutions: 39/630 of it: 29.7 and 9.3
    model = network((4, 10), (10, 10), (5, 2, 0))
    assert smart_ratios.kept_per_layer(model, 1 - 42 / 150, steeper=True) == {"0.weight": 30, "1.weight": 9, "2.weight": 3}


def test_what_a_dense_layer_cannot_keep_goes_on_to_the_next_by_hand():
    # 105 of 150 stay, 102 in the convolutions: 102/1080 * 12 * 40 = 45.3, of which 40 fit; 102/1080 * 600 = 56.7 and the other 5.3
    model = network((4, 10), (10, 10), (5, 2, 0))
    assert smart_ratios.kept_per_layer(model, 0.3) == {"0.weight": 40, "1.weight": 62, "2.weight": 3}
    # 148 stay: both convolutions are dense, and the linear layer takes 8 instead of 3
    assert smart_ratios.kept_per_layer(model, 2 / 150) == {"0.weight": 40, "1.weight": 100, "2.weight": 8}


def test_a_network_without_convolutions_follows_the_rule_in_all_layers_by_hand():
    # shares 6 and 2 of 20 and 30 weights: 10 of 50 stay, 10/180 * 120 = 6.67 and 10/180 * 60 = 3.33
    model = network((4, 5, 0), (6, 5, 0))
    assert smart_ratios.kept_per_layer(model, 0.8) == {"0.weight": 7, "1.weight": 3}


@pytest.mark.parametrize("amount", [Fraction(4, 5), Fraction(9, 10), Fraction(49, 50)])
def test_same_as_the_rule_in_exact_fractions(amount):
    sizes = {name: (weight.numel(), weight.ndim) for name, weight in prunable_weights(resnet8()).items()}
    total = sum(size for size, _ in sizes.values())
    budget = total - round(amount * total) - Fraction(3, 10) * sizes["fc.weight"][0]
    weights = {name: k * (k + 1) * size for k, (name, (size, _)) in zip(range(len(sizes), 0, -1), sizes.items(), strict=True)}
    whole = sum(weights[name] for name, (_, dimensions) in sizes.items() if dimensions == 4)
    expected, over = {}, Fraction(0)
    for name, (size, dimensions) in sizes.items():
        if dimensions == 4:
            wanted = budget * weights[name] / whole + over
            expected[name], over = min(wanted, Fraction(size)), max(wanted - size, Fraction(0))
    expected["fc.weight"] = Fraction(3, 10) * sizes["fc.weight"][0]
    found = smart_ratios.kept_per_layer(resnet8(), float(amount))
    assert all(abs(found[name] - expected[name]) < 1 for name in sizes)
    assert sum(found.values()) == total - round(amount * total)


def test_a_linear_share_that_does_not_fit_is_refused():
    model = network((4, 10), (10, 10), (5, 2, 0))
    with pytest.raises(ValueError, match="leaves 2 weights"):
        smart_ratios.kept_per_layer(model, 0.99)
    assert sum(smart_ratios.kept_per_layer(model, 0.99, linear_density=0.0).values()) == 2
    assert sum(smart_ratios.kept_per_layer(model, 0.0, linear_density=1.0).values()) == 150
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="linear_density"):
            smart_ratios.kept_per_layer(model, 0.5, linear_density=share)


def test_a_generator_decides():
    draw = lambda seed: smart_ratios.masks(network((4, 10)), [], 0.5, generator=torch.Generator().manual_seed(seed))["0.weight"]
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


@pytest.mark.claim
def test_what_counts_is_how_many_weights_each_layer_keeps_not_which():
    # the paper: SNIP's masks shuffled within their layers, and random masks at the smart ratios, do as well as SNIP's own
    train, test = digits()
    reached = {"smart": [], "snip": [], "shuffled": [], "turned": []}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        model = resnet8(generator=torch.Generator().manual_seed(seed))
        weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
        masks = {"smart": smart_ratios.masks(model, data, 0.9, generator=generator), "snip": snip.masks(model, data, 0.9)}
        masks["shuffled"] = random_masks(weights, {name: int(mask.sum()) for name, mask in masks["snip"].items()}, generator)
        # the same number in all convolutions together, but rising from the first to the last instead of falling
        kept = {name: int(mask.sum()) for name, mask in masks["smart"].items()}
        convolutions = [name for name in weights if weights[name].ndim == 4]
        rising = {name: k * (k + 1) * weights[name].numel() for k, name in enumerate(convolutions, 1)}
        scale = sum(kept[name] for name in convolutions) / sum(rising.values())
        masks["turned"] = random_masks(weights, kept | {name: round(scale * rising[name]) for name in convolutions}, generator)
        for name, found in masks.items():
            copy = resnet8(generator=torch.Generator().manual_seed(seed))
            reached[name].append(accuracy(fit(copy, data, 3, [HoldMasks(found)]), [test]))
    mean = {name: sum(found) / 3 for name, found in reached.items()}
    assert min(mean["smart"], mean["shuffled"]) > mean["snip"] - 0.05
    assert min(reached["smart"]) > 0.4 + max(reached["turned"])
