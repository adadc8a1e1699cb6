"""Amounts: their ranges, and what a method reads from them."""

import math

import numpy as np
import pytest

from reference_impls.core.amounts import NM, Budget, Sparsity, Strength, as_amount, sparsity


@pytest.mark.parametrize(("amount", "fraction"), [(0, 0), (0.9, 0.9), (Sparsity(0.25), 0.25), (np.float64(0.5), 0.5)])
def test_a_plain_number_is_a_sparsity(amount, fraction):
    assert sparsity(amount) == fraction


@pytest.mark.parametrize("amount", [-0.1, -math.inf, 1, 1.0, 2, math.inf, math.nan])
def test_a_sparsity_is_at_least_0_and_below_1(amount):
    with pytest.raises(ValueError, match="amount"):
        sparsity(amount)
    with pytest.raises(ValueError, match="amount"):
        Sparsity(amount)


@pytest.mark.parametrize("amount", [True, False, None, "0.5", [0.5], NM(2, 4), Budget(macs=5), Strength(0.1)])
def test_what_is_no_sparsity_is_refused_by_name(amount):
    with pytest.raises(ValueError, match=r"amount: .*takes Sparsity"):
        sparsity(amount)


def test_a_method_says_which_kinds_it_takes():
    assert as_amount(NM(2, 4), NM, Sparsity) == NM(2, 4)
    assert as_amount(0.5, NM, Sparsity) == Sparsity(0.5)
    with pytest.raises(ValueError, match="takes NM or Budget"):
        as_amount(0.5, NM, Budget)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (2, 4), (1, 16)])
def test_n_of_m_are_kept(n, m):
    assert (NM(n, m).n, NM(n, m).m) == (n, m)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (-1, 4), (5, 4), (0, 0), (1.5, 4), (2, 4.0)])
def test_no_other_n_and_m_make_a_pattern(n, m):
    with pytest.raises(ValueError, match="amount"):
        NM(n, m)


def test_a_budget_is_one_thing():
    assert Budget(macs=10).macs == 10
    assert Budget(seconds=0.1) != Budget(bytes=0.1)


@pytest.mark.parametrize(
    "given", [{}, {"macs": 1, "bytes": 1}, {"macs": 0}, {"seconds": -1}, {"bytes": math.nan}, {"macs": math.inf}, {"macs": 1, "seconds": 0}]
)
def test_a_budget_is_positive_finite_and_alone(given):
    with pytest.raises(ValueError, match="amount"):
        Budget(**given)


@pytest.mark.parametrize("factor", [-1e-9, math.inf, math.nan])
def test_a_strength_is_finite_and_not_negative(factor):
    assert Strength(0).factor == 0
    with pytest.raises(ValueError, match="amount"):
        Strength(factor)
