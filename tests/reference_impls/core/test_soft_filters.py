"""Soft pruning of filters: which weights make a filter, when they become zero, what may move them, and what is removed in the end."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.soft_filters import SoftFilters, filters
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import Callback, fit
from reference_impls.zoo.networks import densenet_small, mobilenet_small, resnet8

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 3]))] * 3


def seeded(build=resnet8):
    return build(generator=torch.Generator().manual_seed(0))


def keep_last(rows):
    return torch.arange(len(rows)) > 0


def groups_of(model):
    return {group.name: group for group in made_by_convolutions(model, removable_groups(model, IMAGES))}


def test_filters_of_layers_that_are_added_stand_side_by_side():
    model = seeded()
    stem, second = model.conv1.weight.flatten(1), model.blocks[0].conv2.weight.flatten(1)
    torch.testing.assert_close(filters(model, groups_of(model)["conv1"]), torch.cat([stem, second], 1))
    torch.testing.assert_close(filters(model, groups_of(model)["blocks.0.conv1"]), model.blocks[0].conv1.weight.flatten(1))


def test_a_depthwise_filter_belongs_to_the_channel_it_filters():
    model = seeded(mobilenet_small)
    for group in groups_of(model).values():
        own = [m.tensor for m in group.producers if m.tensor.endswith("weight") and model.get_parameter(m.tensor).dim() == 4]
        together = torch.cat([model.get_parameter(name).flatten(1) for name in own], 1)
        torch.testing.assert_close(filters(model, group), together)


def test_filters_of_a_transposed_convolution_lie_along_its_second_dimension():
    model = nn.Sequential(nn.ConvTranspose2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 1))
    assert torch.equal(filters(model, groups_of(model)["0"]), model[0].weight.movedim(1, 0).flatten(1))


class Watch(Callback):
    """The stem's first filter when the loss is computed and after each step; a later layer and the first normalization after each epoch."""

    def __init__(self):
        self.steps, self.epochs, self.inputs = [], [], []

    def penalty(self, model):
        self.inputs.append(model.conv1.weight[0].detach().clone())
        return 0.0

    def after_step(self, model, optimizer):
        self.steps.append(model.conv1.weight[0].detach().clone())

    def epoch_end(self, model, epoch):
        self.epochs.append((copy.deepcopy(model.blocks[1].conv2.weight.data), copy.deepcopy(model.bn1.weight.data)))


def test_chosen_filters_are_zero_before_the_first_step_and_after_each_epoch_and_move_in_between():
    model, watch = seeded(), Watch()
    model.bn1.bias.data.fill_(1)
    before = copy.deepcopy(model.state_dict())
    fit(model, BATCHES, 2, [SoftFilters(keep_last), watch])
    assert [bool(weight.any()) for weight in watch.inputs] == [False, True, True, False, True, True]
    assert all(weight.any() for weight in watch.steps)
    for weight, scale in watch.epochs:
        assert not weight[0].any() and weight[1:].flatten(1).any(1).all()
        assert scale.all()
    assert model.conv1.weight.shape == before["conv1.weight"].shape


def test_without_updates_a_zero_filter_stays_zero_for_a_plain_optimizer():
    model, watch = seeded(), Watch()
    model.bn1.bias.data.fill_(1)
    dense = model.conv1.weight.detach().clone()
    fit(model, BATCHES, 2, [SoftFilters(keep_last, update_pruned=False), watch], optimizer=lambda p: torch.optim.SGD(p, 0.1))
    assert not any(weight.any() for weight in watch.steps)
    assert (model.conv1.weight[1:] != dense[1:]).any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_updates_only_what_the_optimizer_remembers_moves_a_filter_that_is_chosen_late(momentum):
    model, watch, calls = seeded(), Watch(), []

    def late(rows):
        calls.append(len(rows))
        return keep_last(rows) if len(calls) > len(groups_of(model)) else torch.ones(len(rows), dtype=torch.bool)

    optimizer = lambda p: torch.optim.SGD(p, 0.1, momentum=momentum)
    fit(model, BATCHES, 2, [SoftFilters(late, update_pruned=False), watch], optimizer=optimizer)
    assert [bool(weight.any()) for weight in watch.inputs] == [True, True, True, False, momentum > 0, momentum > 0]


@pytest.mark.parametrize("build", [resnet8, mobilenet_small, densenet_small])
def test_what_is_zero_at_the_end_is_removed(build):
    model = seeded(build)
    sizes = {name: group.size for name, group in groups_of(model).items()}
    small = fit(model, BATCHES, 1, [SoftFilters(keep_last)])
    assert {name: group.size for name, group in groups_of(small).items()} == {name: size - 1 for name, size in sizes.items()}
    assert not model._forward_pre_hooks and not small._forward_pre_hooks


def test_biases_are_not_filters():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    model[0].bias.data.fill_(1)
    choose = SoftFilters(keep_last)
    fit(model, [(IMAGES, torch.tensor([0, 1, 2, 3]))], 1, [choose], optimizer=lambda p: torch.optim.SGD(p, 0.01))
    assert not model[0].weight[0].any() and model[0].bias.all()
    assert choose.kept["0"].tolist() == [False, True, True]
