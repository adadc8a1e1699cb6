"""Linear mode connectivity (frankle2020linear): the barrier by hand, what is rewound and to when, and that training becomes stable."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import lottery_ticket
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import linear_mode_connectivity as lmc
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp


def linear(*weights):
    layer = nn.Linear(len(weights), 1)
    layer.weight.data, layer.bias.data = torch.tensor([weights]), torch.tensor([0.5])
    return layer


def test_interpolation_by_hand_takes_alpha_of_the_first():
    # 0.25 * 4 + 0.75 * 8 = 7
    first, second = linear(4.0, 0.0), linear(8.0, 1.0)
    between = lmc.interpolated(first, second, 0.25)
    assert between.weight.tolist() == [[7, 0.75]] and between.bias.item() == 0.5
    assert first.weight.tolist() == [[4, 0]] and second.weight.tolist() == [[8, 1]]


def test_running_statistics_are_interpolated_and_counters_are_not():
    first, second = convnet(), convnet()
    first.features[1].running_mean.fill_(1.0)
    second.features[1].num_batches_tracked.fill_(7)
    between = lmc.interpolated(first, second, 0.5)
    assert between.features[1].running_mean.tolist() == [0.5] * 8
    assert between.features[1].num_batches_tracked == 0


def test_the_barrier_by_hand():
    # errors at weight 0, 1, 2, 3, 4 on the way: 0.1, 0.3, 0.9, 0.2, 0.3. 0.9 - (0.1 + 0.3) / 2 = 0.7
    seen = []
    errors = {0.0: 0.1, 1.0: 0.3, 2.0: 0.9, 3.0: 0.2, 4.0: 0.3}

    def error(network):
        seen.append(network.weight.item())
        return errors[round(seen[-1], 4)]

    assert lmc.error_barrier(linear(0.0), linear(4.0), error, points=5) == pytest.approx(0.7)
    assert seen == [4, 3, 2, 1, 0]
    # a network with itself, and one whose error falls on the way: not below zero where an end is the worst
    assert lmc.error_barrier(linear(1.0), linear(1.0), lambda _: 0.4) == pytest.approx(0.0)
    assert lmc.error_barrier(linear(0.0), linear(4.0), lambda n: n.weight.item() / 8, points=3) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="points"):
        lmc.error_barrier(linear(0.0), linear(4.0), error, points=2)


def test_the_barrier_of_a_parabola_is_that_of_the_closed_form():
    # E(w) = 1 - w^2 between -1 and 2: the highest is 1 at 0, the ends are 0 and -3: 1 + 3 / 2 = 2.5; of thirty points 0 is nearly one
    barrier = lmc.error_barrier(linear(-1.0), linear(2.0), lambda n: 1 - n.weight.item() ** 2, points=31)
    assert barrier == pytest.approx(2.5, abs=1e-6)


def test_instability_trains_two_copies_of_the_same_network():
    starts = []

    def run(change):
        def train(network):
            starts.append(network.weight.item())
            network.weight.data += change
            return network

        return train

    # 3 + 1 and 3 - 1: on the way from 4 to 2 the error is 1 at 3, and 0 at the ends
    assert lmc.instability(linear(3.0), run(1.0), run(-1.0), lambda n: float(n.weight.item() == 3), points=3) == 1
    assert starts == [3, 3]


def stepping(starts):
    """Training of three steps: each adds 1, -0.6 and 0 to the three weights, and 1 to the bias."""

    def train(model, callbacks=()):
        starts.append(model.weight[0].tolist())
        for callback in callbacks:
            callback.start(model, None)
        for _ in range(3):
            with torch.no_grad():
                model.weight += torch.tensor([[1.0, -0.6, 0.0]])
                model.bias += 1
            for callback in callbacks:
                callback.after_step(model, None)
        return model

    return train


@pytest.mark.parametrize(
    ("rewind", "at_k", "bias"), [(0, [1.0, 2.0, 3.0], 0.5), (1, [2.0, 1.4, 3.0], 1.5), (2, [3.0, 0.8, 3.0], 2.5), (3, [4.0, 0.2, 3.0], 3.5)]
)
def test_rewinding_by_hand(rewind, at_k, bias):
    # 1, 2, 3 become 4, 0.2, 3 in three steps: the second goes. Back at step k, and trained for three steps more, the third is the smallest
    # of what is left, unless step k is the first: there 4 and 3 again
    starts = []
    subnetwork, masks = lmc.matching_subnetwork(linear(1.0, 2.0, 3.0), 2 / 3, stepping(starts), rewind, rounds=2)
    assert starts[0] == [1, 2, 3]
    assert starts[1] == pytest.approx([at_k[0], 0, at_k[2]])
    assert masks["weight"].tolist() == [[True, False, False]]
    assert subnetwork.weight[0].tolist() == pytest.approx([at_k[0], 0, 0])
    assert subnetwork.bias.item() == bias
    trained = lmc.prune(linear(1.0, 2.0, 3.0), [], 2 / 3, train=stepping([]), rewind=rewind, rounds=2)
    assert trained.weight[0].tolist() == pytest.approx([at_k[0] + 3, 0, 0])


def test_rewinding_to_the_start_is_the_lottery_ticket_procedure():
    generator = torch.Generator().manual_seed(0)
    data = batches(torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 10, 8)
    train = lambda network, callbacks=(): fit(network, data, 1, callbacks)
    model = convnet(generator=generator)
    ours, theirs = (
        method.prune(model, [], 0.8, train=train, rounds=3, **given) for method, given in ((lmc, {"rewind": 0}), (lottery_ticket, {}))
    )
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(("rewind", "message"), [(-1, "below 0"), (4, "behind the 3 steps")])
def test_refuses_a_step_that_does_not_exist(rewind, message):
    with pytest.raises(ValueError, match=f"rewind.*{message}"):
        lmc.prune(linear(1.0, 2.0, 3.0), [], 0.5, train=stepping([]), rewind=rewind)


def test_what_cannot_be_pruned_is_refused_before_it_is_trained():
    for bad, rewind in ((linear(1.0, torch.nan), 0), (linear(1.0, 2.0), -1)):
        with pytest.raises(ValueError, match=r"NaN|rewind"):
            lmc.prune(bad, [], 0.5, train=lambda *_: 1 / 0, rewind=rewind)


@pytest.mark.claim
def test_training_becomes_stable_early():
    # copies from the start end in minima with a barrier between them; copies from a few epochs later do not; others, from elsewhere, do
    inputs, targets = digits()[0]
    barriers = {"from the start": 0.0, "from epoch 4": 0.0, "from two starts": 0.0}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        first, second, third = (batches(inputs, targets, 32, generator) for _ in range(3))
        model, other = (mlp((64, 100, 100, 100, 100, 10), generator=generator) for _ in range(2))

        def run(data, epochs=4):
            return lambda network: fit(network, data, epochs, optimizer=partial(momentum_sgd, learning_rate=0.1))

        error = lambda network: 1 - accuracy(network, [(inputs, targets)])
        later = run(third)(copy.deepcopy(model))
        barriers["from the start"] += lmc.instability(model, run(first), run(second), error, points=11) / 3
        barriers["from epoch 4"] += lmc.instability(later, run(first), run(second), error, points=11) / 3
        barriers["from two starts"] += lmc.error_barrier(later, run(third)(other), error, points=11) / 3
    assert barriers["from epoch 4"] < 0.02  # stable, by the paper's threshold
    assert barriers["from the start"] > 0.1
    assert barriers["from two starts"] > 0.3


class Steps(Callback):
    def __init__(self):
        self.weights = []

    def after_step(self, model, optimizer):
        self.weights.append(copy.deepcopy(model.state_dict()))


def test_a_snapshot_is_the_network_at_that_step():
    data = [(torch.randn(4, 1, 8, 8), torch.arange(4))] * 3
    steps, snapshot = Steps(), lmc.Snapshot(2)
    fit(convnet(), data, 1, [steps, snapshot])
    assert all(torch.equal(value, steps.weights[1][name]) for name, value in snapshot.model.state_dict().items())
