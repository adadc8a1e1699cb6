"""Papers as JSON and CSV."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

from schema.records import Measurement, Paper
from schema.terms import AXES


def _values(axis: str) -> Callable[[Paper], list[str]]:
    return lambda paper: [str(value) for value in paper.tags(axis)]


FIELDS: dict[str, Callable[[Paper], Any]] = {
    "key": lambda paper: paper.key,
    "title": lambda paper: paper.title,
    "name": lambda paper: paper.name,
    "authors": lambda paper: [author.name for author in paper.authors],
    "authors_unknown": lambda paper: paper.authors_unknown,
    "year": lambda paper: paper.year,
    "venue": lambda paper: paper.venue.abbreviation if paper.venue else None,
    "venue_name": lambda paper: paper.venue.name if paper.venue else None,
    "entry_type": lambda paper: paper.entry_type,
    "volume": lambda paper: paper.volume,
    "number": lambda paper: paper.number,
    "pages": lambda paper: paper.pages,
    "publisher": lambda paper: paper.publisher,
    "note": lambda paper: paper.note,
    "doi": lambda paper: paper.doi,
    "arxiv": lambda paper: paper.arxiv,
    "openreview": lambda paper: paper.openreview,
    "url": lambda paper: paper.url,
    "source": lambda paper: paper.source,
    "code": lambda paper: list(paper.code),
    "kind": lambda paper: str(paper.kind),
    **{axis: _values(axis) for axis in AXES},
    "how_note": lambda paper: paper.taxonomy.how_note,
    "evidence": lambda paper: {axis: str(evidence) for axis, evidence in paper.evidence.items()},
    "references": lambda paper: [
        {"implementation": link.implementation, "relation": str(link.relation)} | ({"differs": link.differs} if link.differs else {})
        for link in paper.references
    ],
    "builds_on": lambda paper: list(paper.builds_on),
    "reported": lambda paper: [measurement.model_dump() for measurement in paper.reported],
    "summary": lambda paper: paper.summary,
}
"""What JSON and CSV say of a paper, in order. Unknown text is null (in CSV empty), unknown lists are empty."""


def as_object(paper: Paper) -> dict[str, Any]:
    """A paper as JSON holds it."""
    return {name: field(paper) for name, field in FIELDS.items()}


def dump(value: object) -> str:
    """JSON, indented, with a line break at its end."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def as_json(papers: Iterable[Paper]) -> str:
    """A list of objects."""
    return dump([as_object(paper) for paper in papers])


def as_csv(papers: Iterable[Paper]) -> str:
    """One row per paper; the items of a list are joined by `; `, an implementation stands as `module (relation)`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(FIELDS), lineterminator="\n")
    writer.writeheader()
    for paper in papers:
        row = as_object(paper)
        row["references"] = [f"{link.implementation} ({link.relation})" for link in paper.references]
        row["reported"] = [reported(number) for number in paper.reported]
        row["evidence"] = [f"{axis}: {evidence}" for axis, evidence in paper.evidence.items()]
        writer.writerow({name: "; ".join(cell) if isinstance(cell, list) else cell for name, cell in row.items()})
    return text.getvalue()


def reported(number: Measurement) -> str:
    """A reported number in a line."""
    return f"{number.metric} {number.value:g}, {number.network}, {number.dataset} ({number.source})"
