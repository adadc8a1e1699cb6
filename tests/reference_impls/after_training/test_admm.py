"""ADMM pruning (zhang2018systematic): by hand, against brute force and a quadratic problem solved exactly, and by its claim."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import admm
from reference_impls.core.masks import apply_masks
from reference_impls.core.training import HoldMasks, accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # W + U = (1 - 0.8, -0.5 - 0.1, 0.3 + 0.4) = (0.2, -0.6, 0.7); of three, round(3 / 3) = 1 goes: Z = (0, -0.6, 0.7)
    # U + W - Z = (0.2 - 0, -0.6 + 0.6, 0.7 - 0.7) = (0.2, 0, 0)
    targets, duals = admm.update({"a": double(1.0, -0.5, 0.3)}, {"a": double(-0.8, -0.1, 0.4)}, 1 / 3)
    assert targets["a"].tolist() == pytest.approx([0, -0.6, 0.7]) and duals["a"].tolist() == pytest.approx([0.2, 0, 0])
    # 4 / 2 * ((1 - 0.5 + 0.1)^2 + (2 - 0 - 0.5)^2) = 2 * (0.36 + 2.25) = 5.22
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[1.0, 2.0]])
    pull = admm.Pull({"weight": torch.tensor([[0.5, 0.0]])}, {"weight": torch.tensor([[0.1, -0.5]])}, 4.0)
    assert pull.penalty(layer).item() == pytest.approx(5.22)


@pytest.mark.parametrize("pruned", [0, 1, 4, 7])
def test_the_projection_is_the_nearest_of_all_sparse_points(pruned):
    weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(pruned), dtype=torch.float64)
    found = admm.project({"a": weights}, pruned / 8)["a"]
    flat = weights.flatten().tolist()
    tried = {zeros: sum(flat[i] ** 2 for i in zeros) for zeros in itertools.combinations(range(8), pruned)}
    best = min(tried, key=tried.get)
    assert (found - weights).square().sum().item() == pytest.approx(tried[best])
    assert found.flatten().tolist() == [0.0 if i in best else value for i, value in enumerate(flat)]


def test_layers_are_projected_apart():
    targets = admm.project({"small": double(0.1, 0.2), "large": double(3.0, 2.0)}, 0.5)
    assert targets["small"].tolist() == [0, 0.2] and targets["large"].tolist() == [3, 0]


def least_squares(inputs, outputs):
    """A training function that solves exactly: the loss and the pull are quadratic, so one Newton step is enough; then mask and all."""

    def train(model, callbacks=()):
        (callback,) = callbacks
        if isinstance(callback, HoldMasks):
            return model
        weight = model.weight.detach().flatten()

        def total(flat):
            model.weight.data = flat.detach().view_as(model.weight)
            pulled = callback.rho / 2 * (flat - callback.targets["weight"].flatten() + callback.duals["weight"].flatten()).square().sum()
            torch.testing.assert_close(callback.penalty(model), pulled)
            return (inputs @ flat - outputs).square().mean() / 2 + pulled

        slope = torch.autograd.functional.jacobian(total, weight)
        curvature = torch.autograd.functional.hessian(total, weight)
        model.weight.data = (weight - torch.linalg.solve(curvature, slope)).view_as(model.weight)
        return model

    return train


def test_finds_the_best_subset_of_a_regression_where_cutting_does_not():
    # inputs 0 and 1 are almost one: together they carry a weight that neither has in the dense solution
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    inputs[:, 1] = inputs[:, 0] + 0.3 * inputs[:, 1]
    outputs = inputs @ double(0.6, 0.6, 1.3, -0.9, 0.7, 0.1)
    model = nn.Linear(6, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(inputs, outputs).solution[None]
    pruned = admm.prune(model, [], 0.5, train=least_squares(inputs, outputs), iterations=60, rho=1.0)
    X, y = inputs.numpy(), outputs.numpy()
    tried = {kept: np.linalg.lstsq(X[:, kept], y, rcond=None)[1][0] for kept in itertools.combinations(range(6), 3)}
    best = min(tried, key=tried.get)
    assert set(np.argsort(-model.weight.detach().abs().flatten().numpy())[:3]) != set(best)
    assert set(pruned.weight.detach().flatten().nonzero().flatten().tolist()) == set(best)
    # the same numbers by the algorithm written out with numpy
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    z, u = w.copy(), np.zeros(6)
    for _ in range(60):
        w = np.linalg.solve(X.T @ X / 60 + np.eye(6), X.T @ y / 60 + (z - u))
        z = w + u
        z[np.argsort(np.abs(z))[:3]] = 0
        u = u + w - z
    assert np.abs(w - z).max() < 1e-4  # the constraint is met before anything is cut
    w[np.argsort(np.abs(w))[:3]] = 0
    torch.testing.assert_close(pruned.weight.detach().flatten(), torch.from_numpy(w))


@pytest.mark.parametrize(("option", "value"), [("iterations", 0), ("rho", 0.0), ("rho", float("inf")), ("rho", float("nan"))])
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ValueError, match=option):
        admm.prune(mlp(), [], 0.5, train=lambda model, callbacks: model, **{option: value})


def test_trains_once_per_iteration_and_once_with_the_mask_of_the_last_weights():
    seen = []

    def train(model, callbacks=()):
        seen.append(type(callbacks[0]))
        if seen[-1] is admm.Pull:
            model[1].weight.data = torch.tensor([[0.3, -0.1], [0.2, 0.4]]) * len(seen)
        return model

    pruned = admm.prune(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), [], 0.5, train=train, iterations=2)
    assert seen == [admm.Pull, admm.Pull, HoldMasks]
    torch.testing.assert_close(pruned[1].weight.detach(), torch.tensor([[0.6, 0.0], [0.0, 0.8]]))


@pytest.mark.claim
def test_cutting_costs_little_once_the_weights_have_been_pulled():
    # one weight in twenty stays. The rival trains as long without pull, is cut by magnitude layer by layer, and trains with its mask
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, slow = batches(test_inputs, test_targets, 360), partial(momentum_sgd, learning_rate=0.05)
    found = {"pulled, cut": 0.0, "pulled": 0.0, "plain, cut": 0.0, "plain": 0.0}
    for seed in range(3):
        data = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(mlp((64, 60, 10), generator=torch.Generator().manual_seed(seed)), data, 8, optimizer=slow)
        cut = []

        def train(network, callbacks=(), data=data, cut=cut):
            if isinstance(callbacks[0], HoldMasks):
                cut.append(accuracy(network, test))
            return fit(network, data, 2, callbacks, optimizer=slow)

        pruned = admm.prune(model, data, 0.95, train=train, iterations=6, rho=0.1)
        plain = fit(copy.deepcopy(model), data, 12, optimizer=slow)
        masks = admm.largest({name: weight.detach() for name, weight in plain.named_parameters() if weight.dim() > 1}, 0.95)
        apply_masks(plain, masks)
        found["pulled, cut"] += cut[0] / 3
        found["plain, cut"] += accuracy(plain, test) / 3
        found["pulled"] += accuracy(pruned, test) / 3
        found["plain"] += accuracy(fit(plain, data, 2, [HoldMasks(masks)], optimizer=slow), test) / 3
    assert found["pulled, cut"] > found["plain, cut"] + 0.3
    assert found["pulled"] > found["plain"] + 0.08
    assert found["pulled, cut"] > 0.85
