"""LAMP (lee2021layer): by hand, against Torch-Pruning, against the greedy procedure it stands for, and by its claim."""

import copy

import pytest
import torch
import torch_pruning
from torch import nn

from reference_impls.after_training import lamp
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp


def two_layers(first, second):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data, model[1].weight.data = torch.tensor(first), torch.tensor(second)
    return model


def test_by_hand():
    # squares 4, 1, 9, 16 in ascending order 1, 4, 9, 16: 1/30, 4/29, 9/25, 16/16
    score = lamp.lamp_score(torch.tensor([[2.0, -1.0], [3.0, -4.0]]))
    torch.testing.assert_close(score, torch.tensor([[4 / 29, 1 / 30], [9 / 25, 1.0]], dtype=torch.float64))


def test_small_layers_are_not_emptied():
    # the second layer is the first, a thousand times smaller: the same scores, so half of each goes
    model = two_layers([[2.0, -1.0], [3.0, -4.0]], [[0.002, -0.001], [0.003, -0.004]])
    found = lamp.masks(model, [], 0.5)
    assert [mask.tolist() for mask in found.values()] == [[[False, False], [True, True]]] * 2
    assert int(sum(mask.sum() for mask in lamp.masks(model, [], 0.75).values())) == 2
    assert all(mask.sum() == 1 for mask in lamp.masks(model, [], 0.75).values())


def test_of_equal_weights_the_first_goes_first():
    # 1/4, 1/3, 1/2, 1
    assert lamp.lamp_score(torch.tensor([1.0, -1.0, 1.0, 1.0])).tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


def test_a_layer_of_zeros_goes_first():
    assert lamp.lamp_score(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]
    found = lamp.masks(two_layers([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]), [], 0.5)
    assert [mask.tolist() for mask in found.values()] == [[[False, False]] * 2, [[True, True]] * 2]


def test_same_scores_as_torch_pruning():
    # the peer works in single precision, and its running difference loses digits at the largest weights
    for weight in prunable_weights(convnet(generator=torch.Generator().manual_seed(0))).values():
        peer = torch_pruning.importance.LAMPImportance()._lamp(weight.detach().square().flatten())
        torch.testing.assert_close(lamp.lamp_score(weight).flatten().float(), peer, rtol=1e-3, atol=0)


def test_it_prunes_what_damages_its_layer_least_one_by_one():
    # greedy: of all layers' smallest remaining weights the one goes whose share of its layer's remaining squares is least
    model = mlp((6, 5, 4, 3), generator=torch.Generator().manual_seed(1))
    left = {name: sorted(weight.detach().double().square().flatten().tolist()) for name, weight in prunable_weights(model).items()}
    for gone in range(1, 50):
        name = min((n for n in left if left[n]), key=lambda n: left[n][0] / sum(left[n]))
        left[name].pop(0)
        kept = lamp.masks(model, [], gone / 62)
        assert {n: int(mask.sum()) for n, mask in kept.items()} == {n: len(values) for n, values in left.items()}


def test_the_digits_of_the_largest_weights_are_not_lost():
    # total minus a running sum in single precision gives 0 for what is left beside a weight of 1e-4 and one of 1e4
    score = lamp.lamp_score(torch.tensor([1e4, 1e-4, 1e-4]))
    assert score.tolist() == pytest.approx([1, 1e-16, 1e-16], rel=1e-5)


def test_pruning_again_by_more_keeps_what_was_pruned():
    model = mlp(generator=torch.Generator().manual_seed(0))
    first = lamp.masks(model, [], 0.5)
    second = lamp.masks(masked(model, first), [], 0.8)
    assert all(torch.equal(second[name] & first[name], second[name]) for name in first)
    assert all(torch.equal(mask, lamp.masks(model, [], 0.8)[name]) for name, mask in second.items())


@pytest.mark.claim
def test_at_high_sparsity_it_beats_one_threshold_and_one_rate():
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    found = {"lamp": [], "network": [], "layer": []}
    for seed in range(3):
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(mlp((64, 300, 100, 10), generator=torch.Generator().manual_seed(seed)), train, 5)
        magnitude = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
        for way, scores in found.items():
            kept = lamp.masks(model, [], 0.99) if way == "lamp" else keep_highest(magnitude, 0.99, way)
            scores.append(accuracy(fit(copy.deepcopy(model), train, 3, [HoldMasks(kept)]), test))
    mean = {way: sum(scores) / 3 for way, scores in found.items()}
    assert mean["lamp"] > mean["layer"] + 0.02, mean
    assert mean["lamp"] > mean["network"] + 0.02, mean
