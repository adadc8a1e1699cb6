"""What is asked of a method: a sparsity, a pattern, a budget or the strength of a penalty."""

import math
from dataclasses import dataclass, fields
from typing import TypeVar


@dataclass(frozen=True)
class Sparsity:
    """The fraction of a method's units to remove, in [0, 1)."""

    fraction: float

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:  # also refuses NaN
            raise ValueError(f"amount: sparsity {self.fraction} is not in [0, 1)")


@dataclass(frozen=True)
class NM:
    """n weights KEPT of every m consecutive ones along the input dimension; 0 < n <= m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 0 < self.n <= self.m):
            raise ValueError(f"amount: {self.n}:{self.m} does not keep a whole number between 1 and {self.m} of {self.m}")


@dataclass(frozen=True)
class Budget:
    """The most that the pruned network may cost: multiply-accumulates, seconds or bytes; exactly one of them, positive."""

    macs: float | None = None
    seconds: float | None = None
    bytes: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) is not None}
        if len(given) != 1 or not all(0 < value < math.inf for value in given.values()):
            raise ValueError(f"amount: a budget is one positive number of macs, seconds or bytes, not {given}")


@dataclass(frozen=True)
class Strength:
    """The factor of a penalty, >= 0. What sparsity it leads to is reported, not asked."""

    factor: float

    def __post_init__(self) -> None:
        if not 0 <= self.factor < math.inf:
            raise ValueError(f"amount: strength {self.factor} is not a finite number >= 0")


Amount = float | Sparsity | NM | Budget | Strength


Kind = TypeVar("Kind", Sparsity, NM, Budget, Strength)


def as_amount(amount: Amount, *kinds: type[Kind]) -> Kind:
    """The amount as one of the kinds that a method takes; a plain number is a sparsity.

    Raises:
        ValueError: the amount is of another kind, or out of its range.
    """
    if isinstance(amount, int | float) and not isinstance(amount, bool):
        amount = Sparsity(amount)
    if not isinstance(amount, kinds):
        raise ValueError(f"amount: {amount!r}; this method takes {' or '.join(kind.__name__ for kind in kinds)}")
    return amount


def sparsity(amount: Amount) -> float:
    """The fraction to remove, for a method that takes nothing else.

    Raises:
        ValueError: as `as_amount`.
    """
    return as_amount(amount, Sparsity).fraction
