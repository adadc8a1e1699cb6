"""Read the text files: BibTeX entries, Markdown records, the venue table. Every problem is collected, none stops the reading."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalog import bibtex, located
from catalog.located import Located, validate
from catalog.nearest import with_nearest
from catalog.problem import Problem, not_allowed
from schema.records import Entry, Paper, Record, Size, Venue, fold

ROOT = Path(__file__).parents[1]
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""


@dataclass
class EntrySource:
    """A BibTeX entry and where it stands."""

    path: str
    raw: bibtex.RawEntry
    entry: Entry | None

    def line(self, name: str) -> int:
        """The line of a field, or of the entry if it has none."""
        return self.raw.lines.get(name, self.raw.line)


@dataclass
class RecordSource:
    """A Markdown record and where it stands; `key` is the name of its file."""

    key: str
    located: Located
    record: Record | None


@dataclass
class SizeSource:
    """A measured line and where it stands."""

    path: str
    line: int
    size: Size


@dataclass
class Reading:
    """What the text files say.

    Attributes:
        papers: entry and record joined, where both are valid; by year and key. One without a reference links to its nearest implementation.
        venues: id -> venue.
        spellings: folded id, name or abbreviation -> venue.
        entries, records: every one, valid or not, by key.
        sizes: module -> its measured line.
        problems: all that is wrong inside the files; `catalog.check` finds what is wrong between them.
    """

    papers: list[Paper] = field(default_factory=list)
    venues: dict[str, Venue] = field(default_factory=dict)
    spellings: dict[str, Venue] = field(default_factory=dict)
    entries: dict[str, EntrySource] = field(default_factory=dict)
    records: dict[str, RecordSource] = field(default_factory=dict)
    sizes: dict[str, SizeSource] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def sources(root: Path = ROOT) -> list[Path]:
    """The text files of the catalog under a repository's root: BibTeX, records, measurements, venue table."""
    folder = root / "catalog"
    patterns = ("bibliography/*.bib", "papers/*.md", "measurements/*.jsonl")
    return [*(path for pattern in patterns for path in sorted(folder.glob(pattern))), folder / "venues.yaml"]


def read(root: Path = ROOT, progress: Progress | None = None) -> Reading:
    """Read the catalog under a repository's root."""
    reading = Reading()
    paths = sources(root)
    _read_venues(root, reading)
    for done, path in enumerate(paths, start=1):
        name = path.relative_to(root).as_posix()
        if path.suffix != ".yaml":
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                line = path.read_bytes()[: error.start].count(b"\n") + 1
                reading.problems.append(Problem(name, line, "this is not UTF-8; allowed: UTF-8"))
            else:
                reading.problems += _unprintable(name, text)
                READERS[path.suffix](name, text, reading)
        if progress:
            progress(done, len(paths))
    for key, source in reading.records.items():
        entry = reading.entries[key].entry if key in reading.entries else None
        if source.record and entry and source.record.key == key:
            reading.papers.append(Paper(**dict(entry) | dict(source.record)))
    reading.papers.sort(key=lambda paper: (paper.year is None, paper.year, paper.key))
    reading.papers = with_nearest(reading.papers)
    return reading


def _unprintable(path: str, text: str) -> list[Problem]:
    """Characters that would steer a terminal or turn the direction of a line."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        for character in sorted(set(_UNPRINTABLE.findall(line))):
            found.append(Problem(path, number, f"control character U+{ord(character):04X}; allowed: printable text"))
    return found


def _read_venues(root: Path, reading: Reading) -> None:
    name = "catalog/venues.yaml"
    path = root / name
    if not path.is_file():
        reading.problems.append(Problem(name, 1, "there is no venue table; allowed: id: {name, abbreviation, kind, series}"))
        return
    table = located.parse(name, path.read_text(encoding="utf-8"))
    for venue_id, values in table.values.items():
        if isinstance(values, dict):
            values["id"] = venue_id
        venue = validate(Venue, table, (venue_id,))
        if venue:
            reading.venues[venue.id] = venue
            for spelling in sorted({fold(venue.id), fold(venue.name), fold(venue.abbreviation)}):
                first = reading.spellings.setdefault(spelling, venue)
                if first is not venue:
                    message = f"`{spelling}` names both {first.id} and {venue.id}; allowed: one venue per spelling"
                    table.problems.append(Problem(name, table.line((venue_id,)), message))
    reading.problems += table.problems


def _read_bibliography(path: str, text: str, reading: Reading) -> None:
    raws, problems = bibtex.parse(text)
    reading.problems += [Problem(path, line, message) for line, message in problems]
    for raw in raws:
        entry = _entry(path, raw, reading)
        if raw.key in reading.entries:
            first = reading.entries[raw.key]
            message = f"a second entry with the key `{raw.key}`, the first is {first.path}:{first.raw.line}; allowed: one"
            reading.problems.append(Problem(path, raw.line, message))
        else:
            reading.entries[raw.key] = EntrySource(path, raw, entry)


def _entry(path: str, raw: bibtex.RawEntry, reading: Reading) -> Entry | None:
    """The entry of a BibTeX block; None, and problems, if it does not fit."""
    found: list[Problem] = []

    def complain(name: str, message: str) -> None:
        found.append(Problem(path, raw.lines.get(name, raw.line), message))

    for name in raw.values:
        if name not in bibtex.FIELDS:
            complain(name, not_allowed("field", name, bibtex.FIELDS))
    text = {name: bibtex.decode(value) for name, value in raw.values.items()}
    values: dict[str, Any] = {"key": raw.key, "entry_type": raw.entry_type, "arxiv": text.get("eprint")}
    values |= {
        "openreview": text.get("x-openreview"),
        "source": text.get("x-source"),
        "year": text.get("year"),
        "pages": _pages(text.get("pages")),
    }
    values |= {name: text.get(name) for name in ("title", "volume", "number", "publisher", "doi", "url", "note")}
    if values["year"] and values["year"].isdecimal():
        values["year"] = int(values["year"])
    if ("eprint" in text) != (text.get("archiveprefix", "").lower() == "arxiv"):
        complain(
            "eprint" if "eprint" in text else "archiveprefix", "eprint and archiveprefix go together; allowed: archiveprefix = {arXiv}"
        )
    try:
        values["authors"] = [person.model_dump() for person in bibtex.people(raw.values.get("author", ""))] if text.get("author") else []
    except (ValueError, ValidationError) as error:
        complain(
            "author", str(error) if not isinstance(error, ValidationError) else "author: a name is empty; allowed: every author by name"
        )
    values["venue"] = _venue(text, reading, complain)
    block = Located(path, {name: value for name, value in values.items() if value is not None}, {(): raw.line})
    named = {"arxiv": "eprint", "openreview": "x-openreview", "source": "x-source", "authors": "author"}
    block.lines |= {(name,): raw.lines.get(named.get(name, name), raw.line) for name in Entry.model_fields}
    entry = validate(Entry, block)
    problems = [Problem(p.path, p.line, p.message.replace("`source`", "`x-source`", 1)) for p in block.problems]
    reading.problems += found + problems
    return None if found else entry


def _pages(pages: str | None) -> str | None:
    return pages and pages.replace("–", "-").replace("--", "-")


def _venue(text: dict[str, str], reading: Reading, complain: Callable[[str, str], None]) -> dict[str, str] | None:
    given = [name for name in text if name in bibtex.VENUE_FIELDS]
    for name in given[1:]:
        complain(name, f"a second venue beside {given[0]}; allowed: one of {', '.join(bibtex.VENUE_FIELDS)}")
    if not given:
        return None
    venue = reading.spellings.get(fold(text[given[0]]))
    if venue is None:
        complain(given[0], not_allowed("venue", text[given[0]], [venue.name for venue in reading.venues.values()]))
    return venue.model_dump() if venue else None


def _read_record(path: str, text: str, reading: Reading) -> None:
    key = Path(path).stem
    head, body, body_line = _split(text)
    if head is None:
        reading.problems.append(Problem(path, 1, "no front matter; allowed: fields between two lines ---, then the summary"))
        reading.records[key] = RecordSource(key, Located(path), None)
        return
    source = located.parse(path, head, first_line=2)
    summary = "\n\n".join(" ".join(paragraph.split()) for paragraph in body.split("\n\n") if paragraph.strip())
    record = None
    if not source.problems or source.values:
        if "summary" in source.values:
            source.problems.append(Problem(path, source.line(("summary",)), "`summary` is no field; allowed: text below the second ---"))
        if not summary:
            source.problems.append(Problem(path, body_line, "no summary; allowed: two to five sentences below the second ---"))
        source.values["summary"] = summary or "-"
        source.lines[("summary",)] = body_line
        record = validate(Record, source)
    reading.records[key] = RecordSource(key, source, None if source.problems else record)
    reading.problems += source.problems


def _read_sizes(path: str, text: str, reading: Reading) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            values = error
        if not isinstance(values, dict):
            what = values if isinstance(values, ValueError) else "no object"
            reading.problems.append(Problem(path, number, f"this is no JSON ({what}); allowed: one JSON object per line"))
            continue
        source = Located(path, values, {(): number})
        size = validate(Size, source)
        reading.problems += source.problems
        if size and size.module in reading.sizes:
            first = reading.sizes[size.module]
            message = f"a second line of `{size.module}`, the first is {first.path}:{first.line}; allowed: one line per implementation"
            reading.problems.append(Problem(path, number, message))
        elif size:
            reading.sizes[size.module] = SizeSource(path, number, size)


READERS = {".bib": _read_bibliography, ".md": _read_record, ".jsonl": _read_sizes}


def _split(text: str) -> tuple[str | None, str, int]:
    """Front matter, body, line of the body; no front matter if the two lines --- are not there."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        return None, "", 1
    for position, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "".join(lines[1:position]), "".join(lines[position + 1 :]), position + 2
    return None, "", 1
