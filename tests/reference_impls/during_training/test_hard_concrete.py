"""L0 regularization (louizos2018learning): by hand, against sampling and autograd through the written-out network, and by its claim."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.core.amounts import Strength
from reference_impls.core.counting import weight_sparsity
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.during_training import hard_concrete
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(INPUTS, torch.tensor([0, 1, 2, 0, 1, 2]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logit(probability):
    return math.log(probability / (1 - probability))


def test_by_hand():
    # u = 1/2 and log alpha = 0: s = sigmoid(0) = 1/2, stretched 1/2 * 1.2 - 0.1 = 0.5
    # u with logit 2, log alpha = -1: s = sigmoid(1 / (2/3)) = sigmoid(1.5) = 0.817574, stretched 0.881089
    # u with logit 4, log alpha = 0: s = sigmoid(6) = 0.997527, stretched 1.097033, clipped to 1; logit -4 gives -0.097033, so 0
    noise = torch.tensor([0.0, 2.0, 4.0, -4.0], dtype=torch.float64).sigmoid()
    gates = hard_concrete.sample(torch.tensor([0.0, -1.0, 0.0, 0.0], dtype=torch.float64), noise)
    assert gates.tolist() == pytest.approx([0.5, 0.8810891, 1.0, 0.0])
    # without noise: sigmoid(1) = 0.731059, stretched 0.777270; sigmoid(-3) = 0.047426, stretched -0.043, so 0; sigmoid(3) gives 1
    assert hard_concrete.expected_gate(torch.tensor([1.0, -3.0, 3.0])).tolist() == pytest.approx([0.7772703, 0, 1], rel=1e-5)
    # log alpha = 0: sigmoid(-2/3 log(0.1 / 1.1)) = sigmoid(1.598597) = 0.831820
    assert hard_concrete.probability_open(torch.tensor([0.0])).item() == pytest.approx(0.8318204, rel=1e-5)


@pytest.mark.parametrize(("log_alpha", "options"), [(-4.0, ()), (-1.3, ()), (0.0, (0.33,)), (0.7, (1.0,)), (3.0, ())])
def test_the_probability_to_be_open_is_how_many_samples_are_not_zero(log_alpha, options):
    count = 200_000
    noise = (torch.arange(count, dtype=torch.float64) + 0.5) / count  # every quantile once, so the share is exact up to one sample
    gates = hard_concrete.sample(torch.full((count,), log_alpha, dtype=torch.float64), noise, *options)
    share = (gates > 0).double().mean().item()
    assert share == pytest.approx(
        hard_concrete.probability_open(torch.tensor(log_alpha, dtype=torch.float64), *options).item(), abs=1 / count
    )
    # and by the distribution's symmetry, log alpha turned round, how many are not one
    closed = (gates < 1).double().mean().item()
    assert closed == pytest.approx(
        hard_concrete.probability_open(torch.tensor(-log_alpha, dtype=torch.float64), *options).item(), abs=1 / count
    )


def test_random_numbers_keep_away_from_the_ends(monkeypatch):
    # at 0 and 1 themselves the logit would be infinite
    monkeypatch.setattr(torch, "rand", lambda shape, generator=None: torch.tensor([0.0, 0.3, 1.0]))
    found = hard_concrete.uniform(torch.zeros(3, dtype=torch.float64))
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx([1e-6, 0.3, 1 - 1e-6], rel=1e-6, abs=1e-9)


def test_refuses_weights_that_are_no_numbers_at_once():
    model = mlp((5, 4, 3))
    model[1].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        hard_concrete.callbacks(model, Strength(0.1))


def test_a_gate_is_closed_for_good_below_the_logit_of_one_eleventh():
    # sigmoid(log alpha) 1.2 - 0.1 = 0 where sigmoid(log alpha) = 1/12; it is 1 where sigmoid(log alpha) = 11/12
    edges = torch.tensor([logit(1 / 12) - 1e-3, logit(1 / 12) + 1e-3, logit(11 / 12) - 1e-3, logit(11 / 12) + 1e-3])
    gates = hard_concrete.expected_gate(edges)
    assert gates[0] == 0 < gates[1] < 1e-3 and 1 - 1e-3 < gates[2] < 1 == gates[3]


def trained(strength, steps, dropout_rate=0.5, learning_rate=0.3):
    """A small network and its gates after some steps of plain gradient descent, and the same computed on functions of all parameters."""
    model = mlp((5, 4, 3), generator=seeded()).double()
    gating = hard_concrete.callbacks(model, Strength(strength), dropout_rate=dropout_rate, generator=seeded(7))
    plain = partial(torch.optim.SGD, lr=learning_rate)
    ours = fit(copy.deepcopy(model), BATCHES, steps, gating, optimizer=plain)

    generator, values = seeded(7), {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    names = list(prunable_weights(model))
    gates = {}
    for name in names:
        gates[name] = logit(1 - dropout_rate) + 0.01 * torch.randn(values[name].shape, generator=generator).double()
    for _ in range(steps):
        for tensor in [*values.values(), *gates.values()]:
            tensor.requires_grad_()
        used, price = dict(values), 0.0
        for name in names:
            u = torch.rand(values[name].shape, generator=generator).double()
            concrete = 1 / (1 + ((1 - u) / u * torch.exp(-gates[name])) ** 1.5)
            used[name] = values[name] * torch.nn.functional.hardtanh(1.2 * concrete - 0.1, 0, 1)
            price = price + (1 / (1 + torch.exp(-gates[name]) * (0.1 / 1.1) ** (2 / 3))).sum()
        loss = cross_entropy(functional_call(model, used, (INPUTS,)), BATCHES[0][1]) + strength * price
        slopes = torch.autograd.grad(loss, [*values.values(), *gates.values()])
        moved = [t.detach() - learning_rate * s for t, s in zip([*values.values(), *gates.values()], slopes, strict=True)]
        values = dict(zip(values, moved, strict=False))
        gates = {name: tensor.clamp(-math.log(100), math.log(100)) for name, tensor in zip(names, moved[len(values) :], strict=True)}
    for name in names:
        values[name] = values[name] * (gates[name].sigmoid() * 1.2 - 0.1).clamp(0, 1)
    return ours, values, gating[0], gates


@pytest.mark.parametrize(("strength", "dropout_rate", "rate"), [(0.01, 0.5, 0.3), (5.0, 0.3, 2.0)])
def test_training_is_gradient_descent_on_weights_and_gates_together(strength, dropout_rate, rate):
    # the second run drives gates to their limit, log(1/100)
    ours, values, gated, gates = trained(strength, 5, dropout_rate, rate)
    for name, tensor in ours.named_parameters():
        torch.testing.assert_close(tensor.detach(), values[name], msg=name)
    for name, log_alpha in gated.log_alpha.items():
        torch.testing.assert_close(log_alpha.detach(), gates[name], msg=name)
    if rate == 2.0:
        assert min(tensor.min().item() for tensor in gates.values()) == pytest.approx(-math.log(100))


def test_the_network_in_training_holds_a_new_sample_after_every_step():
    model = mlp((5, 4, 3), generator=seeded()).double()
    gated = hard_concrete.callbacks(model, Strength(0.0), generator=seeded())[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
    gated.start(model, optimizer)
    seen = []
    for _ in range(2):
        weights = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        ratio = torch.cat([(weights[name] / before[name]).flatten() for name in before])
        assert ratio.min() == 0 and ratio.max() == 1 and ((ratio > 0) & (ratio < 1)).any()
        seen.append(ratio)
        cross_entropy(model(INPUTS), BATCHES[0][1]).backward()
        gated.after_backward(model, optimizer)
        assert all(torch.equal(weight, before[name]) for name, weight in prunable_weights(model).items())
        gated.after_step(model, optimizer)
    assert not torch.equal(*seen)


def test_a_weight_that_the_loss_does_not_see_pays_and_stays():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(5, 3), nn.Linear(2, 2)

        def forward(self, inputs):
            return self.used(inputs)

    model = Unused().double()
    before = model.spare.weight.detach().clone()
    gating = hard_concrete.callbacks(model, Strength(1.0), generator=seeded())
    fit(model, BATCHES, 1, gating, optimizer=partial(torch.optim.SGD, lr=0.1))
    assert torch.equal(gating[0].theta["spare.weight"].detach(), before)
    assert (gating[0].log_alpha["spare.weight"] < 0).all()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, float("nan")])
def test_refuses_a_dropout_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="dropout_rate"):
        hard_concrete.callbacks(mlp(), Strength(0.1), dropout_rate=rate)


@pytest.mark.claim
def test_weights_become_zero_in_training_with_little_harm():
    # six of seven weights go while it trains. The rival trains as long without gates and then loses as many of its smallest weights;
    # the wrong variant, a price on the gates with the other sign, prunes nothing
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, adam = batches(test_inputs, test_targets, 360), partial(torch.optim.Adam, lr=0.02)
    gated, smallest, sparsities = 0.0, 0.0, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model, rival = (mlp((64, 60, 10), generator=seeded(seed)) for _ in range(2))
        fit(model, train, 30, hard_concrete.callbacks(model, Strength(3e-3), generator=seeded(seed)), optimizer=adam)
        fit(rival, train, 30, optimizer=adam)
        sparsities.append(weight_sparsity(model))
        sizes = {name: weight.detach().abs() for name, weight in prunable_weights(rival).items()}
        rival = masked(rival, keep_highest(sizes, sparsities[-1]))
        gated += accuracy(model, test) / 3
        smallest += accuracy(rival, test) / 3
    assert min(sparsities) > 6 / 7
    assert gated > smallest + 0.15
    assert gated > 0.85
