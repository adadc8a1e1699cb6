"""Masks: by hand, against brute force, torch.nn.utils.prune and JaxPruner; ties; what may be pruned."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from reference_impls.core.amounts import NM, Budget
from reference_impls.core.masks import apply_masks, keep_highest, keep_n_of_m, keep_units, masked, prunable_weights, sparsity_of

ORACLE = Path(__file__).parents[2] / "oracle"
SCORES = {"a": torch.tensor([[1.0, 8.0], [3.0, 4.0]]), "b": torch.tensor([[2.0, 7.0, 6.0, 5.0]])}


def lists(masks):
    return {name: mask.tolist() for name, mask in masks.items()}


def test_the_lowest_of_the_whole_network_go_by_hand():
    # of 1 8 3 4 2 7 6 5 the three lowest: 1, 2, 3
    assert lists(keep_highest(SCORES, 3 / 8)) == {"a": [[False, True], [False, True]], "b": [[False, True, True, True]]}


def test_the_lowest_of_each_layer_go_by_hand():
    # half of each: 1 and 3; 2 and 5
    assert lists(keep_highest(SCORES, 0.5, "layer")) == {"a": [[False, True], [False, True]], "b": [[False, True, True, False]]}


def test_the_lowest_of_each_row_go_by_hand():
    # half of each row: 1 of (1, 8), 3 of (3, 4); 2 and 5
    assert lists(keep_highest(SCORES, 0.5, "row")) == {"a": [[False, True], [False, True]], "b": [[False, True, True, False]]}
    # (1, 8), (3, 4) by layer would prune 1 and 3 too, so rows need an example of their own: (8, 9) loses 8 though 8 > 2
    assert keep_highest({"a": torch.tensor([[1.0, 2.0], [8.0, 9.0]])}, 0.5, "row")["a"].tolist() == [[False, True], [False, True]]


def test_a_row_of_a_convolution_is_all_that_enters_one_filter():
    score = torch.arange(16.0).view(2, 2, 2, 2)
    assert keep_highest({"a": score}, 0.5, "row")["a"].flatten(1).sum(1).tolist() == [4, 4]
    assert keep_highest({"a": score}, 0.5, "layer")["a"].flatten(1).sum(1).tolist() == [0, 8]


def test_n_are_kept_of_m_by_hand():
    # 1 of every 4: 9 and 7; 3 of 4: all but 1 and all but 4
    score = torch.tensor([[1.0, 9.0, 3.0, 2.0, 6.0, 5.0, 4.0, 7.0]])
    assert keep_highest({"a": score}, NM(1, 4))["a"].tolist() == [[False, True, False, False, False, False, False, True]]
    assert keep_highest({"a": score}, NM(3, 4))["a"].tolist() == [[False, True, True, True, True, True, False, True]]


def test_a_convolution_is_grouped_along_its_input_channels_by_hand():
    # two inputs, kernel 1 x 2: groups are (1, 3) and (4, 2), not the kernel's (1, 4) and (3, 2)
    score = torch.tensor([1.0, 4.0, 3.0, 2.0]).view(1, 2, 1, 2)
    assert keep_n_of_m(score, NM(1, 2)).flatten().tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(6, 8), (3, 8, 3), (3, 8, 3, 3), (2, 8, 2, 3, 1)])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8), (8, 8), (1, 8)])
def test_n_of_m_equals_a_loop_over_all_groups(shape, n, m):
    score = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(shape, dtype=torch.bool)
    for out, group, *place in itertools.product(range(shape[0]), range(8 // m), *(range(size) for size in shape[2:])):
        inputs = sorted(range(group * m, group * m + m), key=lambda inward: -score[(out, inward, *place)])
        for inward in inputs[:n]:
            expected[(out, inward, *place)] = True
    found = keep_n_of_m(score, NM(n, m))
    assert torch.equal(found, expected)
    assert found.is_contiguous()


def test_of_equal_scores_the_first_go():
    assert keep_highest({"a": torch.ones(2, 3), "b": torch.ones(2)}, 0.5)["a"].tolist() == [[False, False, False], [False, True, True]]
    assert keep_highest({"a": torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])}, 0.6)["a"].tolist() == [[True, False, False, True, False]]
    assert keep_n_of_m(torch.ones(1, 4), NM(2, 4)).tolist() == [[False, False, True, True]]


few = st.lists(st.sampled_from([-torch.inf, -1.0, 0.0, 0.5, 0.5, 2.0, torch.inf]), min_size=1, max_size=12)  # many ties


@given(st.lists(few, min_size=1, max_size=3), st.floats(0, 1, exclude_max=True))
def test_equals_a_stable_sort_with_any_ties(layers, amount):
    scores = {str(place): torch.tensor([layer]) for place, layer in enumerate(layers)}
    flat = [value for layer in layers for value in layer]
    gone = sorted(range(len(flat)), key=lambda place: flat[place])[: round(amount * len(flat))]
    found = torch.cat([mask.flatten() for mask in keep_highest(scores, amount).values()])
    assert [place for place in range(len(flat)) if not found[place]] == sorted(gone)
    for name, layer in zip(scores, layers, strict=True):
        gone = sorted(range(len(layer)), key=lambda place: layer[place])[: round(amount * len(layer))]
        for group in ("layer", "row"):
            found = keep_highest({name: scores[name]}, amount, group)[name][0]
            assert [place for place in range(len(layer)) if not found[place]] == sorted(gone)


@given(st.lists(few, min_size=1, max_size=3), st.floats(0, 1, exclude_max=True))
def test_what_is_kept_is_worth_most_of_all_masks_of_that_size(layers, amount):
    # brute force: no other choice of as many weights has a higher sum
    flat = [min(max(value, -9), 9) for layer in layers for value in layer][:8]
    found = keep_highest({"a": torch.tensor([flat])}, amount)["a"][0]
    kept = sum(value for value, keep in zip(flat, found, strict=True) if keep)
    assert kept == max(sum(choice) for choice in itertools.combinations(flat, len(flat) - round(amount * len(flat))))


@pytest.mark.parametrize("amount", [0.0, 0.13, 0.5, 0.97])
def test_same_as_torch_pruning_by_magnitude(amount):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 7))
    scores = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
    whole, each = copy.deepcopy(model), copy.deepcopy(model)
    prune.global_unstructured([(whole[0], "weight"), (whole[2], "weight")], prune.L1Unstructured, amount=amount)
    for place, name in ((0, "0.weight"), (2, "2.weight")):
        assert torch.equal(keep_highest(scores, amount)[name], whole[place].weight_mask.bool())
        prune.l1_unstructured(each[place], "weight", amount)
        assert torch.equal(keep_highest(scores, amount, "layer")[name], each[place].weight_mask.bool())


@pytest.mark.parametrize("amount", [0.5, 0.9])
def test_same_as_jaxpruner_layer_by_layer(amount):
    case = {name: torch.from_numpy(array) for name, array in np.load(ORACLE / "jaxpruner_masks.npz").items()}
    layers = ("conv1", "conv2", "fc1", "fc2")
    magnitude = {name: case[f"W.{name}"].abs() for name in layers}
    saliency = {name: (case[f"W.{name}"] * case[f"grad.{name}"]).abs() for name in layers}
    for criterion, scores in (("magnitude", magnitude), ("saliency", saliency)):
        for name, mask in keep_highest(scores, amount, "layer").items():
            assert torch.equal(mask, case[f"{criterion}_{amount}.{name}"].bool())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_precision(dtype):
    scores = {"a": torch.arange(8, dtype=dtype).view(2, 4)}
    assert keep_highest(scores, 0.5)["a"].sum(1).tolist() == [0, 4]
    assert keep_highest(scores, NM(2, 4))["a"].sum(1).tolist() == [2, 2]


def test_refuses_what_has_no_order_or_no_group():
    with pytest.raises(ValueError, match="scores: NaN"):
        keep_highest({"a": torch.tensor([[1.0, torch.nan]])}, 0.5)
    with pytest.raises(ValueError, match="group: 'column'"):
        keep_highest(SCORES, 0.5, "column")
    with pytest.raises(ValueError, match="amount"):
        keep_highest(SCORES, Budget(macs=3))
    with pytest.raises(ValueError, match=r"amount: 2:4 does not fit deep\.weight, whose 6 inputs"):
        keep_highest({"deep.weight": torch.ones(4, 6)}, NM(2, 4))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 2)
        self.again.weight = self.first.weight
        self.frozen.weight.requires_grad_(False)


def test_prunable_are_trainable_linear_and_convolution_weights_each_once():
    model = Model()
    assert list(prunable_weights(model)) == ["convolution.weight", "first.weight"]
    assert prunable_weights(model)["first.weight"] is model.again.weight
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]


def test_refuses_a_model_without_a_weight_to_prune_or_with_a_broken_one():
    with pytest.raises(ValueError, match="model: no trainable"):
        prunable_weights(nn.Sequential(nn.LayerNorm(3), nn.Embedding(3, 3)))
    for broken in (torch.nan, torch.inf):
        model = nn.Sequential(nn.Linear(2, 2))
        model[0].weight.data[1, 0] = broken
        with pytest.raises(ValueError, match=r"model: 0\.weight holds NaN or infinity"):
            prunable_weights(model)


def test_applying_masks_zeroes_the_pruned_weights_only():
    model = Model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    pruned = masked(model, {"first.weight": mask})
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(pruned.first.weight, torch.where(mask, state["first.weight"], torch.zeros(())))
    assert not pruned.first.weight[~mask].signbit().any()  # no -0.0
    assert pruned.again.weight is pruned.first.weight
    assert all(torch.equal(t, state[name]) for name, t in pruned.state_dict().items() if name not in ("first.weight", "again.weight"))
    apply_masks(model, {"first.weight": mask})
    assert torch.equal(model.first.weight, pruned.first.weight)
    assert model.first.weight.requires_grad and model.first.weight.is_leaf


@pytest.mark.parametrize("masks", [{"nowhere.weight": torch.ones(4, 4).bool()}, {"first.weight": torch.ones(4).bool()}])
def test_refuses_masks_that_fit_no_parameter(masks):
    with pytest.raises(ValueError, match=next(iter(masks))):
        apply_masks(Model(), masks)


def test_sparsity_weighs_layers_by_their_size_by_hand():
    # 1 of 4 and 6 of 6 are pruned: 7 of 10
    masks = {"a": torch.tensor([True, True, True, False]), "b": torch.zeros(2, 3, dtype=torch.bool)}
    assert sparsity_of(masks) == pytest.approx(0.7)


def test_units_go_lowest_first_but_each_layer_keeps_one_by_hand():
    # of 1 2 3 | 4 5 6 7 | 0: the single unit of c stays; four of the rest: 1 and 2 go, 3 is the last of a, so 4 and 5 go
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0, 6.0, 7.0]), "c": torch.tensor([0.0])}
    expected = {"a": [False, False, True], "b": [False, False, True, True], "c": [True]}
    assert lists(keep_units(scores, 0.5)) == expected
    # round(0.5 * 3) = 2 of a, 2 of b, and round(0.5) = 0 of c
    assert lists(keep_units(scores, 0.5, "layer")) == expected
    assert lists(keep_units(scores, 0.99)) == {"a": [False, False, True], "b": [False, False, False, True], "c": [True]}
    assert lists(keep_units(scores, 0.99, "layer")) == {"a": [False, False, True], "b": [False, False, False, True], "c": [True]}


def test_of_equal_units_the_first_go_and_the_last_stays():
    assert lists(keep_units({"a": torch.ones(4)}, 0.5)) == {"a": [False, False, True, True]}
    assert lists(keep_units({"a": torch.ones(4)}, 0.99)) == {"a": [False, False, False, True]}


@given(st.lists(few, min_size=1, max_size=4), st.floats(0, 1, exclude_max=True))
def test_units_equal_a_loop_that_removes_one_at_a_time(layers, amount):
    left = {(name, place): value for name, layer in enumerate(layers) for place, value in enumerate(layer)}
    for _ in range(round(amount * len(left))):
        # the last of a layer's best units may not go
        best = {name: max(((value, place) for (n, place), value in left.items() if n == name)) for name in range(len(layers))}
        free = [unit for unit, value in left.items() if (value, unit[1]) != best[unit[0]]]
        if free:
            del left[min(free, key=lambda unit: (left[unit], unit))]
    found = keep_units({str(name): torch.tensor(layer) for name, layer in enumerate(layers)}, amount)
    assert {(name, place) for name, layer in enumerate(layers) for place in range(len(layer)) if found[str(name)][place]} == set(left)


def test_refuses_units_without_an_order_or_a_group():
    with pytest.raises(ValueError, match="scores: NaN"):
        keep_units({"a": torch.tensor([1.0, torch.nan])}, 0.5)
    with pytest.raises(ValueError, match="group"):
        keep_units({"a": torch.ones(2)}, 0.5, "row")
    with pytest.raises(ValueError, match="amount"):
        keep_units({"a": torch.ones(2)}, NM(1, 2))
