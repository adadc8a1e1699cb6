"""SparseGPT (frantar2023sparsegpt): by hand, against the authors' code, against least squares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.after_training import sparsegpt
from reference_impls.core.amounts import NM
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import cross_entropy, fit
from reference_impls.zoo import data, networks

ORACLE = Path(__file__).parents[2] / "oracle"


def problem(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(200, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)).double()
    return torch.randn(rows, columns, generator=generator).double(), inputs, 2 * inputs.mT @ inputs


def best(weight, inputs, free, fixed):
    """The row that reproduces weight's outputs best when only `free` columns may move and the others are `fixed`."""
    wanted = inputs @ (weight - fixed.masked_fill(free, 0))
    row = fixed.clone()
    row[free] = torch.linalg.lstsq(inputs[:, free], wanted[:, None]).solution[:, 0]
    return row


def test_by_hand():
    # H = ((2, 1), (1, 2)), H^-1 = ((2, -1), (-1, 2)) / 3, so U^T U = H^-1 has U_00^2 = 2/3, and U_11^2 = 1 / H_11 = 1/2.
    # Saliencies w^2 / U_jj^2: 1 / (2/3) = 1.5 and 4 / (1/2) = 8: the first goes.
    # dw_1 = - w_0 [H^-1]_01 / [H^-1]_00 = -1 * (-1/2) = 1/2, so the row becomes (0, 2.5).
    weight, hessian = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    pruned = sparsegpt.prune_matrix(weight, hessian, 0.5, dampening=0.0)
    torch.testing.assert_close(pruned, torch.tensor([[0.0, 2.5]]))
    # (2, 1): 4 / (2/3) = 6 and 1 / (1/2) = 2: the second goes, and nothing to its right can make up for it
    pruned = sparsegpt.prune_matrix(torch.tensor([[2.0, 1.0]]), hessian, 0.5, dampening=0.0)
    torch.testing.assert_close(pruned, torch.tensor([[2.0, 0.0]]))
    # one of two is the same choice here
    torch.testing.assert_close(sparsegpt.prune_matrix(weight, hessian, NM(1, 2), dampening=0.0), torch.tensor([[0.0, 2.5]]))


def test_same_weights_as_the_authors_code():
    # its rule is one more than int(0.5 * 2048): 1025 weights
    frozen = {key: torch.from_numpy(value) for key, value in np.load(ORACLE / "sparsegpt_unstr50.npz").items()}
    pruned = sparsegpt.prune_matrix(frozen["W"], frozen["H"], 1025 / 2048)
    assert torch.equal(pruned == 0, frozen["pruned_mask"])
    torch.testing.assert_close(pruned, frozen["W_pruned"], rtol=1e-3, atol=1e-4)


def test_same_weights_as_the_authors_code_for_two_of_four_from_inputs_on():
    frozen = {key: torch.from_numpy(value) for key, value in np.load(ORACLE / "sparsegpt_nm2_4.npz").items()}
    model = nn.Linear(64, 32, bias=False)
    model.weight.data = frozen["W"]
    pruned = sparsegpt.prune(model, [(x[None], None) for x in frozen["X"]], NM(2, 4)).weight.detach()
    assert torch.equal(pruned == 0, frozen["pruned_mask"])
    torch.testing.assert_close(pruned, frozen["W_pruned"], rtol=1e-3, atol=1e-4)


def test_where_the_first_columns_go_the_rest_is_the_least_squares_optimum():
    # every column to the right may still move, so Optimal Brain Surgeon's answer is reached exactly
    weight, inputs, hessian = problem(1, 8)
    weight[:, :3] *= 1e-3
    pruned = sparsegpt.prune_matrix(weight, hessian, 3 / 8, dampening=0.0)
    assert pruned[0].nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    torch.testing.assert_close(pruned[0], best(weight[0], inputs, pruned[0] != 0, torch.zeros(8).double()))


@pytest.mark.parametrize("amount", [0.5, NM(2, 4)])
def test_columns_right_of_the_last_pruned_one_are_optimal_given_those_left_of_it(amount):
    weight, inputs, hessian = problem(12, 12, seed=1)
    pruned = sparsegpt.prune_matrix(weight, hessian, amount, block_size=4, dampening=0.0)
    checked = 0
    for before, row in zip(weight, pruned, strict=True):
        last = int((row == 0).nonzero()[-1])
        free = torch.arange(12) > last
        checked += int(free.sum())
        torch.testing.assert_close(row, best(before, inputs, free, row) if free.any() else row)
    assert checked > 3


def test_lazy_updates_change_nothing_but_the_cost():
    weight, _, hessian = problem(6, 24, seed=2)
    whole, eights, fours = (sparsegpt.prune_matrix(weight, hessian, NM(2, 4), block_size=size) for size in (24, 8, 4))
    torch.testing.assert_close(eights, whole)
    torch.testing.assert_close(fours, whole)


def test_masks_are_chosen_from_updated_weights_within_blocks():
    # columns 0 and 2 carry nearly the same input: what column 0 loses column 2 takes over, 0.9 + 1 = 1.9,
    # so of block (2, 3) the column 3 with weight 1.5 goes; from the old weights it would be column 2
    inputs = torch.eye(4).double()
    inputs[2, 0] = inputs[0, 2] = 1 - 1e-9
    weight = torch.tensor([[0.9, 5.0, 1.0, 1.5]]).double()
    hessian = inputs + torch.diag(torch.full((4,), 1e-3).double())
    pruned = sparsegpt.prune_matrix(weight, hessian, 0.5, block_size=2, dampening=0.0)
    assert (pruned == 0).tolist() == [[True, False, False, True]]
    assert pruned[0, 2].item() == pytest.approx(1.9, abs=2e-3)


def test_counts_of_blocks_add_up_to_the_layers():
    # 3 rows, blocks of 4, 4 and 3 columns: round(0.3 * 12) = 4, round(0.3 * 24) = 7, round(0.3 * 33) = 10
    weight, _, hessian = problem(3, 11, seed=3)
    zeros = sparsegpt.prune_matrix(weight, hessian, 0.3, block_size=4) == 0
    assert [int(zeros[:, start : start + 4].sum()) for start in (0, 4, 8)] == [4, 3, 3]


def test_a_block_may_go_as_a_whole():
    # blocks of one column of one row: round(0.5) = 0, round(1) = 1, round(1.5) = 2, round(2) = 2 are gone after each
    weight, _, hessian = problem(1, 4, seed=3)
    assert (sparsegpt.prune_matrix(weight, hessian, 0.5, block_size=1) == 0).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("scale", [100, 1e-6])
def test_a_silent_input_goes_first_and_leaves_the_rest_alone(scale):
    weight, _, hessian = problem(2, 4, seed=4)
    hessian[1], hessian[:, 1] = 0, 0
    pruned = sparsegpt.prune_matrix(weight * scale, hessian, 0.25)
    assert (pruned == 0).tolist() == [[False, True, False, False]] * 2
    torch.testing.assert_close(pruned[:, [0, 2, 3]], scale * weight[:, [0, 2, 3]], rtol=1e-9, atol=0)


def test_a_convolution_is_pruned_along_its_input_channels():
    torch.manual_seed(0)
    model = nn.Conv2d(8, 6, 3, groups=2)
    pruned = sparsegpt.prune(model, [(torch.randn(4, 8, 6, 6), None)], NM(2, 4))
    assert ((pruned.weight != 0).sum(1) == 2).all()


def test_a_singular_hessian_asks_for_dampening():
    with pytest.raises(ValueError, match="dampening"):
        sparsegpt.prune_matrix(torch.ones(1, 2), torch.ones(2, 2), 0.5, dampening=0.0)


@pytest.mark.claim
def test_loses_far_less_in_one_shot_than_magnitude_and_than_its_own_mask_without_the_update():
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = data.sequences(320, 24, 64, generator)
        batches = data.batches(inputs[:256], targets[:256], 32)
        model = fit(networks.gpt_small(generator=generator), batches, 10, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
        pruned = prunable_weights(sparsegpt.prune(model, batches, 0.7))
        dense = {name: weight.detach() for name, weight in prunable_weights(model).items()}
        small = sparsegpt.keep_highest({name: weight.abs() for name, weight in dense.items()}, 0.7, "layer")

        def rise(weights, model=model, inputs=inputs, targets=targets):
            with torch.no_grad():
                loss = [cross_entropy(functional_call(model, part, (inputs[256:],)), targets[256:]) for part in (weights, {})]
            return (loss[0] - loss[1]).item()

        stale = rise({name: (weight != 0) * dense[name] for name, weight in pruned.items()})
        magnitude = rise({name: mask * dense[name] for name, mask in small.items()})
        assert rise(pruned) < 0.6 * min(stale, magnitude)
