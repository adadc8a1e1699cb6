"""OBC (frantar2022optimal): by hand, against frozen outputs of the authors' code and least squares, and what it is worth on digits."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import sparsegpt
from reference_impls.core.amounts import NM
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.fusion import optimal_brain_compression as obc
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

ORACLE = Path(__file__).parents[2] / "oracle"


def frozen(name):
    return {key: torch.from_numpy(value) for key, value in np.load(ORACLE / f"obc_linear_{name}.npz").items()}


def problem(rows=3, columns=6, samples=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64) @ torch.randn(
        columns, columns, generator=generator, dtype=torch.float64
    )
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), inputs, 2 * inputs.T @ inputs


def test_two_removals_by_hand():
    # H = (2 1; 1 2), H^-1 = (2 -1; -1 2) / 3, w = (1, 2). w^2 / d: 1.5 and 6, so the first goes for 0.75, and the second becomes
    # 2 - 1 / (2/3) * (-1/3) = 2.5. What is left of H^-1 is 2/3 - 1/6 = 1/2: 6.25 / 0.5 / 2 = 6.25
    weight, hessian = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    order, prices = obc.removals(weight, obc.inverse_of(hessian, 0))
    assert order.tolist() == [[0, 1]]
    torch.testing.assert_close(prices, torch.tensor([[0.75, 6.25]], dtype=torch.float64))
    torch.testing.assert_close(obc.prune_matrix(weight, hessian, 0.5, dampening=0), torch.tensor([[0, 2.5]]))


def test_a_rounding_by_hand():
    # two bits, between -1 and 2: steps of 1 from -1. H as above, w = (-1, 2) lies on the grid, so nothing moves
    hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert obc.quantize_matrix(torch.tensor([[-1.0, 2.0]]), hessian, 2, dampening=0).tolist() == [[-1, 2]]
    # between 0 and 3: w = (0.3, 3, 1.4) with H = (2 0 1; 0 2 0; 1 0 2). (w - q)^2 / d: 0.09 * 1.5, 0 and 0.16 * 1.5. The 3 costs nothing;
    # then the first becomes 0, and 1.4 goes to 1.4 - (0.3 - 0) / (2/3) * (-1/3) = 1.55: 2, where alone it was 1
    hessian = torch.tensor([[2.0, 0, 1], [0, 2, 0], [1, 0, 2]])
    assert obc.quantize_matrix(torch.tensor([[0.3, 3, 1.4]]), hessian, 2, dampening=0).tolist() == [[0, 3, 2]]


def test_the_grid_by_hand():
    # two bits: three steps. -1..2: step 1, zero point 1. 1..4: zero belongs to it, step 4/3, zero point 0. Nothing but 0: -1..1
    step, zero = obc.grid_of(torch.tensor([[-1.0, 2, 0], [1, 4, 2], [0, 0, 0], [-3, -1, -2]]), 2)
    torch.testing.assert_close(step, torch.tensor([[1], [4 / 3], [2 / 3], [1]]))
    assert zero.tolist() == [[1], [0], [2], [3]]
    assert obc.nearest(torch.tensor([[-5.0, 0.4, 0.6, 9]]), step[:1], zero[:1], 2).tolist() == [[-1, 0, 1, 2]]


def test_same_matrices_as_the_authors_code():
    given = frozen("unstr")
    order, prices = obc.removals(given["W"], obc.inverse_of(given["H"], 0))
    torch.testing.assert_close(prices.float(), given["Losses"][:, 1:], rtol=1e-4, atol=1e-4)
    assert order.sort(1).values.equal(torch.arange(24).expand(12, -1))
    for fraction in (0.25, 0.5, 0.75):
        ours, theirs = obc.prune_matrix(given["W"], given["H"], fraction, dampening=0), given[f"W_{fraction * 100:.0f}"]
        assert torch.equal(ours == 0, theirs == 0)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    given = frozen("nm2_4")
    torch.testing.assert_close(obc.prune_matrix(given["W"], given["H"], NM(2, 4), dampening=0), given["W_pruned"], rtol=1e-4, atol=1e-5)
    given = frozen("quant4")
    torch.testing.assert_close(obc.quantize_matrix(given["W"], given["H"], 4, dampening=0), given["W_q"], rtol=1e-4, atol=1e-5)


def test_each_removal_is_the_cheapest_and_the_rest_is_at_its_least_error():
    weight, inputs, hessian = problem(rows=1)
    order, prices = obc.removals(weight, obc.inverse_of(hessian, 0))
    target = inputs @ weight[0]

    def fitted(gone):
        kept = [column for column in range(6) if column not in gone]
        solution = torch.linalg.lstsq(inputs[:, kept], target[:, None]).solution[:, 0]
        return kept, solution, (inputs[:, kept] @ solution - target).square().sum().item()

    gone, spent = [], 0.0
    for column, price in zip(order[0].tolist(), prices[0].tolist(), strict=True):
        rises = {other: fitted([*gone, other])[2] - spent for other in range(6) if other not in gone}
        assert column == min(rises, key=rises.get)
        assert price == pytest.approx(rises[column], rel=1e-6)
        gone.append(column)
        spent += price
        mask = torch.zeros(6, dtype=torch.bool)
        mask[gone] = True
        kept, solution, _ = fitted(gone)
        torch.testing.assert_close(obc.without(weight[0], obc.inverse_of(hessian, 0), mask)[kept], solution)
    # all that is lost in the end is the whole output
    assert spent == pytest.approx(target.square().sum().item())


@pytest.mark.parametrize("seed", range(6))
def test_quantizing_what_is_pruned_is_greedy_least_squares_on_what_is_open(seed):
    weight, inputs, hessian = problem(rows=2, columns=7, seed=seed)
    weight[0, 2], weight[1, 4], weight[1, 5] = 0, 0, 0
    ours = obc.quantize_matrix(weight, hessian, 3, dampening=0)
    for row, found in zip(weight, ours, strict=True):
        low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
        step = (high - low) / 7
        zero = round(-low / step)
        on_grid = lambda value, step=step, zero=zero: step * (min(max(round(value / step) + zero, 0), 7) - zero)
        fixed = {column: 0.0 for column in range(7) if row[column] == 0}
        target, now = inputs @ row, row.clone()
        while len(fixed) < 7:
            free = [column for column in range(7) if column not in fixed]
            curve = torch.linalg.inv(hessian[free][:, free]).diagonal()
            errors = [abs(float(now[column]) - on_grid(float(now[column]))) for column in free]
            prices = [error**2 / float(d) for error, d in zip(errors, curve, strict=True)]
            place = errors.index(max(errors)) if max(errors) > step / 2 else prices.index(min(prices))
            fixed[free[place]] = on_grid(float(now[free[place]]))
            free.pop(place)
            for column, value in fixed.items():
                now[column] = value
            if free:
                rest = target - inputs[:, list(fixed)] @ torch.tensor(list(fixed.values()), dtype=torch.float64)
                now[free] = torch.linalg.lstsq(inputs[:, free], rest[:, None]).solution[:, 0]
        torch.testing.assert_close(found, now)
    assert (ours == 0)[weight == 0].all()


def test_inputs_that_are_always_zero_lose_their_weights_first():
    weight, inputs, _ = problem()
    inputs[:, 4] = 0
    weight[:, 4] = 100
    pruned = obc.prune_matrix(weight, 2 * inputs.T @ inputs, 3 / 18)
    assert (pruned == 0).nonzero().tolist() == [[0, 4], [1, 4], [2, 4]]
    torch.testing.assert_close(pruned[:, [0, 1, 2, 3, 5]], weight[:, [0, 1, 2, 3, 5]])


def test_layers_are_independent_and_the_data_makes_their_hessians():
    model = nn.Sequential(nn.Conv2d(2, 3, 2, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double()
    inputs = torch.randn(30, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calibration = [(inputs[:10], None), (inputs[10:], None)]
    pruned = obc.prune(model, calibration, 0.5, bits=4)
    hidden = model[:3](inputs).detach()
    patches = nn.functional.unfold(inputs, 2).view(30, 2, 4, 4).permute(0, 3, 2, 1).reshape(-1, 8)
    for name, columns in (("0", patches), ("3", hidden)):
        before = model.get_submodule(name).weight.detach()
        matrix = before.movedim(1, -1).flatten(1)
        hessian = 2 * columns.T @ columns
        expected = obc.quantize_matrix(obc.prune_matrix(matrix, hessian, 0.5), hessian, 4)
        torch.testing.assert_close(pruned.get_submodule(name).weight.detach().movedim(1, -1).flatten(1), expected)
        assert all(len(row.unique()) <= 16 for row in expected)
    torch.testing.assert_close(obc.prune(model, calibration, 0.0)[3].weight, model[3].weight, rtol=0, atol=0)


@pytest.mark.parametrize(("amount", "kept"), [(NM(1, 4), 1), (NM(3, 4), 3)])
def test_keeps_n_of_every_m(amount, kept):
    weight, _, hessian = problem(rows=5, columns=16, samples=60)
    pruned = obc.prune_matrix(weight, hessian, amount)
    assert ((pruned != 0).view(5, 4, 4).sum(2) == kept).all()


def test_refuses_what_it_cannot_do():
    model, data = mlp([6, 4, 3]), [(torch.randn(3, 6), None)]
    with pytest.raises(ValueError, match="dampening"):
        obc.prune(model, data, 0.5, dampening=0)  # three examples of six inputs
    with pytest.raises(ValueError, match="bits: 0"):
        obc.prune(model, data, 0.5, bits=0)
    with pytest.raises(ValueError, match="batches"):
        obc.prune(model, [], 0.5)
    with pytest.raises(ValueError, match=r"amount: 2:4 does not fit 1\.weight, with 6 inputs"):
        obc.prune(model, data, NM(2, 4))
    with pytest.raises(ValueError, match="amount: 2:4 does not fit 6 inputs"):
        obc.prune_matrix(torch.ones(2, 6), torch.eye(6), NM(2, 4))
    assert obc.prune(model, data, 0.5, bits=1) is not model


@pytest.mark.claim
def test_without_retraining_it_beats_magnitude_one_order_for_all_rows_and_rounding_to_the_nearest():
    # a tenth of the weights is left; SparseGPT shares one order of removal among the rows, which is what saves its time
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        model = fit(mlp([64, 32, 32, 10], generator=generator), data, 10, optimizer=partial(momentum_sgd, learning_rate=0.05))
        magnitude = masked(model, keep_highest({n: w.detach().abs() for n, w in prunable_weights(model).items()}, 0.9, "layer"))
        in_one_order = sparsegpt.prune(model, data[:8], 0.9)
        others = max(accuracy(magnitude, [test]), accuracy(in_one_order, [test]))
        assert accuracy(obc.prune(model, data[:8], 0.9), [test]) > 0.15 + others
        rounded = obc.prune(model, data[:8], 0.0, bits=2)
        for layer in (layer for layer in model if isinstance(layer, nn.Linear)):
            step, zero = obc.grid_of(layer.weight.detach(), 2)
            layer.weight.data = obc.nearest(layer.weight.detach(), step, zero, 2)
        assert accuracy(rounded, [test]) > 0.03 + accuracy(model, [test])
