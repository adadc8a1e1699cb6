"""Measure the site at scale: `python -m tests.site.measure [PAPERS]` builds it from made-up papers and looks at it with Chromium.

Prints what the first view of the browse page costs on the wire, and how long it takes from a click on a facet to the next paint.
"""

import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

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


def measure(count: int) -> dict[str, str]:
    """What is printed."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = made_up.database(folder / "catalog.sqlite", count)
        started = time.process_time()
        build(database, folder / "site", records=folder / "snippets")
        found["building, CPU s"] = f"{time.process_time() - started:.1f}"
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
