"""Erdos-Renyi-Kernel densities: by hand, against JaxPruner, and what must hold for any network."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference_impls.core.densities import erdos_renyi_kernel, random_masks, whole_numbers

ORACLE = Path(__file__).parents[2] / "oracle"


def test_by_hand():
    # shares (4 + 4)/16 = 1/2 and (2 + 8)/16 = 5/8; 0.5 * 32 = 16 weights to keep, 8 + 10 dimensions: 16/18 of each dimension,
    # so densities 8/9 * 1/2 = 4/9 and 8/9 * 5/8 = 5/9
    found = erdos_renyi_kernel({"a": torch.Size([4, 4]), "b": torch.Size([2, 8])}, 0.5)
    assert found == pytest.approx({"a": 4 / 9, "b": 5 / 9})


def test_a_small_layer_stays_dense_and_the_others_make_room_by_hand():
    # shares (10 + 10)/100 = 0.2 and (2 + 1)/2 = 1.5; to keep 0.5 * 102 = 51, 51 / 23 * 1.5 > 1: b stays dense,
    # and a keeps 49 of 100
    found = erdos_renyi_kernel({"a": torch.Size([10, 10]), "b": torch.Size([2, 1])}, 0.5)
    assert found == pytest.approx({"a": 0.49, "b": 1.0})


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9])
def test_same_as_jaxpruner(sparsity):
    shapes = {"conv1": (16, 8, 3, 3), "conv2": (32, 16, 3, 3), "fc1": (48, 64), "fc2": (10, 48)}
    expected = json.loads((ORACLE / "jaxpruner_masks.json").read_text())["distributions"][f"erk_{sparsity}"]
    # their counting rule: floor(sparsity * n) of each layer's n weights are to go, and the rest of all is shared out
    sizes = [math.prod(shape) for shape in shapes.values()]
    density = sum(size - math.floor(sparsity * size) for size in sizes) / sum(sizes)
    found = erdos_renyi_kernel({name: torch.Size(shape) for name, shape in shapes.items()}, density)
    assert {name: 1 - density for name, density in found.items()} == pytest.approx(expected, abs=1e-9)


sizes = st.integers(1, 40)
shapes = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.one_of(st.tuples(sizes, sizes), st.tuples(sizes, sizes, st.just(3), st.just(3))),
    min_size=1,
)


@given(shapes, st.floats(0.001, 1.0))
def test_the_mean_is_the_density_asked_and_no_layer_passes_1(shapes, density):
    found = erdos_renyi_kernel({name: torch.Size(shape) for name, shape in shapes.items()}, density)
    size = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert sum(found[name] * size[name] for name in shapes) == pytest.approx(density * sum(size.values()))
    assert all(0 < value <= 1 + 1e-9 for value in found.values())
    # layers that are not dense have the same number of weights per dimension
    spread = [found[name] * size[name] / sum(shape) for name, shape in shapes.items() if found[name] < 1 - 1e-6]
    assert spread == pytest.approx(spread[:1] * len(spread))


@pytest.mark.parametrize("density", [0, -0.5, 1.1, float("nan")])
def test_refuses_a_density_that_is_none(density):
    with pytest.raises(ValueError, match="density"):
        erdos_renyi_kernel({"a": torch.Size([4, 4])}, density)


def test_whole_numbers_round_up_the_largest_fractions_by_hand():
    # 2.6 + 1.7 + 3.7 = 8: rounded down 2 + 1 + 3 = 6, two are missing: 0.7 comes before 0.6, of the equal ones the first comes first
    sizes = {"a": 9, "b": 9, "c": 9}
    assert whole_numbers({"a": 2.6, "b": 1.7, "c": 3.7}, sizes, 8) == {"a": 2, "b": 2, "c": 4}
    assert whole_numbers({"a": 0.5, "b": 0.5, "c": 2.0}, sizes, 3) == {"a": 1, "b": 0, "c": 2}


def test_a_target_that_is_whole_but_for_rounding_is_whole_and_no_layer_keeps_more_than_it_has():
    assert whole_numbers({"a": 2.9999999999, "b": 4.0000000001}, {"a": 3, "b": 4}, 7) == {"a": 3, "b": 4}


def test_random_masks_keep_every_set_of_positions_equally_often():
    # 2 of 4: six sets, 1,200 draws, 200 each; the chi-square value of five degrees of freedom passes 20.5 once in a thousand
    generator = torch.Generator().manual_seed(0)
    seen = Counter(tuple(random_masks({"a": torch.zeros(2, 2)}, {"a": 2}, generator)["a"].flatten().tolist()) for _ in range(1200))
    assert len(seen) == 6
    assert all(sum(kept) == 2 for kept in seen)
    assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 20.5
