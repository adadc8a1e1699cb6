"""Gate Decorator (you2019gate): by hand, against finite differences and the plain network's gradients, and by its claim."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import gate_decorator
from reference_impls.core import counting
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, cross_entropy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp, resnet8

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2])), (IMAGES.flip(0), torch.tensor([3, 4, 5, 3, 4, 5]))]
still = partial(torch.optim.SGD, lr=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(build=resnet8):
    """With scales of both signs and statistics as after training."""
    model, generator = build(generator=seeded()).double(), seeded(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.weight.data[::3] *= -1
            for tensor in (module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model


def test_by_hand():
    # a shift of -3 over a scale of 0.01 is clipped to -10
    norm = nn.BatchNorm1d(1)
    norm.weight.data, norm.bias.data = torch.tensor([0.01]), torch.tensor([-3.0])
    assert gate_decorator.GatedNorm(norm).norm.bias.item() == pytest.approx(-10)
    # scales (2, -4, 0.01), shifts (1, 2, 3): gates are the scales, shifts inside (1/2, 2/-4, 3/0.01 clipped to 10)
    norm = nn.BatchNorm1d(3, eps=0.0)
    norm.weight.data, norm.bias.data = torch.tensor([2.0, -4.0, 0.01]), torch.tensor([1.0, 2.0, 3.0])
    gated = gate_decorator.GatedNorm(norm).eval()
    assert gated.gate.tolist() == pytest.approx([2, -4, 0.01])
    assert gated.norm.bias.tolist() == pytest.approx([0.5, -0.5, 10]) and gated.norm.weight.tolist() == [1, 1, 1]
    # mean 0 and variance 1: 2 (3 + 0.5) = 7, -4 (3 - 0.5) = -10, 0.01 (3 + 10) = 0.13
    assert gated(torch.full((1, 3), 3.0))[0].tolist() == pytest.approx([7, -10, 0.13])
    # loss = sum of outputs: dL/dphi = (3.5, 2.5, 13), scores |phi dL/dphi| = (7, 10, 0.13); the loss times -3 adds three times as much
    model, tick = nn.Sequential(gated), gate_decorator.Tick()
    tick.start(model, None)
    for factor in (1.0, -3.0):
        model.zero_grad()
        (factor * model(torch.full((1, 3), 3.0)).sum()).backward()
        tick.after_backward(model, None)
    assert tick.scores["0"].tolist() == pytest.approx([28, 40, 0.52])
    # 0.1 (2 + 4 + 0.01) = 0.601
    assert gate_decorator.Tock(0.1).penalty(model).item() == pytest.approx(0.601)


def test_a_scale_of_zero_has_gate_zero():
    norm = nn.BatchNorm1d(2)
    norm.weight.data, norm.bias.data = torch.zeros(2), torch.tensor([1.0, 0.0])
    gated = gate_decorator.GatedNorm(norm).eval()
    assert torch.equal(gated(torch.ones(1, 2)), torch.zeros(1, 2))
    assert gated.melted()(torch.ones(1, 2)).isfinite().all()


@pytest.mark.parametrize("build", [convnet, resnet8])
def test_decorating_and_melting_change_nothing_that_is_computed(build):
    model = net(build)
    for mode in (True, False):
        outputs = copy.deepcopy(model).train(mode)(IMAGES)
        decorated = gate_decorator.decorated(model).train(mode)
        torch.testing.assert_close(decorated(IMAGES), outputs)
    melted = gate_decorator.melted(decorated)
    assert not gate_decorator.gates(melted) and all(p.requires_grad for p in melted.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(melted.state_dict()[name], tensor, msg=name)


def scores_of(model, data=BATCHES):
    tick = gate_decorator.Tick()
    fit(gate_decorator.decorated(model), data, 1, [tick], optimizer=still)
    return tick.scores


def test_a_score_is_what_the_plain_network_says_of_scale_and_shift():
    # phi dL/dphi = gamma dL/dgamma + beta dL/dbeta, whatever the parametrization; in training mode, per batch
    model, expected = net(), {}
    for inputs, targets in BATCHES:
        plain = copy.deepcopy(model).train()
        cross_entropy(plain(inputs), targets).backward()
        for name, module in plain.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                product = (module.weight * module.weight.grad + module.bias * module.bias.grad).detach().abs()
                expected[name] = expected.get(name, 0) + product
    found = scores_of(model)
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score, msg=name)


def test_a_score_is_the_first_order_change_of_the_loss_as_the_gate_closes():
    model, (inputs, targets) = gate_decorator.decorated(net()).train(), BATCHES[0]
    found, gates = scores_of(net(), BATCHES[:1]), gate_decorator.gates(model)
    for name, unit in (("bn1", 3), ("blocks.1.bn2", 0)):
        losses = []
        for factor in (1 - 1e-5, 1 + 1e-5):
            other = copy.deepcopy(model)
            gate_decorator.gates(other)[name].gate.data[unit] *= factor
            losses.append(cross_entropy(other(inputs), targets).item())
        assert found[name][unit].item() == pytest.approx(abs(losses[0] - losses[1]) / 2e-5, rel=1e-5)
        assert gates[name].gate[unit] != 1


def test_normalizations_that_share_filters_are_scored_together():
    model = net()
    scores = {name: torch.arange(gated.gate.numel()) + 1.0 for name, gated in gate_decorator.gates(gate_decorator.decorated(model)).items()}
    scores["blocks.0.bn2"] = scores["blocks.0.bn2"] * 100
    found = gate_decorator.filter_scores(removable_groups(model, IMAGES[:1]), scores)
    assert found["conv1"].tolist() == [101.0 * (i + 1) for i in range(8)]  # the stem and the first block write to one stream
    assert found["blocks.0.conv1"].tolist() == [i + 1.0 for i in range(8)]
    classifier = gate_decorator.filter_scores(removable_groups(net(convnet), IMAGES[:1]), {"features.1": torch.ones(8)})
    assert classifier.keys() == {"features.0"}


def test_a_normalization_with_a_frozen_shift_or_scale_has_no_gate():
    model = net()
    model.bn1.bias.requires_grad_(False)
    model.blocks[0].bn1.weight.requires_grad_(False)
    found = gate_decorator.gates(gate_decorator.decorated(model))
    assert "blocks.0.bn2" in found and not {"bn1", "blocks.0.bn1"} & found.keys()


def test_tick_leaves_convolutions_alone_and_tock_trains_them():
    model = net()
    model.fc.bias.requires_grad_(False)
    seen = []

    def train(network, callbacks=()):
        before = copy.deepcopy(network.state_dict())
        fit(network, BATCHES, 1, callbacks, optimizer=partial(torch.optim.SGD, lr=0.01))
        moved = {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}
        gates = {name for name in before if name.endswith("gate")}
        shifts = {name for name in before if name.endswith("norm.bias")}
        seen.append((type(callbacks[0]), moved - gates - shifts, gates | shifts == moved & (gates | shifts)))
        return network

    pruned = gate_decorator.prune(model, BATCHES, 0.3, train=train, rounds=2)
    convolutions = {name for name, parameter in model.named_parameters() if parameter.dim() == 4}
    assert seen == 2 * [(gate_decorator.Tick, {"fc.weight"}, True), (gate_decorator.Tock, {"fc.weight"} | convolutions, True)]
    assert {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad} == {"fc.bias"}


def test_the_lowest_scores_go_and_the_count_is_exact_after_every_round():
    # training that only shows the data and moves nothing: the scores are those of the network as it is
    model, left = net(), []

    def train(network, callbacks=()):
        if isinstance(callbacks[0], gate_decorator.Tock):
            left.append(sum(group.size for group in removable_groups(gate_decorator.melted(network), IMAGES[:1])))
        return fit(network, BATCHES, 1, callbacks, optimizer=still)

    pruned = gate_decorator.prune(model, BATCHES, 0.36, train=train, rounds=2)
    assert left == [round(112 * 0.8), 112 - round(112 * 0.36)]  # 8 + 8 + 16 + 16 + 32 + 32 filters, 0.64 = 0.8^2
    groups = removable_groups(model, IMAGES[:1])
    scores = gate_decorator.filter_scores(groups, scores_of(model))
    left.clear()
    one = gate_decorator.prune(model, BATCHES, 0.36, train=train, rounds=1)
    expected = remove(model, groups, keep_units(scores, 0.36))
    assert {n: t.shape for n, t in one.named_parameters()} == {n: t.shape for n, t in expected.named_parameters()}
    torch.testing.assert_close(one.conv1.weight, expected.conv1.weight)
    assert counting.parameters(pruned) < counting.parameters(model)


def test_refuses_what_has_no_gate_no_steps_and_a_strength_out_of_range():
    train = partial(fit, batches=BATCHES, epochs=1)
    with pytest.raises(ValueError, match="batch normalization"):
        gate_decorator.prune(mlp(), BATCHES, 0.5, train=train)
    with pytest.raises(ValueError, match="train: made no step"):
        gate_decorator.prune(net(), BATCHES, 0.5, train=lambda model, callbacks: model)
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength"):
            gate_decorator.prune(net(), BATCHES, 0.5, train=train, strength=strength)
    alone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(128, 4), nn.ReLU(), nn.Linear(4, 10), nn.BatchNorm1d(10)).double()
    with pytest.raises(ValueError, match="nothing to prune"):  # the only normalization is that of the outputs
        gate_decorator.prune(alone, BATCHES, 0.5, train=lambda model, callbacks: fit(model, BATCHES, 1, callbacks))


@pytest.mark.claim
def test_gate_times_gradient_ranks_filters_better_than_the_gate_alone():
    # accuracy right after 30 % of all filters went by the scores of one Tick; by the size of the gates; and by scores turned round
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    found = {"scores": 0.0, "gates": 0.0, "reversed": 0.0}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = convnet((16, 16, 32, 32), generator=seeded(seed))
        fit(model, train, 3, optimizer=partial(momentum_sgd, learning_rate=0.05))
        tick, network = gate_decorator.Tick(), gate_decorator.decorated(model)
        fit(network, train, 1, [tick], optimizer=partial(momentum_sgd, learning_rate=0.01))
        sizes = {name: gated.gate.detach().abs() for name, gated in gate_decorator.gates(network).items()}
        turned = {name: -score for name, score in tick.scores.items()}
        network = gate_decorator.melted(network)
        groups = removable_groups(network, inputs[:1])
        for name, scores in (("scores", tick.scores), ("gates", sizes), ("reversed", turned)):
            kept = keep_units(gate_decorator.filter_scores(groups, scores), 0.3)
            found[name] += accuracy(remove(network, groups, kept), test) / 3
    assert found["scores"] > found["gates"] + 0.15
    assert found["scores"] > found["reversed"] + 0.3
