"""Early-Bird tickets (you2020drawing): by hand, when the training run ends, what is inherited, and how soon the mask holds still."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import early_bird
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def two_layers(first=(0.5, -0.1, 0.3), second=(-2.0, 0.2)):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 10, 8), nn.Flatten(),
    )  # fmt: skip
    model[1].weight.data, model[4].weight.data = torch.tensor(first), torch.tensor(second)
    return model


def test_distance_by_hand():
    # of 3 + 2 channels the masks differ on one and one
    one = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, False])}
    other = {"a": torch.tensor([True, False, False]), "b": torch.tensor([False, False])}
    assert early_bird.distance(one, other) == 2 / 5
    assert early_bird.distance(one, one) == 0


def test_drawing_and_penalty_by_hand():
    # of |0.5|, |-0.1|, |0.3|, |-2|, |0.2| the two smallest go; 0.1 (0.5 + 0.1 + 0.3 + 2 + 0.2) = 0.31
    model = two_layers()
    groups = removable_groups(model, EXAMPLE)
    assert {name: mask.tolist() for name, mask in early_bird.draw(model, groups, 0.4).items()} == {
        "0": [True, False, True],
        "3": [True, False],
    }
    assert early_bird.EarlyBird(groups, 0.4, 0.1, 5, 0.1).penalty(model).item() == pytest.approx(0.31)


# scales of the first layer after each epoch; one channel of five goes: the first, the second, or the third
FIRST, SECOND, THIRD = (0.1, 0.5, 0.5), (0.5, 0.1, 0.5), (0.5, 0.5, 0.1)


def scripted(epochs, stops):
    """A training run that gives the first layer these scales, one epoch each, and notes how many took place."""

    def train(model, callbacks=()):
        for epoch, scales in enumerate(epochs):
            model[1].weight.data = torch.tensor(scales)
            stops.append(epoch)
            for callback in callbacks:
                callback.epoch_end(model, epoch)
        return model

    return train


@pytest.mark.parametrize(
    ("epochs", "window", "tolerance", "ran"),
    [
        ([FIRST] * 9, 5, 0.1, 5),  # no ticket before five masks are there
        ([FIRST, SECOND, SECOND, SECOND, SECOND, SECOND, SECOND], 5, 0.1, 6),  # the first mask must have left the window
        ([FIRST, SECOND, FIRST, SECOND, FIRST, SECOND, FIRST], 3, 0.1, 7),  # neighbours but one agree: not enough
        ([FIRST, SECOND, FIRST, SECOND, FIRST, SECOND, FIRST], 3, 0.4, 3),  # 2 of 5 channels differ, and that is allowed
        ([FIRST, SECOND, THIRD, THIRD], 2, 0.0, 4),  # the last two agree exactly
        ([FIRST, FIRST, SECOND], 2, 0.0, 2),
    ],
)
def test_the_run_ends_when_the_newest_mask_agrees_with_all_in_the_window(epochs, window, tolerance, ran):
    stops = []
    small = early_bird.ticket(two_layers(), BATCHES, 0.2, scripted(epochs, stops), window=window, tolerance=tolerance)
    assert len(stops) == ran
    gone = epochs[ran - 1].index(0.1)
    assert small[0].out_channels == 2
    torch.testing.assert_close(small[0].weight, two_layers()[0].weight[[place for place in range(3) if place != gone]])
    torch.testing.assert_close(small[1].weight.data, torch.tensor([0.5, 0.5]))  # the weights of that epoch


def test_the_ticket_is_trained_on_without_the_penalty_and_without_an_end():
    stops, seen = [], []

    def train(model, callbacks=()):
        seen.append((model[0].out_channels, len(list(callbacks)), model.training))
        return scripted([FIRST] * 9, stops)(model, callbacks) if callbacks else model

    given = two_layers().eval()
    early_bird.prune(given, BATCHES, 0.2, train=train)
    assert seen == [(3, 1, False), (2, 0, True)] and len(stops) == 5


def test_the_smaller_network_is_what_slimming_would_leave():
    generator = torch.Generator().manual_seed(0)
    model = convnet(generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.normal_(generator=generator)
    groups = removable_groups(model, EXAMPLE)
    scores = {
        group.name: model.features[int(group.name.split(".")[1]) + 1].weight.detach().abs() for group in groups if "features" in group.name
    }
    expected = remove(model, groups, keep_units(scores, 0.5)).eval()
    small = early_bird.ticket(model, BATCHES, 0.5, lambda network, callbacks: network).eval()
    torch.testing.assert_close(small(EXAMPLE), expected(EXAMPLE))
    assert sum(int(p.numel()) for p in small.parameters()) < sum(int(p.numel()) for p in model.parameters())


@pytest.mark.parametrize("given", [{"window": 1}, {"tolerance": 1.1}, {"tolerance": -0.1}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        early_bird.prune(two_layers(), BATCHES, 0.2, train=lambda model, callbacks=(): model, **given)
    early_bird.prune(two_layers(), BATCHES, 0.2, train=lambda model, callbacks=(): model, window=2, tolerance=1)


def test_the_end_of_the_run_carries_the_network_and_says_why():
    model = two_layers()
    bird = early_bird.EarlyBird(removable_groups(model, EXAMPLE), 0.2, 0.0, 2, 0.1)
    bird.epoch_end(model, 0)
    with pytest.raises(early_bird.Emerged, match="ticket has emerged") as ended:
        bird.epoch_end(model, 1)
    assert ended.value.model is model


def test_refuses_a_network_without_normalization_before_it_is_trained():
    with pytest.raises(ValueError, match="batch normalization"):
        early_bird.prune(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), BATCHES, 0.5, train=lambda *_: 1 / 0)


@pytest.mark.claim
def test_the_ticket_of_the_first_epochs_is_nearly_that_of_the_last():
    (inputs, targets), test = digits()
    lost = 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(inputs, targets, 64, generator)
        model = resnet8(8, generator=generator)
        groups = removable_groups(model, inputs[:1])

        class Epochs(Callback):
            def __init__(self, groups=groups):
                self.groups, self.masks = groups, []

            def epoch_end(self, network, epoch):
                self.masks.append(early_bird.draw(network, self.groups, 0.5))

        def train(network, callbacks=(), data=data):
            return fit(network, data, 12, callbacks, optimizer=partial(momentum_sgd, learning_rate=0.05))

        whole, until = Epochs(), Epochs()
        bird = early_bird.EarlyBird(groups, 0.5, 1e-3, 99, 0.1)
        full = train(copy.deepcopy(model), [bird, whole])
        with pytest.raises(early_bird.Emerged, match="emerged"):
            train(copy.deepcopy(model), [until, early_bird.EarlyBird(groups, 0.5, 1e-3, 5, 0.1)])
        early, last = until.masks[-1], whole.masks[-1]
        assert len(until.masks) <= 8
        assert early_bird.distance(early, last) < 0.05
        assert early_bird.distance(early, last) < 0.5 * early_bird.distance(whole.masks[0], last)
        small = early_bird.prune(model, data, 0.5, train=train, strength=1e-3)
        lost += (accuracy(full, [test]) - accuracy(small, [test])) / 3
    assert lost < 0.02, lost  # with half of the channels
