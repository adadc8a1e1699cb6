"""The numbers behind the site's pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt

from schema.records import Paper
from schema.terms import FACETS, Relation, Term

SECTION = re.compile(r"(?P<survey>[^;]+), section (?P<section>[0-9.]+)")


@dataclass(frozen=True)
class Cell:
    """Papers that carry one value on each of two axes, or of three.

    Attributes:
        row, column: the two values.
        papers: how many papers carry both.
        implemented: how many of those are implemented themselves.
        size: radius of a disc whose area stands for `papers`, 0 to 1.
        core: radius of a disc whose area stands for `implemented`, on the same scale.
        panel: a third value that they carry, in a cube.
        share: `implemented` of `papers` in steps of a fifth, 0 to 5.
    """

    row: Term
    column: Term
    papers: int
    implemented: int
    size: float
    core: float
    panel: Term | None = None

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
    counts, done = _tally(papers, rows, columns)
    fullest = max(counts.values(), default=1)
    return [[_cell(row, column, counts[row, column], done[row, column], fullest) for column in FACETS[columns]] for row in FACETS[rows]]


def cube(papers: Iterable[Paper], rows: str, panels: str, columns: str) -> list[list[list[Cell]]]:
    """One row for each value of the first axis that a paper has: a panel for each value of the second, a cell for each of the third.

    Discs are of one scale throughout.
    """
    counts, done = _tally(papers, rows, panels, columns)
    fullest = max(counts.values(), default=1)
    found = [
        [
            [_cell(row, column, counts[row, panel, column], done[row, panel, column], fullest, panel) for column in FACETS[columns]]
            for panel in FACETS[panels]
        ]
        for row in FACETS[rows]
    ]
    return [row for row in found if any(cell.papers for panel in row for cell in panel)]


def _tally(papers: Iterable[Paper], *axes: str) -> tuple[Counter[tuple[Term, ...]], Counter[tuple[Term, ...]]]:
    """How many papers, and how many implemented ones, carry each combination of values."""
    counts: Counter[tuple[Term, ...]] = Counter()
    done: Counter[tuple[Term, ...]] = Counter()
    for paper in papers:
        carried = list(product(*(paper.tags(axis) for axis in axes)))
        counts.update(carried)
        if implemented(paper):
            done.update(carried)
    return counts, done


def _cell(row: Term, column: Term, papers: int, done: int, fullest: int, panel: Term | None = None) -> Cell:
    return Cell(row, column, papers, done, sqrt(papers / fullest), sqrt(done / fullest), panel)


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
