"""What is wrong in a text file of the catalog, where, and what is allowed."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One problem; sorts by place.

    Attributes:
        path: file, relative to the root of the repository.
        line: counted from 1.
        message: what is wrong; what is allowed.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class CatalogError(Exception):
    """Something is wrong with the catalog, or with a question to it."""


class QueryError(CatalogError, ValueError):
    """A question to the catalog names an axis, value or range that there is not."""


class InvalidCatalog(CatalogError):
    """The text files have problems.

    Attributes:
        problems: all of them, sorted.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(value: str, allowed: Iterable[str], likeness: float = 0.5) -> str | None:
    """The allowed value that is spelled most alike, if one is alike enough: 1 means equal."""
    found = difflib.get_close_matches(value, list(allowed), n=1, cutoff=likeness)
    return found[0] if found else None


def hint(value: str, allowed: Iterable[str], likeness: float = 0.5) -> str:
    """`, did you mean ...?`, or nothing."""
    guess = nearest(value, allowed, likeness)
    return f", did you mean `{guess}`?" if guess else ""


def not_allowed(what: str, value: str, allowed: Iterable[str]) -> str:
    """`unknown how `magnitud`, did you mean `magnitude`?; allowed: ...`."""
    allowed = list(allowed)
    return f"unknown {what} `{value}`{hint(value, allowed)}; allowed: {', '.join(allowed) or 'none'}"
