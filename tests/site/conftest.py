"""A site of made-up papers, served on this machine, and a Chromium to look at it."""

import json
import shutil
import threading
from dataclasses import asdict

import pytest
from playwright.sync_api import sync_playwright

from catalog import Catalog
from tests.site import made_up
from tools.serve import make_server
from tools.site import build, snippets

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
PAPERS = 400
RECORDED = "before_training.snip"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """(folder, database) of a built site, with one snippet that was recorded."""
    folder = tmp_path_factory.mktemp("atlas")
    (folder / "snippets").mkdir()
    recording = snippets.Recording(RECORDED, snippets.snippet(RECORDED), "as recorded", "", 1.5, "")
    (folder / "snippets" / f"{RECORDED}.json").write_text(json.dumps(asdict(recording)))
    database = made_up.database(folder / "catalog.sqlite", PAPERS)
    build(database, folder / "site", records=folder / "snippets")
    return folder / "site", database


@pytest.fixture(scope="session")
def atlas(site):
    with Catalog.open(site[1]) as opened:
        yield opened


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served, with a slash at the end."""
    server = make_server(site[0], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def chromium():
    executable = shutil.which("chromium")
    assert executable, "the browser tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS.split())
        yield browser
        browser.close()


class Visitor:
    """A browser window that notes every complaint of the console and every request to another host."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.address = address
        self.complaints = []
        self.strangers = []
        self.context.on("page", self._watch)
        self.page = self.context.new_page()

    def _watch(self, page):
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith((self.address, "blob:", "data:")) else self.strangers.append(request.url),
        )

    def go(self, path="", page=None):
        page = page or self.page
        page.goto(self.address + path)
        if path.startswith("browse"):
            page.wait_for_selector(".browse[data-ready]")
        return page


@pytest.fixture
def visit(chromium, address):
    """Makes a visitor; at the end no visitor may have met a complaint or a stranger."""
    visitors = []

    def make(**options):
        visitors.append(Visitor(chromium, address, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]
    assert [visitor.strangers for visitor in visitors] == [[] for _ in visitors]
