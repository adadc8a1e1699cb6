"""Signal propagation (lee2020signal): by hand, by singular values of the Jacobian, against a finite difference, and its claim."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.before_training import orthogonal_signal, snip
from reference_impls.core.masks import apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits


def all_kept(model):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}


def deep_linear(depth=5, width=12):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth))).double()


def singular_values(model):
    return torch.linalg.svdvals(torch.autograd.functional.jacobian(model, torch.zeros(12, dtype=torch.float64)))


def test_one_step_by_hand():
    # W = diag(2, 1): W^T W - I = E = diag(3, 0), norm 3; its derivative 2 W E / norm = diag(4, 0): 2 - 0.1 * 4 = 1.6
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert orthogonal_signal.isometry_gap(model.weight) == 3
    orthogonal_signal.enforce_isometry(model, all_kept(model), steps=1)
    torch.testing.assert_close(model.weight.data, torch.tensor([[1.6, 0.0], [0.0, 1.0]]))
    # once more with step 0.5: E = 1.6^2 - 1 = 1.56, derivative 2 * 1.6 * 1.56 / 1.56 = 3.2: 1.6 - 0.5 * 3.2 = 0
    orthogonal_signal.enforce_isometry(model, all_kept(model), steps=1, step=0.5)
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_the_columns_of_the_matrix_are_outputs_by_hand():
    # one output, two inputs (3/5, 4/5): its length is 1, the gap 0. Two outputs of one input cannot be orthonormal: for weights 1 and 1
    # W^T W = [[1, 1], [1, 1]], and two entries of 1 differ: the gap is sqrt(2)
    assert orthogonal_signal.isometry_gap(torch.tensor([[0.6, 0.8]])) == pytest.approx(0, abs=1e-6)
    assert orthogonal_signal.isometry_gap(torch.ones(2, 1)) == pytest.approx(2**0.5)
    # a kernel (1 output, 2 inputs, 1 x 2) with entries 1/2 has length 1 as well
    assert orthogonal_signal.isometry_gap(torch.full((1, 2, 1, 2), 0.5)) == 0


def test_pruned_weights_stay_zero_and_do_not_pull():
    # only w = 2 is kept of the first output: (2^2 - 1) = 3; the second output's 1 is orthonormal already: as in the first test
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[2.0, 7.0], [0.0, 1.0]])
    orthogonal_signal.enforce_isometry(model, {"weight": torch.tensor([[True, False], [True, True]])}, steps=1)
    torch.testing.assert_close(model.weight.data, torch.tensor([[1.6, 0.0], [0.0, 1.0]]))


def test_drawn_layers_preserve_all_lengths():
    model = deep_linear()
    before = copy.deepcopy(model)
    orthogonal_signal.draw_orthogonal(model, torch.Generator().manual_seed(0))
    torch.testing.assert_close(singular_values(model), torch.ones(12, dtype=torch.float64), atol=1e-5, rtol=0)
    assert singular_values(before).max() < 0.5
    assert all(orthogonal_signal.isometry_gap(layer.weight) < 1e-5 for layer in model)
    convolution = nn.Conv2d(3, 8, 3).double()
    orthogonal_signal.draw_orthogonal(convolution, torch.Generator().manual_seed(0))
    matrix = convolution.weight.detach().flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)
    again = nn.Conv2d(3, 8, 3).double()
    orthogonal_signal.draw_orthogonal(again, torch.Generator().manual_seed(0))
    assert torch.equal(again.weight, convolution.weight)


def test_pruning_breaks_isometry_and_the_steps_bring_it_back():
    # the paper's measure: how far the singular values of the whole network's Jacobian lie from 1
    data = [(torch.randn(20, 12, dtype=torch.float64), torch.randint(12, (20,)))]
    distance = {}
    for steps in (0, 200):
        pruned = orthogonal_signal.prune(deep_linear(), data, 0.6, steps=steps, generator=torch.Generator().manual_seed(0))
        distance[steps] = float((singular_values(pruned) - 1).square().mean())
        assert sum(int((weight == 0).sum()) for weight in prunable_weights(pruned).values()) == round(0.6 * 5 * 144)
    assert distance[0] > 0.5
    assert distance[200] < distance[0] / 2


def test_sensitivity_is_that_of_the_orthogonal_network_and_training_holds_its_masks():
    model, data = deep_linear(), [(torch.randn(20, 12, dtype=torch.float64), torch.randint(12, (20,)))]
    drawn = copy.deepcopy(model)
    orthogonal_signal.draw_orthogonal(drawn, torch.Generator().manual_seed(3))
    kept = keep_highest(snip.connection_sensitivity(drawn, data), 0.5)
    seen = []

    def train(network, callbacks):
        seen.extend(callbacks)
        return network

    pruned = orthogonal_signal.prune(model, data, 0.5, train=train, steps=0, generator=torch.Generator().manual_seed(3))
    apply_masks(drawn, kept)
    for name, weight in prunable_weights(pruned).items():
        assert torch.equal(weight, drawn.get_parameter(name))
        assert torch.equal(seen[0].masks[name], kept[name])
    with pytest.raises(ValueError, match="steps"):
        orthogonal_signal.prune(model, data, 0.5, steps=-1)


@pytest.mark.claim
def test_a_deep_network_trains_only_if_isometry_is_restored_after_pruning():
    train, test = digits()
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        layers = [layer for _ in range(7) for layer in (nn.Linear(64, 64), nn.Tanh())]
        model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))

        def learn(network, callbacks, data=data):
            return fit(network, data, 4, callbacks, optimizer=lambda parameters: momentum_sgd(parameters, 0.05))

        def reached(steps, model=model, data=data, learn=learn, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            return accuracy(orthogonal_signal.prune(model, data[:6], 0.9, steps=steps, train=learn, generator=generator), [test])

        plain = accuracy(learn(copy.deepcopy(model), [HoldMasks(snip.masks(model, data[:6], 0.9))]), [test])
        assert reached(300) > 0.5 + max(reached(0), plain)
