"""The numbers behind the site's pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from schema.records import Paper
from schema.terms import FACETS, Relation, Term

SECTION = re.compile(r"(?P<survey>[^;]+), section (?P<section>[0-9.]+)")


@dataclass(frozen=True)
class Cell:
    """Papers that carry one value on each of two axes.

    Attributes:
        row, column: the two values.
        papers: how many papers carry both.
        implemented: how many of those are implemented themselves.
        size: radius of a disc whose area stands for `papers`, 0 to 1.
        core: radius of a disc whose area stands for `implemented`, on the same scale.
        share: `implemented` of `papers` in steps of a fifth, 0 to 5.
    """

    row: Term
    column: Term
    papers: int
    implemented: int
    size: float
    core: float

    @property
    def share(self) -> int:
        """See the class."""
        return -(-5 * self.implemented // self.papers) if self.papers else 0


@dataclass(frozen=True)
class Bar:
    """Papers of a year; `height` is relative to the fullest year."""

    year: int
    papers: int
    height: float


def implemented(paper: Paper) -> bool:
    """Whether a reference implementation is this paper's own algorithm."""
    return any(link.relation is Relation.IMPLEMENTS for link in paper.references)


def matrix(papers: Iterable[Paper], rows: str, columns: str) -> list[list[Cell]]:
    """One row of cells for each value of the first axis."""
    counts: Counter[tuple[str, str]] = Counter()
    done: Counter[tuple[str, str]] = Counter()
    for paper in papers:
        pairs = [(str(row), str(column)) for row in paper.tags(rows) for column in paper.tags(columns)]
        counts.update(pairs)
        if implemented(paper):
            done.update(pairs)
    fullest = max(counts.values(), default=1)

    def cell(row: Term, column: Term) -> Cell:
        pair = (str(row), str(column))
        return Cell(row, column, counts[pair], done[pair], sqrt(counts[pair] / fullest), sqrt(done[pair] / fullest))

    return [[cell(row, column) for column in FACETS[columns]] for row in FACETS[rows]]


def histogram(papers: Sequence[Paper], span: tuple[int, int] | None) -> list[Bar]:
    """One bar for each year of the span, empty years too."""
    if span is None:
        return []
    counts = Counter(paper.year for paper in papers if paper.year is not None)
    fullest = max(counts.values(), default=1)
    return [Bar(year, counts[year], counts[year] / fullest) for year in range(span[0], span[1] + 1)]


def span(papers: Iterable[Paper]) -> tuple[int, int] | None:
    """First and last year; None if no paper has one."""
    years = [paper.year for paper in papers if paper.year is not None]
    return (min(years), max(years)) if years else None


def occupied(cells: list[list[Cell]]) -> list[list[Cell]]:
    """The matrix without its empty rows and columns; an empty list if nothing is left."""
    rows = [row for row in cells if any(cell.papers for cell in row)]
    columns = [at for at in range(len(cells[0])) if any(row[at].papers for row in rows)]
    return [[row[at] for at in columns] for row in rows]


def trees() -> dict[str, list[tuple[str, str, Term]]]:
    """Survey -> its sections in order, each with the axis and the value that stand for it here."""
    found: dict[str, list[tuple[str, str, Term]]] = {}
    for axis, terms in FACETS.items():
        for term in terms:
            if match := SECTION.fullmatch(term.source):
                found.setdefault(match["survey"], []).append((match["section"], axis, term))
    return {survey: sorted(sections, key=lambda entry: [int(part) for part in entry[0].split(".")]) for survey, sections in found.items()}
