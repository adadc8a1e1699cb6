"""Schedules: by hand, against JaxPruner's curve, and at their ends."""

import json
import math
from pathlib import Path

import pytest

from reference_impls.core.schedules import cosine_decay, cubic_sparsity, exponential_density

ORACLE = Path(__file__).parents[2] / "oracle"


def test_cubic_sparsity_by_hand():
    # from 0.2 to 0.8 over steps 10..20; at 15 half the way: 0.8 - 0.6 * (1/2)^3 = 0.725
    assert [cubic_sparsity(step, 10, 20, 0.8, 0.2) for step in (0, 10, 15, 20, 99)] == pytest.approx([0.2, 0.2, 0.725, 0.8, 0.8])


def test_cubic_sparsity_reaches_its_ends_exactly():
    assert cubic_sparsity(0, 0, 7, 0.9) == 0
    assert cubic_sparsity(7, 0, 7, 0.9) == 0.9
    assert cubic_sparsity(8, 0, 7, 0.9) == 0.9


def test_same_cubic_sparsity_as_jaxpruner():
    # theirs counts a step as done when it begins: their step t is our t + 1
    expected = json.loads((ORACLE / "jaxpruner_masks.json").read_text())["distributions"]["polynomial_schedule_target0.9"]
    found = {step: cubic_sparsity(int(step) + 1, 100, 1000, 0.9) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("end", [5, 4])
def test_a_rise_needs_time(end):
    with pytest.raises(ValueError, match="end"):
        cubic_sparsity(5, 5, end, 0.9)


def test_exponential_density_keeps_the_same_fraction_each_step_by_hand():
    # 1/125 in three steps: 1/5 each time
    assert [exponential_density(step, 3, 1 / 125) for step in range(4)] == pytest.approx([1, 1 / 5, 1 / 25, 1 / 125])


def test_cosine_decay_by_hand():
    # 0.3/2 * (1 + cos(π t / 90)) at 0, 30, 45, 60, 90: cosines 1, 1/2, 0, -1/2, -1
    assert [cosine_decay(step, 90, 0.3) for step in (0, 30, 45, 60, 90)] == pytest.approx([0.3, 0.225, 0.15, 0.075, 0])
    assert cosine_decay(135, 90, 0.3) == 0  # half a cosine: it does not come back
    assert math.isclose(sum(cosine_decay(step + 0.5, 90, 0.3) for step in range(90)) / 90, 0.15)
