"""Measure the site at scale: `python -m tests.site.measure [PAPERS]` builds it from made-up papers and looks at it with Chromium.

Prints what a page costs to build against a page of plain mkdocs-material with the same text, what the first view of the browse page costs
on the wire, and how long it takes from a click on a facet to the next paint.
"""

import html
import logging
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from mkdocs.commands.build import build as render
from mkdocs.config import load_config
from mkdocs.utils.meta import get_data
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from tests.site import made_up
from tests.site.conftest import FLAGS
from tools.serve import make_server
from tools.site import build

# from the event to the frame after the one in which the page has handled it
CLICK = """(box) => new Promise((done) => {
  const start = performance.now();
  box.click();
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now() - start);
    channel.port2.postMessage(0);
  });
})"""


def write_plainly(pages: Path, folder: Path) -> int:
    """The same pages as ordinary Markdown: title, text and links, one paragraph a block. Gives their number."""
    number = 0
    for path in pages.rglob("*.md"):
        body, head = get_data(path.read_text(encoding="utf-8"))
        text = head.pop("body", "") or body
        text = re.sub(r'<a [^>]*?href="([^"]*)"[^>]*>(.*?)</a>', r"\2 (`\1`)", text, flags=re.DOTALL)
        blocks = (
            re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", block)).strip() for block in re.split(r"</?(?:p|li|div|section|tr|pre)\b", text)
        )
        target = folder / path.relative_to(pages)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            f"# {head.get('title', '')}\n\n" + "\n\n".join(html.unescape(block) for block in blocks if block), encoding="utf-8"
        )
        number += 1
    return number


def build_plainly(folder: Path) -> None:
    """mkdocs-material as it comes, without search and without a page in the navigation but the first."""
    (folder / "mkdocs.yml").write_text(
        "site_name: plain\ntheme: {name: material, font: false}\nplugins: []\nnav: [index.md]\n", encoding="utf-8"
    )
    logging.getLogger("mkdocs").setLevel(logging.ERROR)
    render(load_config(str(folder / "mkdocs.yml")))


def measure(count: int) -> dict[str, str]:
    """What is printed."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = made_up.database(folder / "catalog.sqlite", count)
        started = time.process_time()
        build(database, folder / "site", records=folder / "snippets")
        ours = time.process_time() - started
        pages = write_plainly(folder / "pages", folder / "plain" / "docs")
        started = time.process_time()
        build_plainly(folder / "plain")
        plain = time.process_time() - started
        found["building, CPU s"] = f"{ours:.1f} for {pages:,} pages: {1000 * ours / pages:.1f} ms a page"
        found["plain mkdocs-material, CPU s"] = f"{plain:.1f}: {1000 * plain / pages:.1f} ms a page"
        found["cost per page against plain"] = f"{ours / plain:.2f}"
        server = make_server(folder / "site", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
            page = browser.new_page()
            session = page.context.new_cdp_session(page)
            session.send("Network.enable")
            sizes = []
            session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
            page.goto(f"http://127.0.0.1:{server.server_port}/browse/")
            page.wait_for_selector(".browse[data-ready]")
            page.wait_for_load_state("networkidle")
            found["first view, KB on the wire"] = f"{sum(sizes) / 1000:.0f} in {len(sizes)} requests"
            page.evaluate("for (const facet of document.querySelectorAll('details.facet')) facet.open = true")
            boxes = page.locator("#facets input[type=checkbox]")
            clicks = []
            for at in [0, 1, 4, 9, 20, 41, 42, 43, 50, 60] * 2:
                clicks.append(boxes.nth(at).evaluate(CLICK))
                page.wait_for_selector(".browse:not([data-busy])")
            found["facet click to paint, ms"] = f"median {statistics.median(clicks):.0f}, worst {max(clicks):.0f}"
            sizes.clear()
            page.locator("#text").fill("pruning transf")
            page.wait_for_function("() => location.search.includes('text')")
            page.wait_for_selector(".browse:not([data-busy])")
            found["first search, KB on the wire"] = f"{sum(sizes) / 1000:.0f}"
            browser.close()
        server.shutdown()
        server.server_close()
    return found


if __name__ == "__main__":
    papers = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    table = Table(title=f"The site at {papers:,} papers", show_header=False)
    for what, value in measure(papers).items():
        table.add_row(what, value)
    Console().print(table)
