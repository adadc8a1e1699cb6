"""SSL (wen2016learning): by hand, against the authors' update, by what may go without harm, and against scattered zeros."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.core import counting, surgery
from reference_impls.core.amounts import Strength
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import structured_sparsity_learning as ssl
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_layers(first, second, bias=False):
    model = nn.Sequential(nn.Linear(len(first[0]), len(first), bias=bias), nn.ReLU(), nn.Linear(len(first), len(second), bias=False))
    model[0].weight.data, model[2].weight.data = torch.tensor(first), torch.tensor(second)
    return model


def finish(model, amount, example=EXAMPLE):
    """What is left of an untrained model."""
    lasso = ssl.callbacks(model, amount)[0]
    lasso.groups = removable_groups(model, example)
    return lasso.finish(model)


def test_by_hand():
    # filters: |(3, 4)| = 5 and |(0, 0)| = 0; channels: |(2, 0)| = 2 and |(-1, 0)| = 1
    # 0.1 * (5 + 0) + 0.01 * (2 + 1) = 0.53
    model = two_layers([[3.0, 4.0], [0.0, 0.0]], [[2.0, -1.0], [0.0, 0.0]])
    groups = removable_groups(model, torch.ones(1, 2))
    penalty = ssl.group_lasso(model, groups, filters=0.1, channels=0.01)
    assert penalty.item() == pytest.approx(0.53)
    penalty.backward()
    # 0.1 * (3, 4) / 5, nothing where the norm is zero; 0.01 * (2, 0) / 2 and 0.01 * (-1, 0) / 1, as columns
    torch.testing.assert_close(model[0].weight.grad, torch.tensor([[0.06, 0.08], [0.0, 0.0]]))
    torch.testing.assert_close(model[2].weight.grad, torch.tensor([[0.01, -0.01], [0.0, 0.0]]))
    torch.testing.assert_close(ssl.weaker_side(model, groups)["0"], torch.tensor([2.0, 0.0]))  # min(5, 2) and min(0, 1)


def test_shape_columns_by_hand():
    # one channel, kernels 1 x 2: filters (3, 0) and (4, 1); columns (3, 4) and (0, 1): norms 5 and 1; 0.1 * (5 + 1) = 0.6
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[[[3.0, 0.0]]], [[[4.0, 1.0]]]])
    groups = removable_groups(model, torch.ones(1, 1, 1, 2))
    penalty = ssl.group_lasso(model, groups, filters=0.0, channels=0.0, shapes=0.1)  # none on the linear layer
    assert penalty.item() == pytest.approx(0.6)
    penalty.backward()
    torch.testing.assert_close(model[0].weight.grad.flatten(1), torch.tensor([[0.06, 0.0], [0.08, 0.1]]))


def test_a_filter_that_is_zero_or_read_by_nothing_goes_and_no_other():
    # unit 0 is alive, 1 has no filter, 2 is not read, 3 is alive though its norms are the smallest
    model = two_layers([[1.0, 2.0], [0.0, 0.0], [9.0, 9.0], [0.1, 0.1]], [[1.0, 9.0, 0.0, 0.1]])
    small = finish(model, Strength(0.1), torch.ones(1, 2))
    torch.testing.assert_close(small[0].weight.data, torch.tensor([[1.0, 2.0], [0.1, 0.1]]))
    inputs = torch.randn(5, 2, generator=seeded())
    torch.testing.assert_close(small(inputs), model(inputs))


def test_of_a_layer_that_died_one_filter_stays_and_the_next_layer_loses_nothing_for_it():
    model = nn.Sequential(*two_layers([[0.0], [0.0], [0.0]], [[1.0] * 3] * 4), nn.ReLU(), nn.Linear(4, 2))
    small = finish(model, Strength(0.1), torch.ones(1, 1))
    assert (small[0].out_features, small[2].in_features, small[2].out_features) == (1, 1, 4)


def test_the_weaker_side_decides_which_go_over_the_whole_network():
    # weaker sides: layer one 2, 1, 3; layer two 0.5, 4, 5; of six, round(0.5 * 6) = 3 go: 1, 2 and 0.5
    model = nn.Sequential(
        nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)
    )  # fmt: skip
    model[0].weight.data = torch.tensor([[2.0], [1.0], [3.0]])
    model[2].weight.data = torch.tensor([[0.3, 0.3, 4.0], [6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    model[4].weight.data = torch.tensor([[0.5, 4.0, 5.0]])
    small = finish(model, 0.5, torch.ones(1, 1))
    assert small[0].weight.flatten().tolist() == [3.0]
    assert small[4].weight.flatten().tolist() == [4.0, 5.0]


def test_one_step_is_the_authors_update():
    # their code divides each weight by its row's norm and by its column's, zero where the norm is zero, adds that to the gradient, and
    # sets what is below 1e-4 to zero after the step
    class Update(Callback):
        def after_backward(self, model, optimizer):
            first, second = model[1].weight, model[3].weight
            rows, columns = first.norm(dim=1, keepdim=True), second.norm(dim=0, keepdim=True)
            first.grad += 0.02 * torch.nan_to_num(first.data / rows.data)
            second.grad += 0.03 * torch.nan_to_num(second.data / columns.data)

        def after_step(self, model, optimizer):
            for layer in (model[1], model[3]):
                layer.weight.data[layer.weight.data.abs() < 1e-4] = 0

    model = mlp((64, 6, 10), generator=seeded())
    model[1].weight.data[2] = 0
    model[1].weight.data[3, :5] = 1e-5
    theirs = fit(copy.deepcopy(model), BATCHES, 3, [Update()])
    ours = copy.deepcopy(model)
    lasso = ssl.callbacks(ours, 0.0, filters=0.02, channels=0.03)
    fit(ours, BATCHES, 3, lasso)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], msg=name)
    assert not ours._forward_pre_hooks


def test_layers_that_add_up_are_one_side_and_flattened_channels_are_one_group():
    model = resnet8(generator=seeded())
    scores = ssl.weaker_side(model, removable_groups(model, EXAMPLE))
    block = model.blocks[0]
    made = torch.cat([conv.weight.flatten(1) for conv in (model.conv1, block.conv2)], 1).norm(dim=1)
    read = [block.conv1, model.blocks[1].conv1, model.blocks[1].shortcut[0]]
    read = torch.cat([conv.weight.transpose(0, 1).flatten(1) for conv in read], 1).norm(dim=1)
    torch.testing.assert_close(scores["conv1"], torch.minimum(made, read).detach())

    model = convnet(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    last = next(group for group in groups if group.name == "features.10")
    squares = ssl.unit_squares(model, last.consumers, last.size)
    assert len(squares) == 1
    torch.testing.assert_close(squares[0].detach(), model.classifier[0].weight.detach().view(64, 16, 4).square().sum((0, 2)))


def test_the_penalty_counts_each_filter_and_each_channel_of_each_layer():
    # 8 + 8 + 16 + 16 filters and 64 neurons make units; each is read by one layer
    model = convnet(generator=seeded())
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    groups = removable_groups(model, EXAMPLE)
    made = 8 * 9**0.5 + 8 * 72**0.5 + 16 * 72**0.5 + 16 * 144**0.5 + 64 * 64**0.5
    read = 8 * 72**0.5 + 8 * 144**0.5 + 16 * 144**0.5 + 16 * 256**0.5 + 64 * 10**0.5
    assert ssl.group_lasso(model, groups, 1.0, 0.0).item() == pytest.approx(made, rel=1e-5)
    assert ssl.group_lasso(model, groups, 0.0, 1.0).item() == pytest.approx(read, rel=1e-5)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small])
def test_the_smaller_network_computes_what_the_masked_one_does(build):
    model = build(generator=seeded()).eval()
    groups = removable_groups(model, EXAMPLE)
    kept = keep_units(ssl.weaker_side(model, groups), 0.5)
    small = finish(model, 0.5)
    torch.testing.assert_close(small(EXAMPLE), surgery.masked(model, groups, kept)(EXAMPLE), rtol=1e-5, atol=1e-5)
    assert counting.macs(small, EXAMPLE) < counting.macs(model, EXAMPLE)


def test_a_strength_is_the_factor_of_both_penalties_and_shapes_keep_their_own():
    model = two_layers([[3.0, 4.0]], [[2.0]])
    lasso = ssl.callbacks(model, Strength(0.1), filters=7.0, channels=7.0, shapes=0.5)[0]
    assert lasso.factors == (0.1, 0.1, 0.5)
    assert ssl.callbacks(model, 0.5)[0].factors == (1e-3, 1e-3, 0.0)


@pytest.mark.parametrize("name", ["filters", "channels", "shapes", "threshold"])
def test_a_negative_factor_is_refused(name):
    with pytest.raises(ValueError, match=name):
        ssl.callbacks(mlp(), 0.5, **{name: -0.1})
    assert ssl.callbacks(mlp(), 0.5, **{name: 0.0})


def test_a_weight_as_large_as_the_threshold_stays():
    model = two_layers([[0.5, -0.5], [0.49, -0.49]], [[0.5, 0.3]])
    ssl.callbacks(model, 0.5, threshold=0.5)[0].after_step(model, None)
    torch.testing.assert_close(model[0].weight.data, torch.tensor([[0.5, -0.5], [0.0, 0.0]]))
    torch.testing.assert_close(model[2].weight.data, torch.tensor([[0.5, 0.0]]))


def test_weights_that_are_no_numbers_are_refused_before_training():
    with pytest.raises(ValueError, match="NaN"):
        ssl.callbacks(two_layers([[float("nan")]], [[1.0]]), 0.5)


class Scattered(Callback):
    """The l1 penalty on the same weights, of the given value at the start."""

    def __init__(self, model, value):
        self.factor = value / self.norm(model).item()

    def norm(self, model):
        return sum(layer.weight.abs().sum() for layer in model if hasattr(layer, "weight"))

    def penalty(self, model):
        return self.factor * self.norm(model)


class Decay(Callback):
    """The last steps are small, so that what circles around zero gets there."""

    def start(self, model, optimizer):
        self.optimizer = optimizer

    def epoch_end(self, model, epoch):
        if epoch == 5:
            self.optimizer.param_groups[0]["lr"] /= 10


def plain(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.mark.claim
def test_zeros_in_groups_save_work_where_as_many_scattered_zeros_save_little():
    # both penalties start at the same value and cut below the same threshold; then everything goes that became zero as a unit, and only
    # that. A first design, half of the filters gone by rank, told nothing: half of them go without harm under any penalty, or none
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    seen = {"groups": [], "scattered": []}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        for penalty, results in seen.items():
            model = plain(seed)
            groups = removable_groups(model, inputs[:1])
            callbacks = ssl.callbacks(model, Strength(0.02))
            if penalty == "scattered":
                at_start = ssl.group_lasso(model, groups, 0.02, 0.02).item()
                callbacks = [Scattered(model, at_start), *ssl.callbacks(model, Strength(0.0))]
            small = fit(model, train, 8, [Decay(), *callbacks], optimizer=partial(momentum_sgd, learning_rate=0.03))
            work = counting.macs(small, inputs[:1]) / counting.macs(model, inputs[:1])
            results.append(torch.tensor([counting.weight_sparsity(model), accuracy(model, test), accuracy(small, test), work]))
    (zeros, full, slim, work), (other_zeros, other_full, _, other_work) = (sum(results) / 3 for results in seen.values())
    assert zeros < other_zeros + 0.05
    assert full > other_full - 0.03
    assert slim > full - 0.02
    assert work < 0.75 * other_work
