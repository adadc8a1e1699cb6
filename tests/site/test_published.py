"""What a page says to machines of where it stands: only what is so."""

import html
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from schema.terms import FACETS
from tests.site import made_up
from tools.site import build

PUBLIC = "https://atlas.example.org/pruning/"
CANONICAL = re.compile(r'<link rel="canonical" href="([^"]*)">')
PROPERTY = re.compile(r'<meta property="(og:[^"]*)" content="([^"]*)">')
ROOT = Path(__file__).parents[2]
CARDS = ROOT / "site_src" / "static" / "cards"
PAPERS = 30


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a small site that was built for a public address."""
    folder = tmp_path_factory.mktemp("published")
    database = made_up.database(folder / "catalog.sqlite", PAPERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SITE_URL", PUBLIC)
        build(database, folder / "site", records=folder / "snippets")
    return folder / "site"


def addresses(folder):
    """Address under the site's root -> the text of the page."""
    pages = {path.relative_to(folder).as_posix().removesuffix("index.html"): path for path in folder.rglob("*.html")}
    return {address: path.read_text(encoding="utf-8") for address, path in pages.items() if address != "404.html"}


def test_the_sitemap_names_every_page_once_and_each_is_its_own_canonical(published):
    pages = addresses(published)
    assert places_in(published / "sitemap.xml") == {PUBLIC + address for address in pages}
    assert (published / "sitemap.xml").read_text(encoding="utf-8").count("<loc>") == len(pages)
    assert len([address for address in pages if re.fullmatch("papers/[^/]+/", address)]) == PAPERS
    assert len(pages) > PAPERS + sum(len(terms) + 1 for terms in FACETS.values())
    for address, text in pages.items():
        assert CANONICAL.findall(text) == [PUBLIC + address]
        assert dict(PROPERTY.findall(text))["og:url"] == PUBLIC + address


def test_every_card_is_a_picture_of_its_stated_size(published):
    seen = set()
    for address, text in addresses(published).items():
        card = dict(PROPERTY.findall(text))
        path = published / card["og:image"].removeprefix(PUBLIC)
        assert card["og:image"].startswith(PUBLIC), address
        header = path.read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", header[16:]) == (int(card["og:image:width"]), int(card["og:image:height"])) == (1200, 630)
        seen.add((address.partition("/")[0], path.name))
    assert {("papers", "paper.png"), ("implementations", "code.png"), ("taxonomy", "taxonomy.png"), ("browse", "atlas.png")} <= seen
    assert {name for _, name in seen} == {path.name for path in CARDS.iterdir()}


@pytest.fixture(scope="module")
def under_zensical(published):
    """The same pages, rendered by Zensical, which follows Material for MkDocs."""
    folder = published.parent
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    places = {
        "docs_dir: build/pages": "docs_dir: pages",
        "site_dir: build/site": "site_dir: zensical",
        "custom_dir: site_src/overrides": f"custom_dir: {ROOT}/site_src/overrides",
        "paths: [.]": f"paths: [{ROOT}]",
    }
    for before, after in places.items():
        assert config.count(before) == 1
        config = config.replace(before, after)
    (folder / "mkdocs.yml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--config-file", "mkdocs.yml"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"SITE_URL": PUBLIC}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "zensical"


def test_the_same_sources_build_under_zensical(published, under_zensical):
    ours, theirs = addresses(published), addresses(under_zensical)
    assert set(theirs) == set(ours)
    for address, text in ours.items():
        assert CANONICAL.findall(theirs[address]) == CANONICAL.findall(text) == [PUBLIC + address]
        assert PROPERTY.findall(theirs[address])[-5:-1] == PROPERTY.findall(text)[-5:-1], address  # the card
        assert [shown(theirs[address], tag) for tag in ("main", "nav")] == [shown(text, tag) for tag in ("main", "nav")], address
    assert places_in(under_zensical / "sitemap.xml") == places_in(published / "sitemap.xml")


def shown(text, tag):
    """What stands in a part of a page, letters only: the two lay out markup and entities in ways of their own."""
    part = text[text.index(f"<{tag}") : text.index(f"</{tag}>")]
    return re.sub(r"\W|\d", "", html.unescape(re.sub(r"<[^>]+>", "", part)))


def places_in(sitemap):
    return {place.text for place in ElementTree.parse(sitemap).iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")}


def test_a_site_without_an_address_claims_none(site):
    folder, _ = site
    assert list(folder.glob("sitemap.xml*")) == []
    for address in ("", "browse/", "taxonomy/how/"):
        text = (folder / address / "index.html").read_text(encoding="utf-8")
        assert CANONICAL.findall(text) == []
        assert not {"og:url", "og:image"} & set(dict(PROPERTY.findall(text)))
        assert "og:title" in dict(PROPERTY.findall(text))
