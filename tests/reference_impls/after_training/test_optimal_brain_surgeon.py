"""Optimal Brain Surgeon (hassibi1992second): by hand, against constrained least squares, brute force, and the exact Hessian."""

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from reference_impls.after_training import optimal_brain_damage, optimal_brain_surgeon
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import cross_entropy, fit


def half_square(outputs, targets):
    """Half the squared error, summed over the outputs and averaged over the patterns: its Hessian is the mean of X X^T."""
    return ((targets - outputs) ** 2).sum(-1).mean() / 2


def regression(weights, inputs):
    """A bias-free linear network that is at its minimum: its own outputs are the targets."""
    model = nn.Linear(len(weights), 1, bias=False)
    model.weight.data = weights[None]
    return model.to(weights.dtype), [(inputs, inputs @ weights[:, None])]


def mean_square(inputs, change):
    return ((inputs @ change) ** 2).mean() / 2


def test_by_hand():
    # H = ((2, 1), (1, 2)), H^-1 = ((2, -1), (-1, 2)) / 3, w = (1, 2): L = w^2 / (2 * 2/3) = (3/4, 3)
    # deleting w_0: dw = -1 / (2/3) * (2/3, -1/3) = (-1, 1/2), so w = (0, 2.5); H^-1 of the second alone is 1/2
    weights, inverse = torch.tensor([1.0, 2.0]), torch.tensor([[2.0, -1.0], [-1.0, 2.0]]) / 3
    torch.testing.assert_close(optimal_brain_surgeon.price(weights, inverse), torch.tensor([0.75, 3.0]))
    optimal_brain_surgeon.delete(weights, inverse, 0)
    torch.testing.assert_close(weights, torch.tensor([0.0, 2.5]))
    torch.testing.assert_close(inverse, torch.tensor([[0.0, 0.0], [0.0, 0.5]]))


def test_the_recursion_gives_the_inverse_whatever_the_chunks():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 5, generator=generator).double()
    direct = torch.linalg.inv(0.01 * torch.eye(5).double() + rows.mT @ rows / 6)
    for size in (1, 5, 12):  # one row at a time is the paper's own recursion
        torch.testing.assert_close(optimal_brain_surgeon.inverse_hessian(iter(rows.split(size)), 6, 0.01), direct)


@pytest.mark.parametrize("loss", [half_square, cross_entropy])
def test_outer_products_sum_to_the_exact_hessian_of_a_linear_network(loss):
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 3).double(), torch.randn(8, 4).double()
    targets = torch.randint(3, (8,)) if loss is cross_entropy else torch.randn(8, 3).double()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    exact = hessian(lambda w: loss(functional_call(model, w, (inputs,)), targets))(weights)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    exact = torch.cat([torch.cat([exact[a][b].reshape(sizes[a], sizes[b]) for b in sizes], 1) for a in sizes])
    rows = optimal_brain_surgeon.output_derivatives(model, inputs, targets, loss)
    assert rows.shape == (24, 15)
    torch.testing.assert_close(rows.mT @ rows / 8, exact)


def test_the_update_is_the_constrained_least_squares_optimum_and_the_price_is_what_it_costs():
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(40, 6, generator=generator) @ torch.randn(6, 6, generator=generator)).double()
    before = torch.randn(6, generator=generator).double()
    inverse = torch.linalg.inv(inputs.mT @ inputs / 40)
    prices = optimal_brain_surgeon.price(before, inverse)
    for q in range(6):
        weights = before.clone()
        optimal_brain_surgeon.delete(weights, inverse.clone(), q)
        free = [k for k in range(6) if k != q]
        optimum = torch.linalg.lstsq(inputs[:, free], (inputs @ before)[:, None]).solution[:, 0]
        torch.testing.assert_close(weights[free], optimum)
        torch.testing.assert_close(prices[q], mean_square(inputs, weights - before))


def test_the_cheapest_weight_by_brute_force_and_the_best_fit_on_what_remains():
    generator = torch.Generator().manual_seed(1)
    inputs = (torch.randn(60, 6, generator=generator) @ torch.randn(6, 6, generator=generator)).double()
    weights = torch.randn(6, generator=generator).double()
    model, batches = regression(weights, inputs)

    def optimum(kept):
        row = torch.zeros(6).double()
        row[list(kept)] = torch.linalg.lstsq(inputs[:, list(kept)], (inputs @ weights)[:, None]).solution[:, 0]
        return row

    kept = list(range(6))
    for removed in range(1, 4):
        kept = min((set(kept) - {q} for q in kept), key=lambda left: mean_square(inputs, optimum(sorted(left)) - weights))
        pruned = optimal_brain_surgeon.prune(model, batches, removed / 6, alpha=1e-8, loss=half_square).weight[0].detach()
        assert set(pruned.nonzero().flatten().tolist()) == kept
        torch.testing.assert_close(pruned, optimum(sorted(kept)), rtol=1e-5, atol=1e-6)
    # the paper's point: the smallest magnitude is not the one to delete
    first = optimal_brain_surgeon.prune(model, batches, 1 / 6, alpha=1e-8, loss=half_square).weight[0].detach()
    assert int((first == 0).nonzero()) != int(weights.abs().argmin())


def test_biases_move_but_are_not_deleted():
    # x = (1, 1) and (3, 1) with weights (2, 0.1) and bias 1: deleting 0.1 costs nothing if the bias takes it over
    model = nn.Linear(2, 1).double()
    model.weight.data, model.bias.data = torch.tensor([[2.0, 0.1]]).double(), torch.tensor([1.0]).double()
    inputs = torch.tensor([[1.0, 1.0], [3.0, 1.0]]).double()
    pruned = optimal_brain_surgeon.prune(model, [(inputs, model(inputs).detach())], 0.5, alpha=1e-9, loss=half_square)
    torch.testing.assert_close(pruned.weight, torch.tensor([[2.0, 0.0]]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(pruned.bias, torch.tensor([1.1]).double(), atol=1e-6, rtol=0)


def test_a_fresh_hessian_changes_nothing_where_the_loss_is_a_quadratic_bowl():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 8, generator=generator).double()
    model, batches = regression(torch.randn(8, generator=generator).double(), inputs)
    often, once = (optimal_brain_surgeon.prune(model, batches, 0.5, refresh=every, loss=half_square).weight for every in (1, 100))
    torch.testing.assert_close(often, once)


def test_a_fresh_hessian_is_of_the_weights_as_they_have_moved():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), torch.randn(20, 3).double()
    batches = [(inputs, model(inputs).detach())]
    stale = optimal_brain_surgeon.prune(model, batches, 0.75, refresh=100, loss=half_square)
    fresh = optimal_brain_surgeon.prune(model, batches, 0.75, refresh=1, loss=half_square)
    assert sum(int((w == 0).sum()) for w in prunable_weights(fresh).values()) == 12
    assert half_square(fresh(inputs), batches[0][1]) < half_square(stale(inputs), batches[0][1])


def test_training_holds_what_was_deleted():
    torch.manual_seed(0)
    model, batches = nn.Linear(4, 2), [(torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1]))]
    pruned = optimal_brain_surgeon.prune(model, batches, 0.5, train=lambda network, callbacks: fit(network, batches, 3, callbacks))
    untrained = optimal_brain_surgeon.prune(model, batches, 0.5)
    assert torch.equal(pruned.weight == 0, untrained.weight == 0)
    assert not torch.equal(pruned.weight, untrained.weight)


def test_a_network_too_large_for_its_inverse_and_missing_data_are_refused():
    with pytest.raises(ValueError, match="50010 trainable parameters"):
        optimal_brain_surgeon.prune(nn.Linear(5000, 10), [(torch.zeros(1, 5000), torch.zeros(1).long())], 0.5)
    with pytest.raises(ValueError, match="batches"):
        optimal_brain_surgeon.prune(nn.Linear(2, 2), [], 0.5)


@pytest.mark.claim
def test_deletes_the_right_weights_where_magnitude_and_damage_do_not():
    # The paper's demonstration is XOR. Here with three hidden units, so that weights can go: after training to the minimum,
    # two of nine go at a price that the others' moves keep small.
    inputs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2))).double()
    targets = (inputs[:, :1] * inputs[:, 1:] < 0).double()
    solved = 0
    for seed in itertools.count():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
        batches = [(inputs, targets)]
        fit(model, batches, 1500, optimizer=lambda p: torch.optim.Adam(p, 0.02), loss=half_square)
        if half_square(model(inputs), targets) > 1e-6:
            continue  # a local minimum, which the paper's premise leaves out
        surgeon = optimal_brain_surgeon.prune(model, batches, 2 / 9, refresh=1, alpha=1e-6, loss=half_square)
        errors = [half_square(surgeon(inputs), targets).item()]
        weights = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
        for scores in (weights, optimal_brain_damage.saliency(model, batches, half_square)):
            errors.append(half_square(masked(model, keep_highest(scores, 2 / 9))(inputs), targets).item())
        assert errors[0] < 0.5 * min(errors[1:]), errors
        if (solved := solved + 1) == 3:
            break
