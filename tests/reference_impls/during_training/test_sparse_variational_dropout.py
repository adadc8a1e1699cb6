"""Sparse variational dropout (molchanov2017variational): by hand, against the exact divergence and written-out noise, and by its claim."""

import copy
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import poisson
from torch import nn

from reference_impls.core.amounts import Strength
from reference_impls.core.counting import weight_sparsity
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.during_training import sparse_variational_dropout as dropout
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(INPUTS, torch.tensor([0, 1, 2, 0, 1, 2]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # theta = 1/2, log sigma^2 = -2: log alpha = -2 - log(1/4) = -0.613706
    # a theta of 1e-4 beside log sigma^2 = -2: -2 - log(1e-8 + 1e-8) = 15.7, clipped to 8; theta = 4 beside -9: -11.77, clipped to -8
    found = dropout.log_alpha(double(0.5, 1e-4, 4.0), double(-2.0, -2.0, -9.0))
    assert found.tolist() == pytest.approx([-0.6137056, 8, -8])
    # log alpha = 0: k1 - k1 sigmoid(k2) + log(2) / 2 = 0.63576 - 0.63576 * 0.866820 + 0.346574 = 0.431245
    assert dropout.divergence(double(0.0)).item() == pytest.approx(0.4312449, abs=1e-5)


def exact(log_alpha):
    """E log|e| - log(alpha) / 2 for e ~ N(1, alpha), and the constant with which it ends at 0: e^2 / alpha is noncentral chi-squared,
    a mixture of central ones with 1 + 2 k degrees of freedom, k ~ Poisson(1 / (2 alpha))."""
    k = np.arange(4000)
    return 0.5 * (poisson.pmf(k, math.exp(-log_alpha) / 2) * digamma(0.5 + k)).sum() - 0.5 * digamma(0.5)


@pytest.mark.parametrize("log_alpha", [-1.0, 0.0, 2.0])
def test_the_exact_divergence_is_that_of_numeric_integration(log_alpha):
    # -D_KL = log(alpha) / 2 - E log|e| + C: the normal density times log|e|, integrated on both sides of the pole at 0
    deviation = math.exp(log_alpha / 2)

    def density(e):
        return math.exp(-(((e - 1) / deviation) ** 2) / 2) / deviation / math.sqrt(2 * math.pi) * math.log(abs(e))

    ends = (1 - 12 * deviation, 0, 1 + 12 * deviation)
    mean = sum(quad(density, low, high, limit=500)[0] for low, high in pairwise(ends))
    limit = 0.5 * (math.log(2) + digamma(0.5))  # of E log|e| - log(alpha) / 2 as alpha grows
    assert mean - log_alpha / 2 - limit == pytest.approx(exact(log_alpha), abs=1e-6)


def test_the_approximation_is_within_a_hundredth_of_the_exact_divergence():
    for log_alpha in np.linspace(-6, 8, 29):
        assert dropout.divergence(double(log_alpha)).item() == pytest.approx(exact(log_alpha), abs=0.01)
        # where weights are pruned the difference is small beside the value itself
        if log_alpha > 2:
            assert dropout.divergence(double(log_alpha)).item() == pytest.approx(exact(log_alpha), rel=0.05)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(5, 4), torch.randn(3, 5)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(3, 4, 5, 5)),
        (nn.ConvTranspose2d(2, 3, 3, bias=False), torch.randn(3, 2, 4, 4)),
    ],
)
def test_what_a_layer_puts_out_has_the_mean_and_variance_of_drawn_weights(layer, inputs):
    layer, inputs = copy.deepcopy(layer).double(), inputs.double()
    noisy = dropout.callbacks(layer, Strength(0.0), generator=seeded(3))[0]
    noisy.start(layer, torch.optim.SGD(layer.parameters(), lr=0.0))
    noisy.log_variance["weight"].data.normal_(generator=seeded(4))
    outputs, again = layer(inputs), layer(inputs)
    layer.eval()
    mean = layer(inputs)
    # the outputs are linear in the weights: each weight adds its variance times its squared derivative
    derivatives = torch.autograd.functional.jacobian(
        lambda weight: torch.func.functional_call(layer, {"weight": weight}, (inputs,)), layer.weight.detach()
    )
    variance = (derivatives.square() * noisy.log_variance["weight"].detach().exp()).flatten(mean.dim()).sum(-1)
    generator = seeded(3)
    for found in (outputs, again):
        noise = torch.randn(mean.shape, generator=generator).double()
        torch.testing.assert_close(found, mean + (variance + 1e-8).sqrt() * noise)


def test_training_is_gradient_descent_on_means_and_variances():
    model = mlp((5, 4, 3), generator=seeded()).double()
    before = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    noisy = dropout.callbacks(model, Strength(0.05), log_variance=-1.0, generator=seeded(3))
    fit(model, BATCHES, 1, noisy, optimizer=partial(torch.optim.SGD, lr=0.1))
    generator = seeded(3)
    variances = {name: torch.full_like(before[name], -1.0).requires_grad_() for name in ("1.weight", "3.weight")}
    hidden, price = INPUTS, 0.0
    for place in ("1", "3"):
        weight, log_variance = before[f"{place}.weight"], variances[f"{place}.weight"]
        spread = (hidden**2 @ log_variance.exp().T + 1e-8) ** 0.5
        hidden = hidden @ weight.T + before[f"{place}.bias"] + spread * torch.randn(spread.shape, generator=generator).double()
        hidden = hidden.relu() if place == "1" else hidden
        ratio = (log_variance.exp() / (weight**2 + 1e-8)).clamp(math.exp(-8), math.exp(8))
        price = price + (0.63576 * (1 - 1 / (1 + math.exp(-1.8732) * ratio**-1.48695)) + 0.5 * (1 + 1 / ratio).log()).sum()
    (cross_entropy(hidden, BATCHES[0][1]) + 0.05 * price).backward()
    for name, log_variance in variances.items():
        torch.testing.assert_close(noisy[0].log_variance[name].detach(), (log_variance - 0.1 * log_variance.grad).detach())
    moved = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in before.items()}
    for name, tensor in model.named_parameters():
        gone = tensor == 0
        torch.testing.assert_close(tensor.detach()[~gone], moved[name][~gone], msg=name)
        if name in variances:
            ratio = noisy[0].log_variance[name].detach() - (moved[name].square() + 1e-8).log()
            assert torch.equal(gone, ratio >= 3)
    assert 0 < weight_sparsity(model) < 1


def test_no_hook_and_no_noise_is_left():
    model = fit(mlp((5, 4, 3), generator=seeded()).double(), BATCHES, 1, dropout.callbacks(mlp((5, 4, 3)), Strength(0.0)))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model.train()(INPUTS), model(INPUTS))


def test_refuses_weights_that_are_no_numbers_at_once():
    model = mlp()
    next(iter(prunable_weights(model).values())).data.flatten()[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        dropout.callbacks(model, Strength(0.1))


@pytest.mark.claim
def test_the_evidence_lower_bound_alone_makes_most_weights_zero_with_little_harm():
    # the strength is 1 / (number of images): nothing is tuned. The rival trains as long without noise and then loses as many of its
    # smallest weights
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, adam = batches(test_inputs, test_targets, 360), partial(torch.optim.Adam, lr=0.02)
    noisy, smallest, sparsities = 0.0, 0.0, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model, rival = (mlp((64, 200, 10), generator=seeded(seed)) for _ in range(2))
        gating = dropout.callbacks(model, Strength(1 / len(inputs)), generator=seeded(seed))
        fit(model, train, 25, gating, optimizer=adam)
        fit(rival, train, 25, optimizer=adam)
        sparsities.append(weight_sparsity(model))
        sizes = {name: weight.detach().abs() for name, weight in prunable_weights(rival).items()}
        rival = masked(rival, keep_highest(sizes, sparsities[-1]))
        noisy += accuracy(model, test) / 3
        smallest += accuracy(rival, test) / 3
    assert min(sparsities) > 0.85
    assert noisy > smallest + 0.1
    assert noisy > 0.9
