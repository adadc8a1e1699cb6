"""Learning-rate rewinding (renda2020comparing): by hand, the rates of each run, and its claim against fine-tuning and weight rewinding."""

from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import learning_rate_rewinding as rewinding
from reference_impls.after_training import lottery_ticket
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def linear(*weights):
    layer = nn.Linear(len(weights), 1)
    layer.weight.data = torch.tensor([weights])
    return layer


def held(model, callbacks):
    for callback in callbacks:
        callback.start(model, torch.optim.SGD(model.parameters(), lr=1.0))
    return model


def test_by_hand():
    # training adds (5, -1, 0, 0) to (1, 2, -3, 4): (6, 1, -3, 4); the second goes, the others keep what they have; training again gives
    # (11, 0, -3, 4): the third goes; a last training: (16, 0, 0, 4). With weights rewound it would be (6, 0, 0, 4)
    starts = []

    def train(model, callbacks):
        starts.append(held(model, callbacks).weight[0].tolist())
        with torch.no_grad():
            model.weight += torch.tensor([[5.0, -1.0, 0.0, 0.0]])
        return held(model, callbacks)

    model = linear(1.0, 2.0, -3.0, 4.0)
    pruned = rewinding.prune(model, [], 0.5, train=train, rounds=2)
    assert starts == [[1, 2, -3, 4], [6, 0, -3, 4], [11, 0, 0, 4]]
    assert pruned.weight.tolist() == [[16, 0, 0, 4]]
    assert model.weight.tolist() == [[1, 2, -3, 4]]


def test_what_was_pruned_stays_pruned():
    # 3, 4, 1, 9: the third goes. The next training takes the first two to exactly 0, like the third: of these the third stays gone and the
    # first one goes; the last training would add 2 to all but the last
    changes = iter([[0.0] * 4, [-3.0, -4.0, 5.0, 0.0], [2.0, 2.0, 2.0, 0.0]])

    def train(model, callbacks):
        with torch.no_grad():
            model.weight += torch.tensor([next(changes)])
        return held(model, callbacks)

    assert rewinding.prune(linear(3.0, 4.0, 1.0, 9.0), [], 0.5, train=train, rounds=2).weight.tolist() == [[0, 2, 0, 9]]


class Rates(Callback):
    def __init__(self, seen):
        self.seen = seen

    def start(self, model, optimizer):
        self.seen.append([])

    def after_step(self, model, optimizer):
        self.seen[-1].append([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize(("rewind", "again"), [(0, [1.0, 0.5, 0.25, 0.125]), (2, [0.25, 0.125, 0.0625, 0.03125])])
def test_every_retraining_begins_the_schedule_anew_at_the_step_asked(rewind, again):
    seen, data = [], [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))] * 4

    def optimizer(parameters):
        return torch.optim.SGD([{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.01}])

    def train(model, callbacks=()):
        return fit(model, data, 1, [*callbacks, Rates(seen)], optimizer=optimizer)

    rewinding.prune(linear(1.0, 2.0, 3.0), [], 2 / 3, train=train, rounds=2, schedule=lambda step: 0.5**step, rewind=rewind)
    for run, factors in zip(seen, ([1.0, 0.5, 0.25, 0.125], again, again), strict=True):
        assert run == [pytest.approx([0.1 * factor, 0.01 * factor]) for factor in factors]


def test_without_a_schedule_the_rates_are_those_of_the_training():
    seen, data = [], [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))]
    train = lambda model, callbacks=(): fit(model, data, 1, [*callbacks, Rates(seen)])
    rewinding.prune(linear(1.0, 2.0, 3.0), [], 2 / 3, train=train, rounds=1)
    assert seen == [[[0.1]], [[0.1]]]


@pytest.mark.parametrize("given", [{"rewind": -1, "schedule": lambda _: 1.0}, {"rewind": 1}, {"rounds": 0}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        rewinding.prune(linear(1.0, 2.0), [], 0.5, train=lambda *_: 1 / 0, **given)


def test_what_cannot_be_pruned_is_refused_before_it_is_trained():
    with pytest.raises(ValueError, match="NaN"):
        rewinding.prune(linear(1.0, torch.nan), [], 0.5, train=lambda *_: 1 / 0)


@pytest.mark.claim
def test_rewinding_the_rates_beats_fine_tuning_and_rewinding_the_weights():
    (inputs, targets), test = digits()
    reached = {"rates": 0.0, "nothing": 0.0, "weights too": 0.0}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(inputs, targets, 64, generator)
        steps = 5 * len(data)
        model = lenet_300_100(generator=generator)
        schedule = lambda step, steps=steps: 1.0 if step < 2 * steps // 3 else 0.01

        def train(network, callbacks=(), data=data):
            return fit(network, data, 5, callbacks, optimizer=partial(momentum_sgd, learning_rate=0.05))

        def train_on_schedule(network, callbacks=(), train=train, schedule=schedule):
            return train(network, [*callbacks, rewinding.LearningRates(schedule)])

        given = {"train": train, "rounds": 2, "schedule": schedule}
        for kind, pruned in {
            "rates": rewinding.prune(model, data, 0.99, **given),
            "nothing": rewinding.prune(model, data, 0.99, rewind=steps, **given),  # fine-tuning at the last learning rate
            "weights too": lottery_ticket.prune(model, data, 0.99, train=train_on_schedule, rounds=2),
        }.items():
            reached[kind] += accuracy(pruned, [test]) / 3
    assert reached["rates"] > reached["nothing"] + 0.3, reached
    assert reached["rates"] > reached["weights too"] + 0.04, reached
