"""Taylor-FO (molchanov2019importance): by hand, against finite differences and autograd on real gates, and by its claim."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.after_training import taylor_first_order
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import masked
from reference_impls.core.training import cross_entropy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def net(build):
    model = build(generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def tiny():
    """Two filters over two channels of one pixel, each with a bias, read with the factors 2 and 5."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, -1.0], [1.0, 1.0]])[:, :, None, None]
    model[0].bias.data = torch.tensor([1.0, -1.0])
    model[1].weight.data = torch.tensor([[2.0, 5.0]])[:, :, None, None]
    return model


def scores(model, data, **options):
    return taylor_first_order.importance(model, removable_groups(model, data[0][0]), data, **options)


def times(outputs, targets):
    return (outputs.flatten(1).sum(1) * targets).mean()


def test_by_hand():
    # x = (1, 2), E = 2 z_1 + 5 z_2. Filter 1: g = (2 * 1, 2 * 2), g w = (6, -4), squares 36 + 16 = 52
    # filter 2: g = (5, 10), g w = (5, 10), 25 + 100 = 125
    one = [(torch.tensor([1.0, 2.0])[None, :, None, None], torch.tensor([1.0]))]
    assert scores(tiny(), one, loss=times)["0"].tolist() == pytest.approx([52, 125])
    # a common gate: weights and bias (g b = 2 and -5) are summed first, (6 - 4 + 2)^2 = 16 and (5 + 10 - 5)^2 = 100
    assert scores(tiny(), one, loss=times, criterion="gate")["0"].tolist() == pytest.approx([16, 100])
    # a second batch with the targets times 3 has gradients three times as large: (1 + 9) / 2 = 5 times the importance
    two = [*one, (one[0][0], torch.tensor([3.0]))]
    assert scores(tiny(), two, loss=times)["0"].tolist() == pytest.approx([5 * 52, 5 * 125])


def test_the_least_important_filter_goes():
    one = [(torch.tensor([1.0, 2.0])[None, :, None, None], torch.tensor([1.0]))]
    small = taylor_first_order.prune(tiny(), one, 0.5, rounds=1, loss=times)
    assert small[0].weight.flatten().tolist() == [1, 1] and small[1].weight.flatten().tolist() == [5]


@pytest.mark.parametrize("build", [convnet, resnet8])
def test_a_gate_is_the_derivative_by_a_factor_on_all_that_makes_the_filter(build):
    model = net(build)
    found = scores(model, BATCHES, criterion="gate")
    for group in removable_groups(model, EXAMPLE):
        if group.name not in found:
            continue
        for unit in (0, group.size - 1):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                other = copy.deepcopy(model)
                for member in group.producers:
                    if "running" not in member.tensor and isinstance(other.get_submodule(member.layer), nn.BatchNorm2d):
                        other.get_parameter(member.tensor).data[member.indices(unit)] *= factor
                losses.append(cross_entropy(other(EXAMPLE), BATCHES[0][1]).item())
            slope = (losses[0] - losses[1]) / 2e-5
            assert found[group.name][unit].item() == pytest.approx(slope**2, rel=1e-4, abs=1e-12)


def test_tied_layers_add_up():
    model = net(resnet8)
    found = scores(model, BATCHES)
    model.zero_grad()
    cross_entropy(model(EXAMPLE), BATCHES[0][1]).backward()
    parts = [(layer.weight * layer.weight.grad).square().sum((1, 2, 3)) for layer in (model.conv1, model.blocks[0].conv2)]
    torch.testing.assert_close(found["conv1"], sum(parts).detach().to(found["conv1"]), rtol=1e-5, atol=0)


def test_classifier_neurons_are_left_alone():
    model = net(convnet)
    assert scores(model, BATCHES).keys() == {"features.0", "features.3", "features.7", "features.10"}
    with pytest.raises(ValueError, match="no filter"):
        taylor_first_order.prune(mlp().double(), BATCHES, 0.5)


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="criterion"):
        taylor_first_order.prune(net(convnet), BATCHES, 0.5, criterion="norm")


@pytest.mark.claim
def test_its_order_is_closer_to_the_true_loss_changes_than_that_of_norms():
    def ranks(values):
        return values.argsort().argsort().double()

    def correlation(one, other):
        return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1].item()

    (inputs, targets), _ = digits()
    taylor, norm = [], []
    for seed in range(3):
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(convnet(generator=torch.Generator().manual_seed(seed)), train, 2)
        groups = removable_groups(model, inputs[:1])
        found = taylor_first_order.importance(model, groups, train, "gate")
        truth, size = [], []
        with torch.no_grad():
            dense = cross_entropy(model(inputs), targets)
            for group in groups:
                for unit in range(group.size if group.name in found else 0):
                    without = masked(model, [group], {group.name: torch.arange(group.size) != unit})
                    truth.append((cross_entropy(without(inputs), targets) - dense).square())
                    size.append(model.get_submodule(group.name).weight[unit].square().sum())
        taylor.append(correlation(torch.cat(list(found.values())), torch.stack(truth)))
        norm.append(correlation(torch.stack(size), torch.stack(truth)))
    assert sum(taylor) / 3 > sum(norm) / 3 + 0.2, (taylor, norm)
