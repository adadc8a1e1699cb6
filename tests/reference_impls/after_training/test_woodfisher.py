"""WoodFisher (singh2020woodfisher): by hand, against the Fisher matrix inverted whole, and its claim."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import woodfisher
from reference_impls.core.masks import keep_highest, masked, prunable_weights, sparsity_of
from reference_impls.core.training import cross_entropy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp


def small(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).to(dtype)


def data(count=5):
    torch.manual_seed(1)
    return [(torch.randn(8, 1, 3, 3, dtype=torch.float64), torch.randint(4, (8,))) for _ in range(count)]


def test_one_removal_by_hand():
    # one sample g = (1, 1), damping 1: F = (2 1; 1 2), F^-1 = (2 -1; -1 2) / 3. w = (1, 2): w^2 / d = 1.5 and 6.
    # The first goes, and the second becomes 2 - 1 / (2/3) * (-1/3) = 2.5
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    samples = {"weight": torch.tensor([[1.0, 1.0]]).double()}
    masks = woodfisher.prune_once(model, samples, 0.5, damping=1.0)
    assert masks["weight"].tolist() == [[False, True]]
    torch.testing.assert_close(model.weight.data, torch.tensor([[0, 2.5]]))


def test_what_is_added_to_the_diagonal_decides_by_hand():
    # damping 1e10, one sample (0, 2e5): the diagonal of F^-1 is 1 / 1e10 and 1 / 5e10. w = (1, 0.6): 1 / 2e-10 = 5e9 and
    # 0.36 / 1.2e-10 = 3e9, so the second goes; without the 1e-10 it would be 1e10 and 1.8e10, and the first
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 0.6]])
    masks = woodfisher.prune_once(model, {"weight": torch.tensor([[0.0, 2e5]]).double()}, 0.5, damping=1e10, block=1)
    assert masks["weight"].tolist() == [[True, False]]


def test_a_layer_that_the_loss_does_not_see_has_no_gradient():
    model = small()
    model[4].inner = nn.Linear(2, 2).double()
    samples = woodfisher.gradients(model, data(2))
    assert samples["4.inner.weight"].shape == (2, 4) and not samples["4.inner.weight"].any()


def test_the_inverse_in_blocks_by_hand():
    # two samples (2, 0, 1), (0, 2, 1), damping 1: the mean product has diagonal 2, 2, 1; in blocks of two the 1s beside the third are gone:
    # F = (3 0 0; 0 3 0; 0 0 2), and F^-1 (3, 6, 4) = (1, 2, 2)
    samples = torch.tensor([[2.0, 0, 1], [0, 2, 1]]).double()
    diagonal, product = woodfisher.diagonal_and_product(samples, 1.0, 2, torch.tensor([3.0, 6, 4]).double())
    torch.testing.assert_close(diagonal, torch.tensor([1 / 3, 1 / 3, 1 / 2]).double())
    torch.testing.assert_close(product, torch.tensor([1.0, 2, 2]).double())


def test_a_sample_is_the_gradient_of_a_batch_in_evaluation_mode():
    model = small()
    model[1].running_mean += 0.3
    model.train()
    masks = {"0.weight": torch.rand(3, 1, 2, 2) > 0.5, "4.weight": torch.rand(4, 12) > 0.5}
    samples = woodfisher.gradients(model, data(), masks)
    assert model[1].training and all(parameter.grad is None for parameter in model.parameters())
    probe = small().eval()
    probe[1].running_mean += 0.3
    for place, (inputs, targets) in enumerate(data()):
        probe.zero_grad()
        cross_entropy(probe(inputs), targets).backward()
        for name, mask in masks.items():
            torch.testing.assert_close(samples[name][place], (probe.get_parameter(name).grad * mask).flatten())
    whole = woodfisher.gradients(model, data())
    assert (whole["4.weight"] != 0).sum() > (samples["4.weight"] != 0).sum()


@pytest.mark.parametrize("block", [1, 5, 12, 1000])
def test_two_rounds_are_those_of_the_fisher_matrix_inverted_whole(block):
    ours, theirs = small().eval(), small().eval()
    before = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(theirs).items()}
    masks = None
    for amount in (0.3, 0.6):
        masks = woodfisher.prune_once(ours, woodfisher.gradients(ours, data(), masks), amount, masks, damping=1e-3, block=block)
        inverses, scores, weights = {}, {}, prunable_weights(theirs)
        for name, weight in weights.items():
            rows = []
            for inputs, targets in data():
                gradient = torch.autograd.grad(cross_entropy(theirs(inputs), targets), weight)[0]
                rows.append((gradient * before[name]).flatten())
            stacked = torch.stack(rows)
            fisher = stacked.T @ stacked / len(rows) + 1e-3 * torch.eye(stacked.shape[1])
            place = torch.arange(stacked.shape[1]) // block
            inverses[name] = torch.linalg.inv(fisher * (place[:, None] == place))
            price = weight.detach().flatten().square() / inverses[name].diagonal()
            scores[name] = price.view_as(weight).masked_fill(~before[name], -1.0)
        now = keep_highest(scores, amount)
        for name, weight in weights.items():
            moved = weight.detach().flatten().clone()
            for q in (before[name] & ~now[name]).flatten().nonzero().flatten().tolist():
                moved -= weight.detach().flatten()[q] / inverses[name][q, q] * inverses[name][:, q]
            weight.data.copy_(moved.view_as(weight) * now[name])
        before = now
        for name, weight in weights.items():
            assert torch.equal(masks[name], now[name])
            torch.testing.assert_close(ours.get_parameter(name), weight, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours[4].bias, small()[4].bias)


def test_rounds_follow_the_curve_and_what_is_gone_stays_gone():
    reached = []

    def train(network, callbacks):
        reached.append(callbacks[0].masks)
        return fit(network, data(), 1, callbacks)

    pruned = woodfisher.prune(small(), data(), 0.6, train=train, rounds=3)
    # 60 weights: 0.6 (1 - (2/3)^3) = 0.4222, 0.6 (1 - (1/3)^3) = 0.5778, 0.6
    assert [round(60 * sparsity_of(masks)) for masks in reached] == [25, 35, 36]
    for earlier, later in itertools.pairwise(reached):
        assert all((earlier[name] | ~later[name]).all() for name in later)
    assert all(torch.equal(weight != 0, reached[-1][name]) for name, weight in prunable_weights(pruned).items())


def test_the_loss_rises_least_where_it_should():
    # of all pairs of weights of a layer, those with the lowest price rise the loss less than those with the highest
    model = small().eval()
    samples = woodfisher.gradients(model, data(8))
    diagonal, _ = woodfisher.diagonal_and_product(samples["4.weight"], 1e-3, 1000)
    price = model[4].weight.detach().flatten().square() / diagonal
    rises = []
    for q in (price.argmin(), price.argmax()):
        damaged = small().eval()
        damaged[4].weight.data.view(-1)[q] = 0
        rises.append(sum(cross_entropy(damaged(x), y).item() - cross_entropy(model(x), y).item() for x, y in data(8)))
    assert abs(rises[0]) < abs(rises[1])


@pytest.mark.parametrize("given", [{"rounds": 0}, {"block": 0}, {"damping": 0.0}, {"damping": float("nan")}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        woodfisher.prune(small(), data(), 0.5, **given)
    woodfisher.prune(small(), data(1), 0.5, rounds=1, block=1)
    with pytest.raises(ValueError, match="batches"):
        woodfisher.prune(small(), [], 0.5)


@pytest.mark.claim
def test_without_retraining_the_loss_rises_less_than_by_magnitude_or_without_moving_the_others():
    """A fifth of the weights is left; at a tenth the updates of so many weights at once help no more, in one seed magnitude was better."""
    train, (inputs, targets) = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        images = batches(*train, 64, generator)
        model = fit(mlp([64, 32, 32, 10], generator=generator), images, 10, optimizer=partial(momentum_sgd, learning_rate=0.05))
        pruned = woodfisher.prune(model, batches(*train, 8, generator), 0.8, rounds=3, block=512)
        others = [
            masked(model, keep_highest({n: w.detach().abs() for n, w in prunable_weights(model).items()}, 0.8)),
            masked(model, {name: weight != 0 for name, weight in prunable_weights(pruned).items()}),
        ]
        loss = lambda network: cross_entropy(network(inputs), targets).item()
        assert loss(pruned) < 0.9 * min(loss(other) for other in others)
