"""Bayesian Bits (vanbaalen2020bayesian): by hand, against plain rounding and all gates enumerated, and by its claim."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch.func import functional_call

from reference_impls.core.amounts import Strength
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.fusion import bayesian_bits
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(INPUTS, torch.tensor([0, 1, 2, 0, 1, 2]))]
HALF = -2 / 3 * math.log(11)  # log alpha of a gate that is open with probability one half


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def gates(*values, filters=1):
    return (double(*[values[0]] * filters), *(double(value)[0] for value in values[1:]))


def test_by_hand():
    # limit 1.5: s_2 = 1, s_4 = 0.2, s_8 = 0.2 / 17. x = 0.72: x_2 = 1; -0.28 is -1.4 steps of 0.2: e_4 = -0.2;
    # -0.08 is -6.8 steps of 0.2 / 17: e_8 = -7 * 0.2 / 17 = -0.0823529
    # z = (0.5, 0.5, 1, 0, 1): 0.5 (1 + 0.5 (-0.2 + 1 (-0.0823529 + 0))) = 0.4294118
    x, limit = double(0.72)[None], double(1.5)[0]
    assert bayesian_bits.quantized(x, limit, gates(0.5, 0.5, 1, 0, 1)).item() == pytest.approx(0.4294118)
    # 2 bits: 1; at the limit 1, not 2; beyond it as at it
    for value, rounded in ((0.72, 1.0), (1.5, 1.0), (9.0, 1.0), (-1.5, -1.0), (0.4, 0.0)):
        assert bayesian_bits.quantized(double(value)[None], limit, gates(1, 0, 0, 0, 0)).item() == pytest.approx(rounded)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_open_gates_give_plain_rounding_to_so_many_bits(steps):
    bits, limit = (2, 4, 8, 16, 32)[steps - 1], double(1.3)[0]
    weight = torch.randn(40, 50, generator=seeded(), dtype=torch.float64) * 0.7
    found = bayesian_bits.quantized(weight, limit, gates(*[1.0] * steps, *[0.0] * (5 - steps), filters=40))
    size = 2 * 1.3 / (2**bits - 1)
    plain = (weight.clamp(-1.3 * (1 - 1e-7), 1.3 * (1 - 1e-7)) / size).round() * size
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-11)
    assert found.abs().max() <= 1.3
    # a closed gate closes all behind it
    behind = bayesian_bits.quantized(weight, limit, gates(*[1.0] * steps, *[0.0, 1.0, 1.0, 1.0, 1.0][: 5 - steps], filters=40))
    assert torch.equal(behind, found)


def test_a_filter_of_zero_bits_is_zero_and_the_others_are_not():
    weight = torch.randn(3, 2, 2, 2, generator=seeded(), dtype=torch.float64)
    found = bayesian_bits.quantized(weight, weight.abs().max(), (double(1, 0, 0.5), *gates(0, 0, 0, 0, 0)[1:]))
    whole = bayesian_bits.quantized(weight, weight.abs().max(), gates(1, 0, 0, 0, 0, filters=3))
    torch.testing.assert_close(found, whole * double(1, 0, 0.5).view(3, 1, 1, 1))


def test_gradients_go_straight_through_rounding_but_not_through_clipping():
    weight = double(0.3, -0.9, 2.0)[:, None].requires_grad_()
    bayesian_bits.quantized(weight, double(1.0)[0], gates(0.5, 0.7, 1, 1, 1, filters=3)).sum().backward()
    assert weight.grad.flatten().tolist() == pytest.approx([0.5, 0.5, 0])


def test_the_price_is_the_expected_number_of_steps():
    # gates open with 1/2 each: 1/2 + 1/4 + 1/8 + 1/16 + 1/32 = 0.96875 for a filter; one that is always there: 1.9375; mean 1.453125
    log_alphas = [double(HALF, math.inf), *[double(HALF)[0]] * 4]
    assert bayesian_bits.price(log_alphas).item() == pytest.approx(1.453125)
    # all combinations of open and closed gates, each with its probability
    chances = [0.9, 0.3, 0.6, 0.2, 0.7]
    expected = 0.0
    for chain in itertools.product((0, 1), repeat=5):
        probability = math.prod(chance if is_open else 1 - chance for chance, is_open in zip(chances, chain, strict=True))
        expected += probability * sum(itertools.accumulate(chain, lambda one, other: one * other))
    log_alphas = [double(math.log(chance / (1 - chance)) + HALF)[0] for chance in chances]
    assert bayesian_bits.price([log_alphas[0][None], *log_alphas[1:]]).item() == pytest.approx(expected)


def test_a_gate_is_decided_by_its_probability_to_be_zero():
    # q(z = 0) = 0.34 where log alpha = log(0.66 / 0.34) + HALF
    edge = math.log(0.66 / 0.34) + HALF
    assert bayesian_bits.decided(double(edge - 1e-6, edge + 1e-6, math.inf)).tolist() == [0, 1, 1]


def test_training_is_gradient_descent_on_weights_and_gates_together():
    model = mlp((5, 4, 3), generator=seeded()).double()
    values = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    bits = bayesian_bits.callbacks(model, Strength(0.7), gate_rate=30.0, generator=seeded(7))[0]
    bits.finish = lambda model: model
    spy = copy.deepcopy(model)
    fit(model, BATCHES, 2, [bits], optimizer=partial(torch.optim.SGD, lr=0.1))

    names, generator = ["1.weight", "3.weight"], seeded(7)
    limits = {name: values[name].abs().max() for name in names}
    logs = {"1.weight": [torch.full((4,), 6.0).double()], "3.weight": [torch.full((3,), math.inf).double()]}
    for name in names:
        logs[name] += [double(2 / 3 * math.log(9))[0] for _ in range(4)]

    def drawn():
        found = {}
        for name in names:
            own = []
            for log in logs[name]:
                u = torch.rand(log.shape, generator=generator).double()
                own.append((1.2 / (1 + ((1 - u) / u * torch.exp(-log)) ** 1.5) - 0.1).clamp(0, 1))
            found[name] = bayesian_bits.quantized(values[name], limits[name], tuple(own))
        return found

    for _ in range(2):
        for tensor in [*values.values(), *(log for own in logs.values() for log in own)]:
            tensor.requires_grad_()
        price = 0.0
        for name in names:
            q = [1 / (1 + torch.exp(HALF - log)) for log in logs[name]]
            price = price + (q[0] * (1 + q[1] * (1 + q[2] * (1 + q[3] * (1 + q[4]))))).mean()
        loss = cross_entropy(functional_call(spy, values | drawn(), (INPUTS,)), BATCHES[0][1]) + 0.7 * price
        loss.backward()
        for name, tensor in values.items():
            values[name] = (tensor - 0.1 * tensor.grad).detach()
        for own in logs.values():
            own[:] = [(log - 30.0 * log.grad).detach() if log.isfinite().all() else log.detach() for log in own]
    for name in names:
        torch.testing.assert_close(bits.theta[name].detach(), values[name], msg=name)
        for found, expected in zip(bits.log_alphas[name], logs[name], strict=True):
            torch.testing.assert_close(found.detach(), expected, msg=name)
    torch.testing.assert_close(model[1].bias.detach(), values["1.bias"])
    for name, expected in drawn().items():
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, msg=name)


def test_what_comes_out_lies_on_its_grid_and_the_last_layer_has_all_its_outputs():
    model = convnet(generator=seeded()).double()
    bits = bayesian_bits.callbacks(model, Strength(0.0), generator=seeded())[0]
    bits.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weights = list(prunable_weights(model))
    for place, (name, own) in enumerate(bits.log_alphas.items()):
        for step, log_alpha in enumerate(own[1:]):
            log_alpha.data.fill_(2.0 if step < place % 3 else -2.0)  # 2, 4, 8, 2, ... bits
        if name != weights[-1]:
            own[0].data[0] = -2.0
    assert list(bits.bits().values()) == [2, 4, 8, 2, 4, 8]
    limits, small = bits.limits, bits.finish(model)
    for name, weight in prunable_weights(small).items():
        steps = weight.detach() / (2 * limits[name] / (2 ** bits.bits()[name] - 1))
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)
        kept = weight.flatten(1).abs().sum(1) > 0
        assert kept.sum() >= (len(weight) + 1) // 2
        assert (kept[0] == (name == weights[-1])).item(), name
    for open_steps, expected in ((3, 16), (4, 32)):
        for step, log_alpha in enumerate(bits.log_alphas[weights[0]][1:]):
            log_alpha.data.fill_(2.0 if step < open_steps else -2.0)
        assert bits.bits()[weights[0]] == expected
    bits.log_alphas[weights[0]][1].data.fill_(-2.0)
    bits.log_alphas[weights[0]][2].data.fill_(2.0)
    assert bits.bits()[weights[0]] == 2  # what stands behind a closed gate does not count


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="gate_rate"):
        bayesian_bits.callbacks(mlp(), Strength(0.1), gate_rate=rate)


def test_a_layer_of_zeros_stays_one():
    model = mlp((5, 4, 3))
    model[1].weight.data.zero_()
    bits = bayesian_bits.callbacks(model, Strength(0.0), generator=seeded())[0]
    bits.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(bits.finish(model)[1].weight, torch.zeros(4, 5))


def test_refuses_weights_that_are_no_numbers_at_once():
    model = mlp()
    next(iter(prunable_weights(model).values())).data.flatten()[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        bayesian_bits.callbacks(model, Strength(0.1))


@pytest.mark.claim
def test_few_bits_and_few_filters_are_learned_together_with_little_harm():
    # the rival trains as long, keeps as many neurons of each layer, those with the largest norm, and is rounded to as many bits
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, adam = batches(test_inputs, test_targets, 360), partial(torch.optim.Adam, lr=0.003)
    learned, rounded, widths = 0.0, 0.0, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(mlp((64, 100, 60, 10), generator=seeded(seed)), train, 6, optimizer=adam)
        rival = copy.deepcopy(model)
        bits = bayesian_bits.callbacks(model, Strength(3.0), gate_rate=0.05, generator=seeded(seed))
        small = fit(model, train, 15, bits, optimizer=adam)
        fit(rival, train, 15, optimizer=adam)
        for name, weight in prunable_weights(rival).items():
            limit, norms = weight.detach().abs().max(), weight.detach().norm(dim=1)
            width = int((small.get_parameter(name).abs().sum(1) > 0).sum())
            kept = norms >= norms.sort(descending=True).values[width - 1]
            chain = [float(step < bits[0].bits()[name]) for step in (2, 4, 8, 16)]
            weight.data = bayesian_bits.quantized(weight.detach(), limit, (kept.to(weight), *torch.tensor(chain)))
            widths.append(width / len(weight) if len(weight) > 10 else 0.0)
        assert set(bits[0].bits().values()) == {2}
        learned += accuracy(small, test) / 3
        rounded += accuracy(rival, test) / 3
    assert max(widths) < 0.6
    assert learned > 0.93
    assert learned > rounded + 0.25
