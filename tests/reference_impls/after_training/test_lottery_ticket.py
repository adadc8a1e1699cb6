"""Lottery tickets (frankle2019lottery): by hand, against open_lth's masks, and against the same masks with other initial values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import lottery_ticket
from reference_impls.core.masks import apply_masks, prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo import data, networks

ORACLE = Path(__file__).parents[2] / "oracle"


def linear(*weights):
    layer = nn.Linear(len(weights), 1)
    layer.weight.data, layer.bias.data = torch.tensor([weights]), torch.tensor([0.5])
    return layer


def held(model, callbacks):
    for callback in callbacks:
        callback.start(model, None)
    return model


def test_by_hand():
    # training adds (5, -1, 0, 0) to (1, 2, -3, 4): (6, 1, -3, 4), so the second goes first; back to (1, 0, -3, 4);
    # training gives (6, 0, -3, 4): the third goes; the ticket is (1, 0, 0, 4) with the initial bias.
    # By initial values the first two would have gone; without rewinding the ticket would be (6, 0, 0, 4).
    starts, ends = [], []

    def train(model, callbacks):
        starts.append(held(model, callbacks).weight[0].tolist())
        with torch.no_grad():
            model.weight += torch.tensor([[5.0, -1.0, 0.0, 0.0]])
            model.bias.fill_(7.0)
        ends.append(held(model, callbacks).weight[0].tolist())
        return model

    model = linear(1.0, 2.0, -3.0, 4.0)
    ticket, masks = lottery_ticket.winning_ticket(model, 0.5, train, rounds=2)
    assert starts == [[1, 2, -3, 4], [1, 0, -3, 4]]
    assert ends == [[6, 1, -3, 4], [6, 0, -3, 4]]
    assert ticket.weight.tolist() == [[1, 0, 0, 4]]
    assert ticket.bias.item() == 0.5
    assert masks["weight"].tolist() == [[True, False, False, True]]
    # prune trains the ticket, its zeros held
    assert lottery_ticket.prune(model, [], 0.5, train=train, rounds=2).weight.tolist() == [[6, 0, 0, 4]]


def test_same_masks_as_open_lth():
    # its rule: ceil(0.2 * remaining) + 1 of 560 weights a round, 113, 204, 277 and 335 in all
    frozen = {key: torch.from_numpy(value) for key, value in np.load(ORACLE / "imp_open_lth.npz").items()}
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    for place in (0, 2, 4):
        model[place].weight.data = frozen[f"W.{place}.weight"]
    masks = None
    for turn, gone in enumerate((113, 204, 277, 335), 1):
        masks = lottery_ticket.smallest_go(model, gone / 560, masks)
        for name, mask in masks.items():
            assert torch.equal(mask, frozen[f"mask_r{turn}.{name}"].bool())


def test_what_an_earlier_round_pruned_stays_pruned():
    before = {"weight": torch.tensor([[True, False, True, True]])}
    assert lottery_ticket.smallest_go(linear(1.0, 9.0, 2.0, 3.0), 0.5, before)["weight"].tolist() == [[False, False, True, True]]


def test_every_round_removes_the_same_fraction_and_everything_is_rewound():
    generator = torch.Generator().manual_seed(0)
    model = networks.convnet(generator=generator)
    batches, counts = data.batches(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8), 8), []

    def train(network, callbacks):
        counts.append(sum(int((weight != 0).sum()) for weight in prunable_weights(held(network, callbacks)).values()))
        return fit(network, batches, 1, callbacks)

    total = sum(weight.numel() for weight in prunable_weights(model).values())
    ticket, masks = lottery_ticket.winning_ticket(model, 0.875, train, rounds=3)
    assert counts == [total, total - round(total / 2), total - round(total * 3 / 4)]
    start = model.state_dict()
    for name, value in ticket.state_dict().items():  # batch norm's statistics too
        assert torch.equal(value, start[name] * masks.get(name, 1))


def test_training_is_needed():
    with pytest.raises(ValueError, match="train"):
        lottery_ticket.prune(linear(1.0, 2.0), [], 0.5)


def test_what_cannot_be_pruned_is_refused_before_a_training_run_is_spent_on_it():
    with pytest.raises(ValueError, match="NaN"):
        lottery_ticket.winning_ticket(linear(1.0, torch.nan), 0.5, train=None, rounds=2)


@pytest.mark.claim
def test_a_ticket_beats_the_same_connections_with_other_initial_values():
    (inputs, targets), test = data.digits()
    ticket, other = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        batches = data.batches(inputs, targets, 64, generator)

        def train(network, callbacks, batches=batches, epochs=6):
            return fit(network, batches, epochs, callbacks, optimizer=lambda p: torch.optim.Adam(p, 1.2e-3))

        found, masks = lottery_ticket.winning_ticket(networks.lenet_300_100(generator=generator), 0.97, train, rounds=6)
        again = networks.lenet_300_100(generator=generator)
        apply_masks(again, masks)
        ticket.append(accuracy(train(found, [HoldMasks(masks)]), [test]))
        other.append(accuracy(train(again, [HoldMasks(masks)]), [test]))
    assert sum(ticket) - sum(other) > 3 * 0.05, (ticket, other)
