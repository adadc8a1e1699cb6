"""Magnitude pruning with retraining (han2015learning): by hand, against thresholds per layer, and what retraining is worth."""

import itertools

import pytest
import torch
from torch import nn

from reference_impls.after_training import magnitude_retraining
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks


def two_layers(first, second):
    model = nn.Sequential(nn.Linear(len(first), 1, bias=False), nn.Linear(1, len(second), bias=False))
    model[0].weight.data, model[1].weight.data = torch.tensor([first]), torch.tensor(second)[:, None]
    return model


def untrained(model, callbacks=()):
    for callback in callbacks:
        callback.start(model, None)
    return model


def test_by_hand():
    # first layer: mean 0, variance (4 + 4 + 16 + 16) / 4 = 10, sigma 3.162: |w| / sigma = 0.632, 0.632, 1.265, 1.265
    # second layer: mean 0, variance (.01 + .01 + .09 + .09) / 4 = 0.05, sigma 0.2236: 0.447, 0.447, 1.342, 1.342
    model = two_layers([2.0, -2.0, 4.0, -4.0], [0.1, -0.1, 0.3, -0.3])
    scores = magnitude_retraining.relative_magnitude(model)
    torch.testing.assert_close(scores["0.weight"], torch.tensor([[0.63246, 0.63246, 1.26491, 1.26491]]))
    torch.testing.assert_close(scores["1.weight"], torch.tensor([[0.44721], [0.44721], [1.34164], [1.34164]]))
    # six of eight go: the four small ones and 1.265 twice, although 4 is by far the largest magnitude of all
    pruned = magnitude_retraining.prune(model, [], 0.75, train=untrained, rounds=1)
    assert pruned[0].weight.tolist() == [[0, 0, 0, 0]]
    torch.testing.assert_close(pruned[1].weight.flatten(), torch.tensor([0, 0, 0.3, -0.3]))


def test_later_rounds_measure_the_survivors_only():
    # all four: variance (1 + 1 + 9 + 9) / 4 = 5; of the survivors 3 and -3 alone: 9
    model = two_layers([1.0, -1.0, 3.0, -3.0], [1.0])
    masks = {"0.weight": torch.tensor([[False, False, True, True]]), "1.weight": torch.tensor([[True]])}
    scores = magnitude_retraining.relative_magnitude(model, masks)["0.weight"]
    torch.testing.assert_close(scores[0, 2:], torch.tensor([1.0, 1.0]))


def test_one_quality_parameter_serves_all_layers():
    # the paper's rule, layer by layer: |w| below q times the layer's standard deviation goes
    model = networks.convnet(generator=torch.Generator().manual_seed(0))
    pruned = magnitude_retraining.prune(model, [], 0.6, train=untrained, rounds=1)
    scores = magnitude_retraining.relative_magnitude(model)
    kept = {name: weight != 0 for name, weight in prunable_weights(pruned).items()}
    quality = min(scores[name][kept[name]].min() for name in kept)
    for name, weight in prunable_weights(model).items():
        assert torch.equal(kept[name], weight.abs() >= quality * weight.std(correction=0))


def test_every_round_retrains_what_the_last_one_left_and_removes_the_same_fraction():
    # 64 weights to 8 in three rounds: 64 -> 32 -> 16 -> 8
    model, seen = two_layers(list(torch.linspace(0.1, 1, 32).tolist()), list(torch.linspace(0.1, 1, 32).tolist())), []

    def train(network, callbacks):
        untrained(network, callbacks)
        weights = torch.cat([weight.detach().flatten() for weight in prunable_weights(network).values()])
        seen.append((int((weights != 0).sum()), weights.max().item()))
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(2)
        return network

    magnitude_retraining.prune(model, [], 1 - 8 / 64, train=train)
    assert [count for count, _ in seen] == [32, 16, 8]
    assert [top for _, top in seen] == pytest.approx([1, 2, 4])  # survivors go on from their trained values


def test_what_was_cut_never_returns_even_if_training_would_fill_it():
    # training turns the order of the weights round: without memory the second round would cut others and free the first
    model = two_layers([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [9.0])
    cut = []

    def train(network, callbacks):
        network = untrained(network, callbacks)
        cut.append(network[0].weight.detach()[0] == 0)
        with torch.no_grad():
            network[0].weight.copy_(9.0 - model[0].weight)
        return network

    magnitude_retraining.prune(model, [], 0.6, train=train, rounds=3)
    assert all((later | ~earlier).all() for earlier, later in itertools.pairwise(cut))
    assert cut[0].any() and cut[-1].sum() > cut[0].sum()


def test_a_layer_of_equal_weights_has_no_threshold():
    scores = magnitude_retraining.relative_magnitude(two_layers([2.0, 2.0], [0.0, 0.0]))
    assert scores["0.weight"].tolist() == [[torch.inf, torch.inf]]
    assert scores["1.weight"].tolist() == [[0], [0]]


def test_training_is_needed_and_rounds_are_counted_from_one():
    with pytest.raises(ValueError, match="train"):
        magnitude_retraining.prune(two_layers([1.0, 2.0], [1.0]), [], 0.5)
    with pytest.raises(ValueError, match="rounds"):
        magnitude_retraining.prune(two_layers([1.0, 2.0], [1.0]), [], 0.5, train=untrained, rounds=0)


@pytest.mark.claim
def test_retraining_restores_what_cutting_costs_and_rounds_beat_one_cut():
    (inputs, targets), test = data.digits()
    alone, once, rounds = [], [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        batches = data.batches(inputs, targets, 64, generator)
        model = fit(networks.lenet_300_100(generator=generator), batches, 8)

        def train(network, callbacks, batches=batches):
            return fit(network, batches, 4, callbacks)

        alone.append(accuracy(magnitude_retraining.prune(model, [], 0.98, train=untrained, rounds=1), [test]))
        once.append(accuracy(magnitude_retraining.prune(model, [], 0.98, train=train, rounds=1), [test]))
        rounds.append(accuracy(magnitude_retraining.prune(model, [], 0.98, train=train, rounds=4), [test]))
    assert sum(once) - sum(alone) > 3 * 0.3, (alone, once)
    assert sum(rounds) - sum(once) > 3 * 0.02, (once, rounds)
