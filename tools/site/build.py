"""From the database to the site: record snippets, write pages and data, let MkDocs render them."""

import logging
import shutil
from pathlib import Path

from mkdocs.commands.build import build as render
from mkdocs.config import load_config
from mkdocs.utils.yaml import yaml_load
from rich.console import Console

from catalog import Catalog
from tools.site import facets, snippets
from tools.site.pages import RESULTS, Pages

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "site_src"

console = Console(stderr=True)


def build(database: Path, out: Path, *, records: Path | None = None, results: Path = RESULTS) -> None:
    """Build the whole site.

    Args:
        database: the catalog's SQLite file.
        out: folder that holds the site afterwards; the pages that MkDocs reads are written beside it, to `pages`.
        records: folder of snippet recordings to show as they are; by default those of `build/snippets`, brought up to date first.
        results: file with the last outcome of every test; where there is none the pages say so.

    Raises:
        CatalogError: there is no catalog there.
        mkdocs.exceptions.Abort: MkDocs warned of something, a broken link for example.
    """
    if records is None:
        for recording in snippets.record():
            if recording.error:
                console.print(f"[yellow]snippet {recording.module}: {recording.error}", highlight=False)
    pages = out.with_name("pages")
    with Catalog.open(database) as atlas:
        write(atlas, database, pages, records or snippets.RECORDS, repository(), results)
        _render(pages, out, len(atlas))


def repository() -> str:
    """Where the atlas is public, as mkdocs.yml says; empty if it is not."""
    return str(yaml_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["repo_url"])


def write(atlas: Catalog, database: Path, pages: Path, records: Path, repository: str = "", results: Path = RESULTS) -> None:
    """Write everything that MkDocs reads into the folder `pages`."""
    shutil.rmtree(pages, ignore_errors=True)
    papers = atlas.papers()
    Pages(atlas, papers, pages, records, results, repository).write()
    with console.status(f"Writing the columns and words of {len(papers)} papers"):
        facets.write(atlas, database, papers, pages / "data", records)
    modules = (implementation.module for implementation in atlas.implementations())
    snippets.write(modules, pages / "data" / "snippets", records, repository)
    shutil.copytree(SOURCES / "docs", pages / "docs", dirs_exist_ok=True)
    shutil.copytree(SOURCES / "static", pages / "static")


def _render(pages: Path, out: Path, papers: int) -> None:
    speak = _Speak(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.setLevel(logging.WARNING)
    logger.addHandler(speak)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(out), strict=True)
        with console.status(f"Rendering {papers} papers"):
            render(config)
    finally:
        logger.removeHandler(speak)


class _Speak(logging.Handler):
    """Prints what MkDocs warns of: on its own it only counts the warnings, and ends."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage(), highlight=False, markup=False)
