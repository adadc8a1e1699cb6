"""The tables of the catalog's SQLite file, one class each.

`paper_text`, the full-text index, is no class: FTS5 tables are virtual, and `catalog.store` creates it.
"""

from sqlmodel import Field, SQLModel, UniqueConstraint


class VenueRow(SQLModel, table=True):
    """Where papers appear."""

    __tablename__ = "venue"
    id: str = Field(primary_key=True)
    name: str
    abbreviation: str
    kind: str
    series: str


class PersonRow(SQLModel, table=True):
    """Who writes papers."""

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("family", "given", "suffix"),)
    id: int = Field(primary_key=True)
    given: str
    family: str
    suffix: str


class PaperRow(SQLModel, table=True):
    """One row per paper; `id` counts them by year and key, undated ones last."""

    __tablename__ = "paper"
    id: int = Field(primary_key=True)
    key: str = Field(unique=True)
    entry_type: str
    title: str
    name: str | None
    kind: str = Field(index=True)
    year: int | None = Field(index=True)
    venue_id: str | None = Field(foreign_key="venue.id", index=True)
    doi: str | None
    arxiv: str | None
    openreview: str | None
    url: str | None
    pages: str | None
    volume: str | None
    number: str | None
    publisher: str | None
    note: str | None
    source: str
    how_note: str | None
    authors_unknown: bool
    summary: str
    bibtex: str


class AuthorshipRow(SQLModel, table=True):
    """Who wrote a paper, in order from 1."""

    __tablename__ = "authorship"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    person_id: int = Field(foreign_key="person.id", index=True)


class TagRow(SQLModel, table=True):
    """Every value of every axis, used or not, in the order of its definition."""

    __tablename__ = "tag"
    __table_args__ = (UniqueConstraint("axis", "value"),)
    id: int = Field(primary_key=True)
    axis: str
    value: str


class PaperTagRow(SQLModel, table=True):
    """Which paper carries which tag."""

    __tablename__ = "paper_tag"
    tag_id: int = Field(primary_key=True, foreign_key="tag.id")
    paper_id: int = Field(primary_key=True, foreign_key="paper.id", index=True)


class EvidenceRow(SQLModel, table=True):
    """Where a paper's tags of an axis were read."""

    __tablename__ = "evidence"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    axis: str = Field(primary_key=True)
    evidence: str


class ReferenceRow(SQLModel, table=True):
    """A paper's links to reference implementations, in order from 1."""

    __tablename__ = "reference"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    implementation: str = Field(index=True)
    relation: str = Field(index=True)
    differs: str | None


class BuildsOnRow(SQLModel, table=True):
    """Which papers a paper extends, in order from 1."""

    __tablename__ = "builds_on"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    earlier_id: int = Field(foreign_key="paper.id", index=True)


class CodeRow(SQLModel, table=True):
    """Addresses of the authors' code, in order from 1."""

    __tablename__ = "code"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    url: str


class SizeRow(SQLModel, table=True):
    """What a reference implementation makes of a network, measured."""

    __tablename__ = "size"
    module: str = Field(primary_key=True)
    network: str
    amount: str
    parameters_before: int
    parameters_after: int
    weight_sparsity: float
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    latency_ratio: float
    rounds: int
    date: str
    torch: str
    processor: str


class ReportedRow(SQLModel, table=True):
    """Numbers that a source reports for a paper, in order from 1."""

    __tablename__ = "reported"
    paper_id: int = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    metric: str
    value: float
    dataset: str
    network: str
    source: str
