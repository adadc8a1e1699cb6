"""Network trimming (hu2016network): by hand, by a plain count of zeros, in rounds, and its claim."""

import pytest
import torch
from torch import nn

from reference_impls.after_training import network_trimming
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, lenet_300_100

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_zeros_by_hand():
    # two examples of two maps with four positions: 3 of 4 and 1 of 4; 0 and 4 of 4. What is below zero is not zero
    maps = torch.tensor([[[[0.0, 0.0], [0.0, 5.0]], [[1.0, 1.0], [0.0, -1.0]]], [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert network_trimming.zeros(maps).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert network_trimming.zeros(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).tolist() == [[1.0, 0.0], [1.0, 1.0]]


def neurons():
    """Three neurons of one input: they say something where x > 0, x < 0, and x > 2."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].weight.data = torch.tensor([[1.0], [-1.0], [1.0]])
    model[0].bias.data = torch.tensor([0.0, 0.0, -2.0])
    return model


def test_the_most_silent_neuron_goes_by_hand():
    # inputs 1, 1, 3, -1 in two batches of three and one: the neurons speak in 3/4, 1/4 and 1/4 of the cases. Of equal ones the first goes
    data = [(torch.tensor([[1.0], [1.0], [3.0]]), None), (torch.tensor([[-1.0]]), None)]
    scores = network_trimming.activity(neurons(), removable_groups(neurons(), data[0][0]), data)
    assert scores["0"].tolist() == [0.75, 0.25, 0.25]
    small = network_trimming.prune(neurons(), data, 1 / 3, rounds=1)
    assert small[0].bias.tolist() == [0.0, -2.0] and small[0].weight.flatten().tolist() == [1.0, 1.0]
    # sizes do not matter: ten times as loud, and as rarely
    loud = neurons()
    loud[0].weight.data[1] *= 10
    assert network_trimming.prune(loud, data, 1 / 3, rounds=1)[0].bias.tolist() == [0.0, -2.0]


def test_maps_and_neurons_are_counted_alike_and_compared_together():
    model = convnet(generator=seeded()).eval()
    groups = removable_groups(model, IMAGES[:1])
    scores = network_trimming.activity(model, groups, [(IMAGES[:4], None), (IMAGES[4:], None)])
    with torch.no_grad():
        maps, hidden = model.features[:6](IMAGES), model.classifier[:2](model.features(IMAGES).flatten(1))
    torch.testing.assert_close(scores["features.3"], (maps > 0).float().mean((0, 2, 3)))
    torch.testing.assert_close(scores["classifier.0"], (hidden > 0).float().mean(0))
    total = torch.cat(list(scores.values()))
    threshold = total.sort().values[round(0.25 * len(total))]
    small = network_trimming.prune(model, [(IMAGES, None)], 0.25, rounds=1)
    kept = scores["classifier.0"] >= threshold
    assert 0 < int(kept.sum()) < len(kept)
    torch.testing.assert_close(small.classifier[0].bias, model.classifier[0].bias[kept])


def test_each_round_counts_anew_and_retrains_from_the_weights_left():
    seen = []

    def train(network):
        seen.append((network[1].out_features, network[3].out_features, network[1].weight.detach().clone()))
        network[1].bias.data.fill_(-100.0)  # now all of the first layer is silent
        return network

    model = lenet_300_100(generator=seeded())
    small = network_trimming.prune(model, [(IMAGES, None)], 0.75, train=train, rounds=2)
    # half of 400 in the first round, as 1 - (1 - 0.75)^(1/2) = 0.5, and 100 more in the second, all of them among the silent
    first, second, weight = seen[0]
    assert first + second == 200 and (seen[1][0], seen[1][1]) == (first - 100, second)
    rows = {tuple(row) for row in model[1].weight.tolist()}
    assert all(tuple(row) in rows for row in weight.tolist())
    assert small[1].out_features + small[3].out_features == 100


def test_by_default_in_two_rounds():
    seen = []
    network_trimming.prune(lenet_300_100(), [(IMAGES, None)], 0.5, train=lambda network: seen.append(1) or network)
    assert seen == [1, 1]


def test_a_network_without_rectifiers_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="rectifier"):
        network_trimming.prune(model, [(torch.randn(3, 4), None)], 0.5)


@pytest.mark.claim
def test_where_neurons_have_fallen_silent_they_can_go_without_harm():
    # trained at a rate at which about a fifth of the neurons falls silent, as the paper found in large ones; 30 % go, nothing is trained
    # afterwards: the most silent, those that say most, and drawn at random. Seen besides: where hardly a neuron is silent (rate 0.05) and
    # half of them go, a random half does less harm
    (inputs, targets), test = digits()
    for seed in range(3):
        generator = seeded(seed)
        data = batches(inputs, targets, 64, generator)
        optimizer = lambda p: torch.optim.SGD(p, 0.2, momentum=0.9, weight_decay=1e-3)
        model = fit(lenet_300_100(generator=generator), data, 12, optimizer=optimizer)
        groups = removable_groups(model, inputs[:1])
        scores = network_trimming.activity(model, groups, data)
        changed = {
            "silent": scores,
            "loud": {name: -score for name, score in scores.items()},
            "random": {name: torch.rand(score.shape, generator=generator) for name, score in scores.items()},
        }
        reached = {kind: accuracy(remove(model, groups, keep_units(order, 0.3)), [test]) for kind, order in changed.items()}
        assert reached["silent"] > accuracy(model, [test]) - 0.02
        assert reached["silent"] > reached["loud"] + 0.1
        assert reached["silent"] > reached["random"] + 0.03
