"""3SP (vanamersfoort2020single): by hand, against real gates, its costs by counting, and its claim."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from reference_impls.before_training import single_shot_structured as method
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [(IMAGES[:4], torch.tensor([0, 3, 5, 9])), (IMAGES[4:], torch.tensor([1, 2]))]


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def two_layers():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1.0], [3.0, -2.0], [0.5, 0.0]])
    model[1].weight.data = torch.tensor([[1.0, 2.0, 4.0]])
    return model, [(torch.ones(1, 2), torch.zeros(1, 1))]


def sensitivity(model, data, **options):
    return method.channel_sensitivity(model, removable_groups(model, data[0][0][:1]), data, **options)


def test_by_hand():
    # hidden (2, 1, 0.5), y = 2 + 2 + 2 = 6: dL/dc_j = y * v_j * h_j = 6 * (2, 2, 2); for the target 5: 1 * 2
    model, data = two_layers()
    assert sensitivity(model, data, loss=half_square)["0"].tolist() == [12, 12, 12]
    # v = (1, -2, 4): y = 2 - 2 + 2 = 2: 2 * (2, -2, 2), without sign 4; v = (1, 3, 4): y = 7, 7 * (2, 3, 2)
    model[1].weight.data = torch.tensor([[1.0, -2.0, 4.0]])
    assert sensitivity(model, data, loss=half_square)["0"].tolist() == [4, 4, 4]
    model[1].weight.data = torch.tensor([[1.0, 3.0, 4.0]])
    assert sensitivity(model, data, loss=half_square)["0"].tolist() == [14, 21, 14]
    # of equal ones the first goes
    small = method.prune(model, data, 1 / 3, loss=half_square)
    assert small[0].weight.tolist() == [[3, -2], [0.5, 0]]
    assert small[1].weight.tolist() == [[3, 4]]


def test_batches_are_summed_before_the_absolute_value():
    # y = 6, targets 0 and 12: errors 6 and -6 cancel; targets 0 and 10: 6 - 4 = 2, times v h = 2
    model, data = two_layers()
    cancel = [*data, (torch.ones(1, 2), torch.full((1, 1), 10.0))]
    assert sensitivity(model, cancel, loss=half_square)["0"].tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="batches"):
        sensitivity(model, [*data, (torch.ones(1, 2), torch.full((1, 1), 12.0))], loss=half_square)


class Gate(nn.Module):
    """Multiplies the filters of a layer."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward(self, weight):
        return weight * self.gate.view(-1, *[1] * (weight.ndim - 1))


@pytest.mark.parametrize("build", [convnet, resnet8])
def test_equals_the_derivative_of_real_gates_shared_where_a_shortcut_adds(build):
    model = build(generator=torch.Generator().manual_seed(0)).double()
    data = [(inputs.double(), targets) for inputs, targets in DATA]
    groups = removable_groups(model, data[0][0][:1])
    scores = method.channel_sensitivity(model, groups, data)
    assert model.training
    gates = {group.name: torch.ones(group.size, dtype=torch.float64, requires_grad=True) for group in groups}
    made = {
        group.name: {member.layer for member in group.producers if hasattr(model.get_submodule(member.layer), "stride")} for group in groups
    }
    made |= {group.name: {group.name} for group in groups if not made[group.name]}
    assert any(len(layers) > 1 for layers in made.values()) == (build is resnet8)
    for name, layers in made.items():
        for layer in layers:
            parametrize.register_parametrization(model.get_submodule(layer), "weight", Gate(gates[name]))
    model.eval()
    loss = sum(nn.functional.cross_entropy(model(inputs), targets) for inputs, targets in data)
    for name, pull in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
        torch.testing.assert_close(scores[name], pull.abs())


@pytest.mark.parametrize("build", [convnet, resnet8])
def test_a_cost_is_what_the_network_without_the_channel_saves(build):
    model = build(generator=torch.Generator().manual_seed(0))
    groups = removable_groups(model, IMAGES[:1])
    for name, cost in method.channel_costs(model, groups, IMAGES[:1]).items():
        keep = torch.ones(next(group.size for group in groups if group.name == name), dtype=torch.bool)
        keep[1] = False
        assert cost == counting.macs(model, IMAGES[:1]) - counting.macs(remove(model, groups, {name: keep}), IMAGES[:1])


def test_sensitivity_per_cost_decides_unless_it_is_asked_not_to():
    model = convnet(generator=torch.Generator().manual_seed(0))
    groups = removable_groups(model, IMAGES[:1])
    scores, costs = method.channel_sensitivity(model, groups, DATA), method.channel_costs(model, groups, IMAGES[:1])
    units = [(float(value), costs[name], name) for name, score in scores.items() for value in score]
    for compute_aware in (True, False):
        kept = sorted(units, key=lambda unit: unit[0] / unit[1] if compute_aware else unit[0])[round(0.25 * len(units)) :]
        small = method.prune(model, DATA, 0.25, compute_aware=compute_aware)
        found = {group.name: group.size for group in removable_groups(small, IMAGES[:1])}
        assert found == {name: sum(unit[2] == name for unit in kept) for name in scores}


def test_a_budget_is_met_and_the_last_channel_had_to_go():
    model = convnet(generator=torch.Generator().manual_seed(0))
    dense = counting.macs(model, IMAGES[:1])
    count = sum(group.size for group in removable_groups(model, IMAGES[:1]))
    small = method.prune(model, DATA, Budget(macs=0.4 * dense))
    removed = count - sum(group.size for group in removable_groups(small, IMAGES[:1]))
    assert counting.macs(small, IMAGES[:1]) <= 0.4 * dense
    assert counting.macs(method.prune(model, DATA, (removed - 1) / count), IMAGES[:1]) > 0.4 * dense
    exact = counting.macs(small, IMAGES[:1])
    assert counting.macs(method.prune(model, DATA, Budget(macs=exact)), IMAGES[:1]) == exact
    assert counting.macs(method.prune(model, DATA, Budget(macs=dense)), IMAGES[:1]) == dense
    for wrong in (Budget(macs=10), Budget(seconds=1.0)):
        with pytest.raises(ValueError, match="amount"):
            method.prune(model, DATA, wrong)


class DeadEnd(nn.Module):
    """With a layer whose output nobody reads."""

    def __init__(self):
        super().__init__()
        self.first, self.dead, self.last = nn.Linear(2, 4), nn.Linear(2, 3), nn.Linear(4, 2)

    def forward(self, x):
        self.dead(x)
        return self.last(torch.tanh(self.first(x)))


def test_units_that_the_loss_does_not_reach_score_0():
    scores = sensitivity(DeadEnd(), [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))])
    assert scores["dead"].tolist() == [0, 0, 0]
    assert (scores["first"] > 0).all()


def test_the_smaller_network_is_trained():
    seen = []
    small = method.prune(convnet(), DATA, 0.5, train=lambda network: seen.append(network) or network)
    assert seen == [small]


@pytest.mark.claim
def test_at_equal_compute_sensitivity_per_cost_trains_better_than_sensitivity():
    train, test = digits()
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        model = convnet(generator=torch.Generator().manual_seed(seed))
        budget = Budget(macs=0.1 * counting.macs(model, train[0][:1]))
        aware, blind = (method.prune(model, data[:6], budget, compute_aware=compute_aware) for compute_aware in (True, False))
        assert accuracy(fit(aware, data, 4), [test]) > accuracy(fit(blind, data, 4), [test]) + 0.15
