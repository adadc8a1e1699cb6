"""Store papers in SQLite: the same papers give the same bytes, and a failure leaves the old file."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, insert
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel, create_engine

from catalog import bibtex
from catalog.check import checked
from catalog.query import DATABASE
from catalog.read import ROOT, Progress, Reading
from schema import APPLICATION_ID, SCHEMA_VERSION, tables
from schema.records import Paper, Size, Venue
from schema.terms import AXES

FULL_TEXT = (
    "CREATE VIRTUAL TABLE paper_text USING fts5(title, name, authors, summary, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
)
PAGE_SIZE = 4096
_TABLES = SQLModel.metadata.sorted_tables


def build(path: Path = DATABASE, root: Path = ROOT, progress: Progress | None = None) -> Reading:
    """Read and check the text files under a repository's root, and store them at `path`.

    Raises:
        InvalidCatalog: something is wrong with them; the old file stays.
    """
    reading = checked(root, progress)
    store(reading.papers, reading.venues.values(), path, [source.size for source in reading.sizes.values()])
    return reading


def store(papers: Iterable[Paper], venues: Iterable[Venue], path: Path, sizes: Iterable[Size] = ()) -> None:
    """Write the database beside `path`, then put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        _write(
            sorted(papers, key=lambda paper: (paper.year is None, paper.year, paper.key)),
            sorted(venues, key=lambda venue: venue.id),
            sorted(sizes, key=lambda size: size.module),
            temporary,
        )
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(papers: list[Paper], venues: list[Venue], sizes: list[Size], path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.executescript(
            f"PRAGMA page_size = {PAGE_SIZE}; PRAGMA journal_mode = MEMORY; PRAGMA foreign_keys = ON;"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        )

    try:
        with engine.begin() as connection:
            for table in _TABLES:
                connection.execute(CreateTable(table))
            connection.exec_driver_sql(FULL_TEXT)
            _fill(connection, papers, venues, sizes)
            for table in _TABLES:
                # sorted: a table's indexes are a set, whose order changes from process to process
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(CreateIndex(index))
            connection.exec_driver_sql("INSERT INTO paper_text(paper_text) VALUES ('optimize')")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.exec_driver_sql("VACUUM")
    finally:
        engine.dispose()


def _fill(connection: Connection, papers: list[Paper], venues: list[Venue], sizes: list[Size]) -> None:
    def add(table: type[SQLModel], rows: Iterable[dict[str, Any]]) -> None:
        if rows := list(rows):
            connection.execute(insert(table), rows)

    ids = {paper.key: number for number, paper in enumerate(papers, start=1)}
    people = {
        person: number
        for number, person in enumerate(sorted({a for p in papers for a in p.authors}, key=lambda a: (a.family, a.given, a.suffix)), 1)
    }
    tags = {
        (axis, term): number
        for number, (axis, term) in enumerate(((axis, term) for axis, terms in AXES.items() for term in terms), start=1)
    }

    add(tables.SizeRow, (size.model_dump() for size in sizes))
    add(tables.VenueRow, (venue.model_dump() for venue in venues))
    add(tables.PersonRow, ({"id": number, **person.model_dump()} for person, number in people.items()))
    add(tables.TagRow, ({"id": number, "axis": axis, "value": str(term)} for (axis, term), number in tags.items()))
    add(tables.PaperRow, (_row(paper, ids[paper.key]) for paper in papers))
    for paper in papers:
        number = ids[paper.key]
        texts = (number, paper.title, paper.name or "", "; ".join(author.name for author in paper.authors), paper.summary)
        connection.exec_driver_sql("INSERT INTO paper_text(rowid, title, name, authors, summary) VALUES (?, ?, ?, ?, ?)", texts)

    def numbered(values: str) -> Iterable[tuple[dict[str, int], Any]]:
        return (
            ({"paper_id": ids[paper.key], "position": position}, value)
            for paper in papers
            for position, value in enumerate(getattr(paper, values), 1)
        )

    add(tables.AuthorshipRow, (at | {"person_id": people[person]} for at, person in numbered("authors")))
    add(tables.ReferenceRow, (at | link.model_dump() | {"relation": str(link.relation)} for at, link in numbered("references")))
    add(tables.BuildsOnRow, (at | {"earlier_id": ids[key]} for at, key in numbered("builds_on")))
    add(tables.CodeRow, (at | {"url": url} for at, url in numbered("code")))
    add(tables.ReportedRow, (at | number.model_dump() for at, number in numbered("reported")))
    add(
        tables.PaperTagRow,
        ({"paper_id": ids[paper.key], "tag_id": tags[axis, term]} for paper in papers for axis in AXES for term in paper.tags(axis)),
    )
    add(
        tables.EvidenceRow,
        ({"paper_id": ids[p.key], "axis": axis, "evidence": str(p.evidence[axis])} for p in papers for axis in sorted(p.evidence)),
    )


def _row(paper: Paper, number: int) -> dict[str, Any]:
    plain = {name: getattr(paper, name) for name in tables.PaperRow.model_fields if hasattr(paper, name)}
    own = {"id": number, "kind": str(paper.kind), "venue_id": paper.venue.id if paper.venue else None}
    return plain | own | {"how_note": paper.taxonomy.how_note, "bibtex": bibtex.render(paper)}
