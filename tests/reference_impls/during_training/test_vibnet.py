"""VIBNet (dai2018compressing): by hand, against the divergence from the best prior, written-out networks, and by its claim."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.during_training import vibnet
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mlp, resnet8, vit_small

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(INPUTS, torch.tensor([0, 1, 2, 0, 1, 2]))]
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def started(model, inputs, strength=0.0):
    """The model with its bottlenecks in place, with means and variances of all sizes."""
    bottleneck = vibnet.callbacks(model, Strength(strength), generator=seeded(3))[0]
    bottleneck.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(inputs)
    generator = seeded(4)
    for name, mu in bottleneck.mu.items():
        mu.data.normal_(generator=generator)
        bottleneck.log_variance[name].data.normal_(generator=generator)
    return bottleneck


def test_by_hand():
    # mu = 2, sigma^2 = 4/3: 1/2 log(1 + 3) = 0.693147; mu = 0 passes nothing on; mu = -1, sigma^2 = 1: 1/2 log 2 = 0.346574
    variances = double(4 / 3, 1.0, 1.0).log()
    assert vibnet.information(double(2.0, 0.0, -1.0), variances).tolist() == pytest.approx([math.log(2), 0, math.log(2) / 2])
    # mu = 1, sigma^2 = 1e-8: sigma^2 + 1e-8 = 2e-8, 1/2 log(1 + 5e7) = 8.863767
    assert vibnet.information(double(1.0), double(1e-8).log()).item() == pytest.approx(8.8637671)
    # log(4/3 / 4) = -1.098612: kept; log(1 / 1e-8) = 18.4: goes; log(1 / 1) = 0 (to 1e-8): the edge
    assert vibnet.log_alpha(double(2.0, 0.0, -1.0), variances).tolist() == pytest.approx([-1.0986123, 18.4206807, 0], abs=1e-6)


@pytest.mark.parametrize(("mu", "variance", "size"), [(1.0, 0.2, 3.0), (-0.4, 1.5, 0.7), (3.0, 9.0, -2.0)])
def test_the_penalty_is_the_divergence_from_the_best_prior_of_mean_zero(mu, variance, size):
    # h ~ N(mu f, sigma^2 f^2) against r(h) = N(0, xi f^2): the least over a fine grid of xi; f, the activation, drops out
    ratios = torch.linspace(-6, 6, 100_001, dtype=torch.float64).exp()
    posterior = Normal(double(mu * size), double(abs(size) * math.sqrt(variance)))
    least = kl_divergence(posterior, Normal(double(0.0), abs(size) * ratios.sqrt())).min()
    assert vibnet.information(double(mu), double(variance).log()).item() == pytest.approx(least.item(), rel=1e-6)


def test_each_example_has_a_sample_of_its_own():
    model = mlp((5, 4, 3), generator=seeded()).double()
    bottleneck = started(model, INPUTS)
    bottleneck.generator.manual_seed(9)
    outputs = model(INPUTS)
    noise = torch.randn(6, 4, generator=seeded(9)).double()
    mu, deviation = bottleneck.mu["1"], (bottleneck.log_variance["1"].exp()) ** 0.5
    hidden = (INPUTS @ model[1].weight.T + model[1].bias).relu() * (mu + deviation * noise)
    torch.testing.assert_close(outputs, hidden @ model[3].weight.T + model[3].bias)


@pytest.mark.parametrize("build", [convnet, resnet8, densenet_small, vit_small])
def test_what_comes_out_computes_what_the_gated_network_does_without_noise(build):
    model = build(generator=seeded()).double()
    model.train()(IMAGES)  # statistics that are not those of the start
    bottleneck = started(model, IMAGES)
    model.eval()
    gated = model(IMAGES)
    expected = {name: max(1, int((bottleneck.log_variance[name].exp() < mu.square()).sum())) for name, mu in bottleneck.mu.items()}
    small = bottleneck.finish(model)
    after = {group.name: group.size for group in removable_groups(small, IMAGES[:1])}
    assert {name: after.get(name, 1) for name in expected} == expected  # a single head is none that can go
    assert any(size < bottleneck.mu[name].numel() for name, size in expected.items())
    torch.testing.assert_close(small(IMAGES), gated)
    assert counting.macs(small, IMAGES) < counting.macs(model, IMAGES)


@pytest.mark.parametrize("build", [resnet8, densenet_small, vit_small])
def test_factors_of_one_change_nothing(build):
    # where several groups are concatenated, each leaves the others' channels alone
    model = build(generator=seeded()).double().eval()
    plain = model(IMAGES[:1])
    bottleneck = started(model, IMAGES[:1])
    for name, mu in bottleneck.mu.items():
        mu.data.fill_(1)
        bottleneck.log_variance[name].data.fill_(-1)
    torch.testing.assert_close(model(IMAGES[:1]), plain)


def test_factors_are_shared_by_all_that_read_a_stream():
    # the input of the first block's convolution and that of its shortcut are one and the same
    model = resnet8(generator=seeded()).double()
    bottleneck = started(model, IMAGES)
    seen = {}
    for name in ("blocks.1.conv1", "blocks.1.shortcut.0"):
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    model(IMAGES)
    assert "conv1" in bottleneck.mu and torch.equal(*seen.values())


def test_a_neuron_counts_once_for_each_of_its_activations():
    # 8 x 8 positions, pooled to 4 x 4 twice, pooled to 2 x 2 and flattened: 64, 16, 16, 4 activations a channel; then 1 a neuron
    model = convnet(generator=seeded()).double()
    bottleneck = started(model, IMAGES, strength=0.5)
    assert bottleneck.activations == {"features.0": 64, "features.3": 16, "features.7": 16, "features.10": 4, "classifier.0": 1}
    total = 0.0
    for name, count in bottleneck.activations.items():
        for mu, log_variance in zip(bottleneck.mu[name].tolist(), bottleneck.log_variance[name].tolist(), strict=True):
            total += count * math.log(1 + mu**2 / math.exp(log_variance)) / 2
    assert bottleneck.penalty(model).item() == pytest.approx(0.5 * total, rel=1e-6)


def test_training_is_gradient_descent_on_weights_means_and_variances():
    model = mlp((5, 4, 3), generator=seeded()).double()
    values = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    bottleneck = vibnet.callbacks(model, Strength(0.05), generator=seeded(3))
    small = fit(model, BATCHES, 1, bottleneck, optimizer=partial(torch.optim.SGD, lr=0.1))
    generator = seeded(3)
    first = torch.randn(2, 4, generator=generator).double() * 0.01
    mu, log_variance = (1 + first[0]).requires_grad_(), (first[1] - 9).requires_grad_()
    noise = torch.randn(6, 4, generator=generator).double()
    hidden = (INPUTS @ values["1.weight"].T + values["1.bias"]).relu() * (mu + (log_variance / 2).exp() * noise)
    price = 0.5 * (1 + mu**2 / (log_variance.exp() + 1e-8)).log().sum()
    (cross_entropy(hidden @ values["3.weight"].T + values["3.bias"], BATCHES[0][1]) + 0.05 * price).backward()
    moved = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in values.items()}
    torch.testing.assert_close(bottleneck[0].mu["1"].detach(), (mu - 0.1 * mu.grad).detach())
    torch.testing.assert_close(bottleneck[0].log_variance["1"].detach(), (log_variance - 0.1 * log_variance.grad).detach())
    torch.testing.assert_close(small[1].weight.detach(), moved["1.weight"])
    torch.testing.assert_close(small[3].weight.detach(), moved["3.weight"] * bottleneck[0].mu["1"].detach())
    assert not any(module._forward_pre_hooks for module in [model, *small.modules()])


def test_one_neuron_stays_where_all_are_noise():
    model = mlp((5, 4, 3), generator=seeded()).double()
    bottleneck = started(model, INPUTS)
    bottleneck.mu["1"].data = double(0.1, 0.3, 0.2, 0.3)
    bottleneck.log_variance["1"].data.zero_()
    before = model[1].weight.detach().clone()
    small = bottleneck.finish(model)
    assert torch.equal(small[1].weight.detach(), before[1:2])


def test_a_neuron_goes_where_noise_is_as_strong_as_signal():
    model = mlp((5, 4, 3), generator=seeded()).double()
    bottleneck = started(model, INPUTS)
    bottleneck.mu["1"].data = double(1.0, 1.0, 1.0, 2.0)
    bottleneck.log_variance["1"].data = (bottleneck.mu["1"].detach().square() + 1e-8).log() - double(0, 1e-3, -1e-3, 0)
    before = model[1].weight.detach().clone()
    assert torch.equal(bottleneck.finish(model)[1].weight.detach(), before[1:2])


def test_refuses_weights_that_are_no_numbers_at_once():
    model = mlp((5, 4, 3))
    model[1].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        vibnet.callbacks(model, Strength(0.1))


def test_units_that_a_normalization_reads_are_left_alone():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="nothing to prune"):
        fit(network, [(IMAGES.float(), torch.zeros(6, dtype=torch.long))], 1, vibnet.callbacks(network, Strength(0.1)))


@pytest.mark.claim
def test_the_neurons_left_are_worth_more_than_as_many_of_the_largest():
    # the rival trains as long without a bottleneck and keeps as many neurons of each layer, those with the largest weights in and out
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, adam = batches(test_inputs, test_targets, 360), partial(torch.optim.Adam, lr=0.01)
    squeezed, largest, kept = 0.0, 0.0, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model, rival = (mlp((64, 100, 50, 10), generator=seeded(seed)) for _ in range(2))
        small = fit(model, train, 15, vibnet.callbacks(model, Strength(0.01), generator=seeded(seed)), optimizer=adam)
        fit(rival, train, 15, optimizer=adam)
        masks = {}
        for group, size, (place, after) in zip(
            removable_groups(rival, inputs[:1]), (small[1].out_features, small[3].out_features), ((1, 3), (3, 5)), strict=True
        ):
            size_of = rival[place].weight.detach().norm(dim=1) * rival[after].weight.detach().norm(dim=0)
            masks[group.name] = size_of >= size_of.sort(descending=True).values[size - 1]
            kept.append(size / group.size)
        rival = remove(rival, removable_groups(rival, inputs[:1]), masks)
        assert [layer.weight.shape for layer in rival[1::2]] == [layer.weight.shape for layer in small[1::2]]
        squeezed += accuracy(small, test) / 3
        largest += accuracy(rival, test) / 3
    assert max(kept) < 0.4
    assert squeezed > largest + 0.2
    assert squeezed > 0.9
