"""Query the catalog: papers by axis, year and text, and how many each value of each axis would give."""

import re
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from catalog.problem import CatalogError, QueryError, nearest, not_allowed
from schema import APPLICATION_ID, SCHEMA_VERSION
from schema.records import (
    SETTINGS,
    Implementation,
    ImplementationLink,
    Measurement,
    Paper,
    Person,
    ReferenceLink,
    Settings,
    Size,
    Taxonomy,
    Venue,
)
from schema.terms import AXES, FACETS, Evidence, Kind, Relation, Term

DATABASE = Path(__file__).parents[1] / "build" / "catalog.sqlite"
REBUILD = "run: make catalog"
TEXT_WEIGHTS = (10.0, 8.0, 4.0, 1.0)  # title, name, authors, summary

Years = int | tuple[int, int]
Values = str | Iterable[str] | None


class Catalog:
    """The atlas, read-only. Open it with `Catalog.open()`.

    A mapping from key to `Paper` as far as `atlas[key]`, `key in atlas`, `len(atlas)` and iteration over keys go.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: str | Path | None = None) -> Self:
        """Open a database that `make catalog` built; by default `build/catalog.sqlite`.

        Raises:
            CatalogError: there is no such file, it is no catalog, or one of another schema version.
        """
        path = Path(path or DATABASE)
        if not path.is_file():
            raise CatalogError(f"no catalog at {path}; {REBUILD}")
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            (application,), (version,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        except sqlite3.DatabaseError as error:
            connection.close()
            raise CatalogError(f"{path} is no catalog ({error}); {REBUILD}") from error
        if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            connection.close()
            what = f"has schema version {version}, this code reads {SCHEMA_VERSION}" if application == APPLICATION_ID else "is no catalog"
            raise CatalogError(f"{path} {what}; {REBUILD}")
        return cls(connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._ids

    def __getitem__(self, key: str) -> Paper:
        """The paper with this key.

        Raises:
            KeyError: there is none; the message names the nearest key.
        """
        if key not in self._ids:
            guess = nearest(key, self._keys)
            raise KeyError(f"no paper `{key}`" + (f"; nearest: {guess}" if guess else ""))
        return self._load([self._ids[key]])[0]

    def papers(self, text: str | None = None, years: Years | None = None, **axes: Values) -> list[Paper]:
        """The papers that match everything asked.

        Args:
            text: words that must all occur in title, name, authors or summary, each as the beginning of a word; case, accents and
                punctuation do not count. The best match comes first; a match in the title weighs most.
            years: one year, or first and last.
            axes: `when="before_training"`, `how=["sensitivity", "loss_change"]`, ...: values of an axis are alternatives, axes narrow
                each other down. An axis without values asks nothing. Beside the axes of the taxonomy: `kind` and `relation`.

        Returns:
            By rank if there is text, else by year and key, papers without a year last.

        Raises:
            QueryError: no such axis or value, or years that run backwards.
        """
        return self._load(self._matches(text, years, axes))

    def keys(self, text: str | None = None, years: Years | None = None, **axes: Values) -> list[str]:
        """The keys of `papers(...)`, without loading them."""
        return [self._keys[paper - 1] for paper in self._matches(text, years, axes)]

    def facets(self, text: str | None = None, years: Years | None = None, **axes: Values) -> dict[str, dict[str, int]]:
        """For each value of each axis the number of papers that match the text, the years and all other axes, and carry the value.

        Takes what `papers` takes. Axes and values stand in the order of their definition, values without a paper included.
        """
        base = self._in_years(years)
        if (found := self._ranked(text)) is not None:
            base &= _bits(found)
        chosen = self._chosen(axes)
        counts = {}
        for axis, values in self._carriers.items():
            others = base
            for other, bits in chosen.items():
                if other != axis:
                    others &= bits
            counts[axis] = {value: (others & bits).bit_count() for value, bits in values.items()}
        return counts

    def extended_by(self, key: str) -> list[str]:
        """Keys of the papers that build on this one, by year and key."""
        rows = self._connection.execute("SELECT paper_id FROM builds_on WHERE earlier_id = ? ORDER BY paper_id", (self._ids[key],))
        return [self._keys[paper - 1] for (paper,) in rows]

    def bibtex(self, key: str) -> str:
        """The BibTeX entry of a paper."""
        row = self._connection.execute("SELECT bibtex FROM paper WHERE id = ?", (self._ids[key],)).fetchone()
        return str(row[0])

    def implementations(self) -> list[Implementation]:
        """Every reference implementation that a paper links to, by module, with its papers by relation and key."""
        links = defaultdict(list)
        for module, paper, relation, differs in self._connection.execute(
            "SELECT implementation, paper_id, relation, differs FROM reference ORDER BY implementation"
        ):
            links[module].append(ImplementationLink(key=self._keys[paper - 1], relation=Relation(relation), differs=differs))
        order = list(Relation)
        return [
            Implementation(module=module, papers=tuple(sorted(papers, key=lambda link: (order.index(link.relation), link.key))))
            for module, papers in links.items()
        ]

    def sizes(self) -> dict[str, Size]:
        """What each reference implementation makes of its network, measured; one that nobody measured is missing."""
        columns = ", ".join(Size.model_fields)
        return {row["module"]: Size(**row) for row in self._rows(f"SELECT {columns} FROM size ORDER BY module")}

    @cached_property
    def _keys(self) -> list[str]:
        # ids count from 1 in the order of year and key
        return [key for (key,) in self._connection.execute("SELECT key FROM paper ORDER BY id")]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self._keys, start=1)}

    @cached_property
    def _carriers(self) -> dict[str, dict[str, int]]:
        """Axis -> value -> the papers that carry it, as the bits of an integer: bit i stands for the paper with id i."""
        carriers: dict[str, dict[str, list[int]]] = {axis: {str(value): [] for value in terms} for axis, terms in FACETS.items()}
        for axis, value, paper in self._connection.execute(
            "SELECT axis, value, paper_id FROM paper_tag JOIN tag ON tag.id = tag_id"
            " UNION ALL SELECT 'kind', kind, id FROM paper"
            " UNION ALL SELECT 'relation', relation, paper_id FROM reference"
        ):
            carriers[axis][value].append(paper)
        return {axis: {value: _bits(papers) for value, papers in values.items()} for axis, values in carriers.items()}

    def _chosen(self, axes: dict[str, Values]) -> dict[str, int]:
        """For each axis that asks something, the papers that carry any of its values."""
        chosen = {}
        for axis, values in axes.items():
            if axis not in self._carriers:
                raise QueryError(not_allowed("axis", axis, self._carriers))
            wanted = (values,) if isinstance(values, str) else tuple(values or ())
            for value in wanted:
                if value not in self._carriers[axis]:
                    raise QueryError(not_allowed(f"value of {axis}", str(value), self._carriers[axis]))
            if wanted:
                bits = 0
                for value in wanted:
                    bits |= self._carriers[axis][value]
                chosen[axis] = bits
        return chosen

    def _in_years(self, years: Years | None) -> int:
        if years is None:
            return (1 << (len(self) + 1)) - 2
        first, last = (years, years) if isinstance(years, int) else years
        if first > last:
            raise QueryError(f"years run backwards: {first}-{last}; allowed: first-last")
        return _bits(paper for (paper,) in self._connection.execute("SELECT id FROM paper WHERE year BETWEEN ? AND ?", (first, last)))

    def _ranked(self, text: str | None) -> list[int] | None:
        """Ids of the papers with these words, best first; None if there are no words."""
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text or ""))
        if not words:
            return None
        match = " AND ".join(f'"{word}"*' for word in words)
        query = (
            f"SELECT rowid FROM paper_text WHERE paper_text MATCH ? ORDER BY bm25(paper_text, {', '.join(map(str, TEXT_WEIGHTS))}), rowid"
        )
        return [paper for (paper,) in self._connection.execute(query, (match,))]

    def _matches(self, text: str | None, years: Years | None, axes: dict[str, Values]) -> list[int]:
        bits = self._in_years(years)
        for papers in self._chosen(axes).values():
            bits &= papers
        found = self._ranked(text)
        return [paper for paper in (range(1, len(self) + 1) if found is None else found) if bits >> paper & 1]

    def _load(self, papers: list[int]) -> list[Paper]:
        """Papers from their rows, in the order of the ids given."""
        chosen = str(sorted(papers))  # as a JSON array: a list of SQL parameters would have a limit

        def rows(query: str) -> dict[int, list[dict[str, Any]]]:
            cursor = self._connection.execute(
                f"{query} WHERE paper_id IN (SELECT value FROM json_each(?)) ORDER BY paper_id, position", (chosen,)
            )
            names = [column for column, *_ in cursor.description]
            grouped = defaultdict(list)
            for paper, _, *values in cursor:
                grouped[paper].append(dict(zip(names[2:], values, strict=True)))
            return grouped

        details = {table: rows(f"SELECT paper_id, position, {columns} FROM {source}") for table, (columns, source) in _DETAILS.items()}
        venues = {row["id"]: Venue(**row) for row in self._rows("SELECT id, name, abbreviation, kind, series FROM venue")}
        columns = f"SELECT id, {', '.join(_COLUMNS)}, how_note, venue_id FROM paper WHERE id IN (SELECT value FROM json_each(?))"
        loaded = {
            row["id"]: _paper(row, {table: found[row["id"]] for table, found in details.items()}, venues)
            for row in self._rows(columns, chosen)
        }
        return [loaded[paper] for paper in papers]

    def _rows(self, query: str, *parameters: str) -> Iterator[dict[str, Any]]:
        cursor = self._connection.execute(query, parameters)
        names = [column for column, *_ in cursor.description]
        return (dict(zip(names, row, strict=True)) for row in cursor)


_COLUMNS = (
    *("key", "entry_type", "title", "name", "kind", "year", "doi", "arxiv", "openreview", "url", "pages", "volume", "number"),
    *("publisher", "note", "source", "authors_unknown", "summary"),
)
_DETAILS = {
    "authors": ("given, family, suffix", "authorship JOIN person ON person.id = person_id"),
    "tags": ("axis, value", "(SELECT paper_id, tag_id AS position, axis, value FROM paper_tag JOIN tag ON tag.id = tag_id)"),
    "evidence": ("axis, evidence", "(SELECT *, rowid AS position FROM evidence)"),
    "references": ("implementation, relation, differs", "reference"),
    "builds_on": ("key", "(SELECT builds_on.*, key FROM builds_on JOIN paper ON paper.id = earlier_id)"),
    "code": ("url", "code"),
    "reported": ("metric, value, dataset, network, source", "reported"),
}
"""What a paper has several of: columns, and the table or subquery that holds them beside `paper_id` and `position`."""


def _paper(row: dict[str, Any], details: dict[str, list[dict[str, Any]]], venues: dict[str, Venue]) -> Paper:
    tags: dict[str, list[Term]] = {axis: [] for axis in AXES}
    for tag in details["tags"]:
        tags[tag["axis"]].append(AXES[tag["axis"]](tag["value"]))
    values: dict[str, Any] = {axis: tuple(terms) for axis, terms in tags.items()}
    settings = Settings(**{axis: values.pop(axis) for axis in SETTINGS})
    columns = {name: row[name] for name in _COLUMNS} | {"kind": Kind(row["kind"]), "authors_unknown": bool(row["authors_unknown"])}
    return Paper(
        **columns,
        authors=tuple(Person(**author) for author in details["authors"]),
        venue=venues.get(row["venue_id"]),
        networks=values.pop("networks"),
        applications=values.pop("applications"),
        taxonomy=Taxonomy(**values, settings=settings, how_note=row["how_note"]),
        evidence={item["axis"]: Evidence(item["evidence"]) for item in details["evidence"]},
        references=tuple(ReferenceLink(**link | {"relation": Relation(link["relation"])}) for link in details["references"]),
        builds_on=tuple(item["key"] for item in details["builds_on"]),
        code=tuple(item["url"] for item in details["code"]),
        reported=tuple(Measurement(**item) for item in details["reported"]),
    )


def _bits(papers: Iterable[int]) -> int:
    bits = 0
    for paper in papers:
        bits |= 1 << paper
    return bits
