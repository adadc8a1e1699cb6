"""What the browser filters by: the columns of all papers, their rows in chunks, and an index of their words.

Papers are numbered from 0 in the catalog's own order (year, then key).
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.query import TEXT_WEIGHTS
from schema.records import Paper, fold
from schema.terms import AXIS, FACETS
from tools import formats
from tools.site import cite, lineage, snippets, sources

CHUNK = 500
"""Papers in a file of rows: one file is enough for the first view."""

SHARD_LETTERS = 2
"""Words that begin with the same two letters share a file of the index."""


def write(atlas: Catalog, database: Path, papers: Sequence[Paper], folder: Path, records: Path) -> None:
    """Write into the folder what the scripts of the site fetch; `records` are the recorded snippets."""
    forms = exports(atlas)
    for name in ("papers", "text", *forms):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _dump(folder / "atlas.json", columns(papers))
    _dump(folder / "names.json", names(papers))
    _dump(folder / "keys.json", [paper.key for paper in papers])
    nodes, edges = lineage.field(papers)
    _dump(folder / "lineage.json", {"nodes": nodes, "edges": edges})
    _dump(folder / "implementations.json", implementations(atlas, records))
    for number, start in enumerate(range(0, len(papers), CHUNK)):
        chunk = papers[start : start + CHUNK]
        _dump(folder / "papers" / f"{number}.json", [row(paper) for paper in chunk])
        for name, form in forms.items():
            _dump(folder / name / f"{number}.json", [form(paper) for paper in chunk])
    with sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True) as connection:
        index, shards = words(connection)
    connection.close()
    _dump(folder / "text" / "index.json", index)
    for number, shard in enumerate(shards):
        _dump(folder / "text" / f"{number}.json", shard)


def columns(papers: Sequence[Paper]) -> dict[str, Any]:
    """One column for each axis, the years, and the order by title.

    An axis is `{values, sets, column}`: the names of its values; every combination of values that some paper carries, as positions in
    `values`; and for each paper the position of its combination in `sets`.
    """
    axes = {}
    for axis, terms in FACETS.items():
        values = [str(term) for term in terms]
        position = {value: index for index, value in enumerate(values)}
        sets: dict[tuple[int, ...], int] = {}
        column = [sets.setdefault(tuple(position[str(tag)] for tag in paper.tags(axis)), len(sets)) for paper in papers]
        axes[axis] = {"values": values, "sets": [list(combination) for combination in sets], "column": column}
    by_title = sorted(range(len(papers)), key=lambda number: (fold(papers[number].title), number))
    return {
        "count": len(papers),
        "chunk": CHUNK,
        "csv": ",".join(formats.FIELDS),
        "years": [paper.year for paper in papers],
        "by_title": by_title,
        "axes": axes,
    }


def names(papers: Sequence[Paper]) -> dict[str, list[list[Any]]]:
    """What a search field completes: names of papers with their numbers, titles of the taxonomy's values with axis and address."""
    terms = [[term.title, AXIS[axis].title, f"taxonomy/{axis}/{term}/"] for axis, terms in FACETS.items() for term in terms]
    return {"papers": [[paper.name, number] for number, paper in enumerate(papers) if paper.name], "terms": terms}


def implementations(atlas: Catalog, records: Path) -> dict[str, dict[str, Any]]:
    """Module -> what a comparison shows of it."""
    found = {}
    sizes = atlas.sizes()
    for module in (implementation.module for implementation in atlas.implementations()):
        source = sources.read(module)
        recording = snippets.recorded(module, records=records)
        found[module] = {
            "name": source.name,
            "promise": source.promise,
            "declared": {sources.DECLARED[name]: values for name, values in source.declared.items() if values},
            "lines": source.lines,
            "measured": sizes[module].model_dump() if module in sizes else None,
            "snippet": snippets.snippet(module),
            "output": recording.output if recording else None,
        }
    return found


def exports(atlas: Catalog) -> dict[str, Callable[[Paper], Any]]:
    """Format -> what stands in it for a paper: the browser only joins these. `csv` is the row without its header."""
    return {
        "bib": lambda paper: atlas.bibtex(paper.key),
        "csv": lambda paper: formats.as_csv([paper]).partition("\n")[2],
        "json": formats.as_object,
        "ris": cite.ris,
    }


def row(paper: Paper) -> list[Any]:
    """What a list shows of a paper: key, title, name, authors, venue, implementation."""
    link = paper.reference()
    return [
        paper.key,
        paper.title,
        paper.name,
        [author.name for author in paper.authors],
        paper.venue.abbreviation if paper.venue else None,
        link.implementation if link else None,
    ]


def words(connection: sqlite3.Connection) -> tuple[dict[str, Any], list[dict[str, list[list[int | float]]]]]:
    """The full-text index of SQLite in files, so that the browser ranks as `bm25` does there.

    Returns:
        index: `lengths` (words of each paper), `shards` (first letters -> number of the file).
        shards: word -> [papers, how often it occurs in each, each time counted with the weight of its column].
    """
    connection.execute("CREATE VIRTUAL TABLE temp.instance USING fts5vocab(main, paper_text, instance)")
    weight = dict(zip(("title", "name", "authors", "summary"), TEXT_WEIGHTS, strict=True))
    lengths: dict[int, int] = defaultdict(int)
    found: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for word, paper, column in connection.execute("SELECT term, doc, col FROM temp.instance ORDER BY term, doc"):
        lengths[paper - 1] += 1
        found[word][paper - 1] += weight[column]
    (count,) = connection.execute("SELECT count(*) FROM paper_text").fetchone()
    shards: dict[str, dict[str, list[list[int | float]]]] = defaultdict(dict)
    for word, papers in found.items():
        shards[word[:SHARD_LETTERS]][word] = [list(papers), [int(value) if value.is_integer() else value for value in papers.values()]]
    index = {"lengths": [lengths[paper] for paper in range(count)], "shards": {letters: number for number, letters in enumerate(shards)}}
    return index, list(shards.values())


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
