"""What a page says to machines of where it stands: only what is so."""

import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from schema.terms import FACETS
from tests.site import made_up
from tools.site import build

PUBLIC = "https://atlas.example.org/pruning/"
CANONICAL = re.compile(r'<link rel="canonical" href="([^"]*)">')
PROPERTY = re.compile(r'<meta property="(og:[^"]*)" content="([^"]*)">')
CARDS = Path(__file__).parents[2] / "site_src" / "static" / "cards"
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
    tree = ElementTree.parse(published / "sitemap.xml")
    named = [place.text for place in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
    assert len(named) == len(set(named))
    assert set(named) == {PUBLIC + address for address in pages}
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


def test_a_site_without_an_address_claims_none(site):
    folder, _ = site
    assert list(folder.glob("sitemap.xml*")) == []
    for address in ("", "browse/", "taxonomy/how/"):
        text = (folder / address / "index.html").read_text(encoding="utf-8")
        assert CANONICAL.findall(text) == []
        assert not {"og:url", "og:image"} & set(dict(PROPERTY.findall(text)))
        assert "og:title" in dict(PROPERTY.findall(text))
