"""The command line, `pruning-atlas`: build and check the catalog, ask it, run a paper's implementation, make and serve the site."""

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from catalog import Catalog, CatalogError, InvalidCatalog, QueryError
from catalog.problem import nearest, not_allowed
from catalog.read import ROOT, sources
from schema.records import SETTINGS, Paper
from schema.terms import AXES, FACETS, Relation, Term
from tools import formats

app = typer.Typer(
    help="The field of neural network pruning: query the catalog, run the reference implementations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
REBUILD = "run: make catalog"
PATIENCE = 2.0
"""Seconds after which work shows its progress."""


class Format(StrEnum):
    """How `query` prints papers."""

    TABLE = "table"
    JSON = "json"
    BIBTEX = "bibtex"
    CSV = "csv"
    KEYS = "keys"


class Shown(StrEnum):
    """How `show` and `facets` print."""

    TABLE = "table"
    JSON = "json"


Root = Annotated[Path, typer.Option("--root", help="Repository whose catalog is meant.", show_default=False)]
Years = Annotated[str | None, typer.Option("--years", help="A year, or first-last: 2018-2021.", metavar="YEARS")]
Words = Annotated[str | None, typer.Option("--text", help="Words that all occur in title, name, authors or summary.", metavar="WORDS")]
Key = Annotated[str, typer.Argument(help="Key of a paper, as in lee2019snip.", metavar="KEY", show_default=False)]


def database(root: Path) -> Path:
    """Where the catalog of a repository is built."""
    return root / "build" / "catalog.sqlite"


def out() -> Console:
    """Standard output; wide where nobody looks at it, so that nothing is cut off."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def note(text: str) -> None:
    """Say something beside the result, on standard error."""
    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


def fail(text: str, status: int = 1) -> NoReturn:
    """Say what is wrong and stop."""
    note(text)
    raise typer.Exit(status)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, of) that shows a bar on standard error once the work takes longer than `PATIENCE`."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=None)
    begun = time.monotonic()

    def advance(done: int, of: int) -> None:
        if time.monotonic() - begun > PATIENCE and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=of)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def opened(root: Path) -> Iterator[Catalog]:
    """The catalog; what goes wrong with it or with the question is said, not raised."""
    path = database(root)
    try:
        with Catalog.open(path) as atlas:
            newest = max((source.stat().st_mtime for source in _watched(root)), default=0.0)
            if newest > path.stat().st_mtime:
                note(f"{path} is older than the text files; {REBUILD}")
            yield atlas
    except QueryError as error:
        fail(str(error), status=2)
    except CatalogError as error:
        fail(str(error))


def _watched(root: Path) -> list[Path]:
    """The text files, and their folders, whose time changes when a file goes."""
    folders = [root / "catalog" / "bibliography", root / "catalog" / "papers"]
    return [path for path in [*sources(root), *folders] if path.exists()]


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each facet, and what was asked as one argument `filters`."""

    def run(context: typer.Context, **values: Any) -> None:
        if context.args:
            options = sorted(option for parameter in context.command.params for option in parameter.opts)
            fail(not_allowed("option", context.args[0].partition("=")[0], options), status=2)
        filters = {axis: values.pop(axis) for axis in FACETS}
        years, text = _years(values.pop("years")), values.pop("text")
        command(filters={"text": text, "years": years} | filters, **values)

    axes = [
        inspect.Parameter(
            axis,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Option(f"--{axis}", help="Any of: " + ", ".join(terms) + ".", metavar="VALUE", rich_help_panel="Facets (repeatable)"),
            ],
        )
        for axis, terms in FACETS.items()
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    asked = [
        inspect.Parameter("text", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Words),
        inspect.Parameter("years", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Years),
    ]
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "filters"]
    parameters = [first, *asked, *axes, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads the options from it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _years(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    first, _, last = given.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or given.endswith("-"):
        fail(f"unknown years `{given}`; allowed: a year, or first-last: 2018-2021", status=2)
    return int(first), int(last or first)


LENIENT = {"ignore_unknown_options": True, "allow_extra_args": True}  # so that an unknown axis is told what is allowed


@app.command(context_settings=LENIENT)
@filtered
def query(filters: dict[str, Any], format: Annotated[Format, typer.Option(help="How to print.")] = Format.TABLE, root: Root = ROOT) -> None:
    """List the papers that match: values of one facet are alternatives, facets narrow each other down."""
    with opened(root) as atlas:
        if format is Format.KEYS:
            sys.stdout.writelines(f"{key}\n" for key in atlas.keys(**filters))
            return
        papers = atlas.papers(**filters)
        if format is Format.TABLE:
            if papers:
                out().print(_table(papers))
            note(f"{len(papers)} of {len(atlas)} papers")
        elif format is Format.BIBTEX:
            sys.stdout.write("\n".join(atlas.bibtex(paper.key) for paper in papers))
        else:
            sys.stdout.write(formats.as_json(papers) if format is Format.JSON else formats.as_csv(papers))


def _table(papers: list[Paper]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("key", no_wrap=True)
    for column in ("title", "year", "venue", "speedup", "when", "how", "implementation"):
        table.add_column(column)
    for paper in papers:
        link = paper.reference()
        cells = (
            *(paper.key, paper.title, str(paper.year or ""), paper.venue.abbreviation if paper.venue else ""),
            *(", ".join(paper.tags(axis)) for axis in ("speedup", "when", "how")),
            f"{link.implementation} ({link.relation})" if link else "",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


@app.command(context_settings=LENIENT)
@filtered
def facets(filters: dict[str, Any], format: Annotated[Shown, typer.Option(help="How to print.")] = Shown.TABLE, root: Root = ROOT) -> None:
    """Count, for each value of each facet, the papers that match all other facets and carry it."""
    with opened(root) as atlas:
        counts = atlas.facets(**filters)
    if format is Shown.JSON:
        sys.stdout.write(formats.dump(counts))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("facet", "value"):
        table.add_column(column)
    table.add_column("papers", justify="right")
    for axis, values in counts.items():
        for value, count in values.items():
            if count:
                table.add_row(axis, value, str(count))
    out().print(table)


@app.command()
def show(key: Key, format: Annotated[Shown, typer.Option(help="How to print.")] = Shown.TABLE, root: Root = ROOT) -> None:
    """Show everything about a paper."""
    with opened(root) as atlas:
        paper = _paper(atlas, key)
        later = atlas.extended_by(key)
        bibtex = atlas.bibtex(key)
    if format is Shown.JSON:
        sys.stdout.write(formats.dump(formats.as_object(paper) | {"extended_by": later}))
        return
    console = out()
    console.print(Text(paper.title, style="bold"))
    console.print(Text(", ".join(author.name for author in paper.authors) or "No author list found."))
    console.print(Text(", ".join(str(part) for part in (paper.venue.name if paper.venue else None, paper.year) if part)))
    console.print()
    console.print(Text(paper.summary))
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, lines in _facts(paper, later):
        table.add_row(Text(label), Text("\n".join(lines)))
    console.print(table)
    console.print()
    console.print(Text(bibtex.rstrip()))


def _facts(paper: Paper, later: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Label and lines of what is known about a paper; nothing that is empty."""
    facts = {
        "key": [paper.key],
        "name": [paper.name or ""],
        "kind": [paper.kind.title],
        **{axis.replace("_", " "): [_tagged(paper, axis)] for axis in AXES},
        "DOI": [paper.doi or ""],
        "arXiv": [paper.arxiv or ""],
        "OpenReview": [paper.openreview or ""],
        "address": [paper.url or ""],
        "code": list(paper.code),
        "implementation": [f"{link.implementation} ({link.relation}) {link.differs or ''}".rstrip() for link in paper.references],
        "reported": [formats.reported(number) for number in paper.reported],
        "builds on": list(paper.builds_on),
        "extended by": later,
        "read in": [paper.source],
    }
    return ((label, lines) for label, lines in facts.items() if any(lines))


def _tagged(paper: Paper, axis: str) -> str:
    terms: tuple[Term, ...] = paper.tags(axis)
    if not terms:
        return ""
    other = f" ({paper.taxonomy.how_note})" if axis == "how" and paper.taxonomy.how_note else ""
    evidence = paper.evidence["settings" if axis in SETTINGS else axis]
    return f"{', '.join(terms)}{other}  [{evidence.title.lower()}]"


def _paper(atlas: Catalog, key: str) -> Paper:
    if key not in atlas:
        guess = nearest(key, atlas)
        fail(f"no paper `{key}`" + (f"; nearest: {guess}" if guess else "; allowed: a key that `pruning-atlas query --format keys` lists"))
    return atlas[key]


@app.command()
def check(
    doubts: Annotated[bool, typer.Option("--doubts", help="Also list what is not certain.")] = False,
    coverage: Annotated[bool, typer.Option("--coverage", help="Also count papers by relation to an implementation and value.")] = False,
    root: Root = ROOT,
) -> None:
    """Find everything that is wrong with the text files; exit 1 if anything is."""
    from catalog import check as checks
    from catalog.read import read

    with progress("Reading the catalog") as advance:
        reading = read(root, advance)
        problems = checks.check(reading, root)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    if doubts:
        for question, keys in checks.doubts(reading.papers).items():
            out().print(Text(f"{question}: {len(keys)}", style="bold"))
            sys.stdout.writelines(f"  {key}\n" for key in keys)
    if coverage:
        out().print(_coverage(checks.coverage(reading.papers)))
    if problems:
        fail(f"{len(problems)} problems")
    people = {author for paper in reading.papers for author in paper.authors}
    modules = {link.implementation for paper in reading.papers for link in paper.references}
    venues = {paper.venue for paper in reading.papers if paper.venue}
    counts = f"{len(reading.papers)} papers, {len(people)} people, {len(venues)} venues, {len(modules)} implementations"
    sys.stdout.write(f"{counts}: no problems\n")


def _coverage(counts: dict[str, dict[str, dict[str, int]]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("facet")
    table.add_column("value")
    for relation in Relation:
        table.add_column(relation, justify="right")
    for axis, values in counts.items():
        for value, relations in values.items():
            table.add_row(axis, value, *(str(relations[relation]) for relation in Relation))
    return table


@app.command()
def build(root: Root = ROOT) -> None:
    """Check the text files and store them in build/catalog.sqlite; on any problem the old file stays."""
    from catalog import store

    try:
        with progress("Building the catalog") as advance:
            reading = store.build(database(root), root, advance)
    except InvalidCatalog as error:
        sys.stdout.writelines(f"{problem}\n" for problem in error.problems)
        fail(f"{len(error.problems)} problems: {database(root)} was left as it was")
    note(f"{len(reading.papers)} papers in {database(root)}")


@app.command()
def run(key: Key, root: Root = ROOT) -> None:
    """Run the demonstration of a paper's closest implementation and print what it does."""
    with opened(root) as atlas:
        link = _paper(atlas, key).reference()
    assert link, "every paper of a catalog that was built has a link"
    snippet = root / "site_src" / "snippets" / f"{link.implementation.replace('.', '/')}.py"
    if not snippet.is_file():
        fail(f"no demonstration of {link.implementation}; allowed: a file {snippet}")
    match link.relation:
        case Relation.IMPLEMENTS:
            note(f"Running {link.implementation}, which implements {key} ...")
        case Relation.NEAREST:
            note(f"{key} is not implemented yet; running the nearest, {link.implementation} ...")
        case _:
            note(f"Running {link.implementation} ({link.relation} of {key}): {link.differs} ...")
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, str(snippet)], stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
    if process.returncode:
        fail(f"{snippet} failed with exit status {process.returncode}")


@app.command()
def site(root: Root = ROOT) -> None:
    """Write the site to build/site/ from the built catalog."""
    from tools.site import build as build_site

    with opened(root):
        build_site(database(root), root / "build" / "site")


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=0, max=65535)] = 8000,
    run_limit: Annotated[float, typer.Option(help="Seconds after which a snippet that a page runs is ended.", min=1)] = 60,
    root: Root = ROOT,
) -> None:
    """Serve build/site/ at http://127.0.0.1:8000, with snippets that can be edited and run."""
    from tools.live import Live
    from tools.serve import serve as serve_site

    folder = root / "build" / "site"
    if not (folder / "index.html").is_file():
        fail(f"no site at {folder}; run: make site")
    serve_site(folder, port, Live(root, run_limit))


if __name__ == "__main__":
    app()
