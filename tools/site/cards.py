"""Draw the pictures that stand for a page where its link is shared: `python -m tools.site.cards`, with Chromium.

One for each kind of page, drawn once and kept in `site_src/static/cards`: one for each paper would cost more than the rest of the build.
"""

import random
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from playwright.sync_api import sync_playwright

SOURCES = Path(__file__).parents[2] / "site_src"
WIDTH, HEIGHT = 1200, 630
SIDE = 8
"""Rows and columns of the weights on a card."""

Cells = set[tuple[int, int]]
CELLS = [(row, column) for row in range(SIDE) for column in range(SIDE)]


def _scattered() -> Cells:
    return set(random.Random(3).sample(CELLS, 22))


def _two_of_four() -> Cells:
    draw = random.Random(5)
    return {(row, start + place) for row in range(SIDE) for start in (0, 4) for place in draw.sample(range(4), 2)}


def _columns() -> Cells:
    return {(row, column) for row, column in CELLS if column in (0, 3, 4, 6)}


def _blocks() -> Cells:
    return {(row, column) for row, column in CELLS if (row // 2, column // 2) in {(0, 0), (0, 3), (1, 1), (2, 0), (2, 2), (3, 3)}}


CARDS = {
    "atlas": ("Neural network pruning, read, queried and run", "Every paper, its tags, and code with tests", _blocks()),
    "paper": ("A paper on pruning, read and tagged", "What goes, when, by which criterion; and what runs it", _scattered()),
    "code": ("A pruning algorithm that you can run", "Minimal PyTorch, tested against what the paper says", _two_of_four()),
    "taxonomy": ("A term of the field, defined", "When a paper gets it, and which papers carry it", _columns()),
}
"""Card -> its title, its line, and which weights are kept: in blocks, scattered, two of four, in whole columns."""


def draw(folder: Path) -> None:
    """Write a PNG of 1200 by 630 pixels for each card."""
    template = Environment(loader=FileSystemLoader(SOURCES / "templates"), autoescape=True).get_template("card.html")
    page_file = SOURCES / "card.html"  # beside `static`, so that its fonts are found
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        try:
            for name, (title, line, kept) in CARDS.items():
                page_file.write_text(template.render(title=title, line=line, kept=kept), encoding="utf-8")
                page.goto(page_file.as_uri())
                page.evaluate("document.fonts.ready")
                page.screenshot(path=folder / f"{name}.png")
        finally:
            page_file.unlink(missing_ok=True)
            browser.close()


if __name__ == "__main__":
    draw(SOURCES / "static" / "cards")
