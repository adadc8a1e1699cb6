"""What is written, and what comes out of MkDocs: no text of the catalog is ever markup, and no link of the site leads nowhere."""

import html
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from mkdocs.utils.meta import get_data

from catalog import Catalog
from catalog.store import store
from schema.records import Size
from schema.terms import FACETS
from tests.site import made_up
from tests.site.made_up import HOSTILE
from tools.site import build
from tools.site.build import repository, write
from tools.site.pages import front_matter

PAPERS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    database = made_up.database(folder / "catalog.sqlite", PAPERS)
    build(database, folder / "site", records=folder / "snippets")
    return folder


@pytest.fixture(scope="module")
def papers(folder):
    with Catalog.open(folder / "catalog.sqlite") as atlas:
        return atlas.papers()


class Page(HTMLParser):
    """Links, ids and scripts of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.scripts, self.attributes, self.text = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.links += [given[name] for name in ("href", "src", "action") if given.get(name)]
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "script":
            self.scripts.append(given)

    def handle_data(self, data):
        self.text.append(data)


def test_snippets_open_in_colab_where_the_source_is_public(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REPO_URL", "https://github.com/owner/name")
    with Catalog.open(folder / "catalog.sqlite") as atlas:
        write(atlas, folder / "catalog.sqlite", tmp_path / "pages", folder / "snippets", repository())
        papers = atlas.papers(relation="implements")
    linked = 0
    for page in [f"papers/{paper.key}.md" for paper in papers] + [
        f"implementations/{paper.references[0].implementation}.md" for paper in papers
    ]:
        private, public = ((root / "pages" / page).read_text(encoding="utf-8") for root in (folder, tmp_path))
        found = public.count("https://colab.research.google.com/github/owner/name/blob/")
        assert found == public.count("data-module=") == private.count("data-module="), page
        assert "colab" not in private, page
        linked += found
    assert linked > len(papers)


def text_of(path):
    """A written page as a reader sees it."""
    body = yaml.safe_load(path.read_text(encoding="utf-8").split("\n---\n")[0])["body"]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_measured_numbers_stand_with_their_provenance_and_none_is_invented(folder, tmp_path):
    measured, other = made_up.modules()[:2]
    size = Size(
        module=measured,
        network="resnet8",
        amount="sparsity 0.5",
        parameters_before=19810,
        parameters_after=5142,
        weight_sparsity=0.0,
        macs_before=193344,
        macs_after=49568,
        bytes_before=80656,
        bytes_after=21312,
        latency_ratio=0.866,
        rounds=9,
        date="2026-11-21",
        torch="2.13.0",
        processor="Made Up 9000",
    )
    database = tmp_path / "catalog.sqlite"
    store(made_up.papers(PAPERS), made_up._VENUES, database, [size])
    with Catalog.open(database) as atlas:
        write(atlas, database, tmp_path / "pages", folder / "snippets")
        keys = {paper.references[0].implementation: paper.key for paper in reversed(atlas.papers(relation="implements"))}
    for page in (f"implementations/{measured}.md", f"papers/{keys[measured]}.md"):
        text = text_of(tmp_path / "pages" / page)
        assert "Parameters 19,810 5,142 26 %" in text
        assert "Multiply-accumulates, one example 193,344 49,568 26 %" in text
        assert "Bytes in memory 80,656 21,312 26 %" in text
        assert "Zeros among the weights 0 %" in text
        assert "Time of a forward pass 1 0.87 87 %" in text
        assert "Measured on resnet8 with sparsity 0.5, 2026-11-21, PyTorch 2.13.0, one thread of Made Up 9000" in text
        assert "To gain from it: Nothing special" in text
    for page in (f"implementations/{other}.md", f"papers/{keys[other]}.md"):
        assert "Sizes and time: not measured yet." in text_of(tmp_path / "pages" / page)


def test_the_last_results_of_the_tests_are_shown_and_unknown_without_them(folder, tmp_path):
    module = made_up.modules()[0]
    own = f"tests/reference_impls/{module.replace('.', '/test_')}.py::test_"
    battery = f"tests/reference_impls/test_contract.py::test_law[{module}]"
    results = tmp_path / "tests.json"
    page = tmp_path / "pages" / "implementations" / f"{module}.md"
    with Catalog.open(folder / "catalog.sqlite") as atlas:
        write(atlas, folder / "catalog.sqlite", tmp_path / "pages", folder / "snippets", results=results)
        assert "Tests: not run in this build." in text_of(page)
        results.write_text(
            json.dumps({own + "sign": ["passed", 0.1], battery: ["passed", 0.2], "tests/test_other.py::test_x": ["failed", 1]})
        )
        write(atlas, folder / "catalog.sqlite", tmp_path / "pages", folder / "snippets", results=results)
        assert "2 passed when the tests last ran" in text_of(page)
        results.write_text(json.dumps({own + "sign": ["failed", 0.1], battery: ["passed", 0.2]}))
        write(atlas, folder / "catalog.sqlite", tmp_path / "pages", folder / "snippets", results=results)
    assert "1 of 2 failed when the tests last ran" in text_of(page)
    assert "failed test_sign" in text_of(page).replace(f"{module.replace('.', '/test_')}.py::", "")


@pytest.fixture(scope="module")
def pages(folder):
    site = folder / "site"
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_paper_value_and_implementation_has_its_address(pages, papers):
    modules = {link.implementation for paper in papers for link in paper.references}
    expected = {f"papers/{paper.key}/index.html" for paper in papers}
    expected |= {f"implementations/{module}/index.html" for module in modules}
    expected |= {f"taxonomy/{axis}/{term}/index.html" for axis, terms in FACETS.items() for term in terms}
    expected |= {"index.html", "browse/index.html", "taxonomy/index.html", "implementations/index.html", "404.html"}
    assert expected <= set(pages)


def test_every_link_of_the_site_leads_somewhere(pages, folder):
    site = folder / "site"
    broken = set()
    for name, page in pages.items():
        here = "http://atlas/" + name.removesuffix("index.html")
        for link in page.links:
            target = urlsplit(urljoin(here, link))
            if target.netloc != "atlas" or target.scheme != "http":
                continue
            path = unquote(target.path).lstrip("/")
            file = path + "index.html" if path.endswith("/") or not path else path
            if not (site / file).is_file() or (target.fragment and file in pages and target.fragment not in pages[file].ids):
                broken.add((name, link))
    assert broken == set()


def test_links_to_other_hosts_are_links_only(folder):
    loaded = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["'](?:https?:)?//""")
    for path in (folder / "site").rglob("*.html"):
        assert not loaded.search(path.read_text(encoding="utf-8")), path


def test_nothing_inline_that_the_policy_forbids(pages):
    for name, page in pages.items():
        assert not [attribute for _, attribute, _ in page.attributes if attribute.startswith("on") or attribute == "style"], name
        assert all("src" in script or script.get("type") == "application/ld+json" for script in page.scripts), name
        assert not any(value.strip().lower().startswith("javascript:") for _, _, value in page.attributes), name


def test_a_hostile_title_is_text_in_every_file(folder, pages, papers):
    paper = next(paper for paper in papers if paper.title == HOSTILE)
    page = pages[f"papers/{paper.key}/index.html"]
    assert sum(HOSTILE in text for text in page.text) >= 4  # title, heading, name, summary
    for path in (folder / "site").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<script>alert" not in text, path
        assert "<b>Mallory" not in text, path
        assert 'href="javascript' not in text, path
    head = yaml.safe_load((folder / "pages" / "papers" / f"{paper.key}.md").read_text(encoding="utf-8").split("\n---\n")[0])
    assert head["title"] == HOSTILE
    assert "<" not in head["linked_data"]
    assert json.loads(head["linked_data"])["headline"] == HOSTILE


def test_titles_stand_on_their_pages_unchanged(folder, papers):
    for paper in papers:
        text = (folder / "site" / "papers" / paper.key / "index.html").read_text(encoding="utf-8")
        assert f"<h1>{html.escape(paper.title, quote=False)}</h1>" in text
        assert re.search(rf'<meta name="citation_title" content="{re.escape(html.escape(paper.title))}">', text)


def test_the_same_catalog_gives_the_same_pages(folder, tmp_path):
    # the last results of the tests are no part of the catalog, and change while tests run
    results = tmp_path / "tests.json"
    results.write_text('{"tests/reference_impls/before_training/test_snip.py::test_one": ["passed", 0.1]}')
    build(folder / "catalog.sqlite", tmp_path / "once" / "site", records=folder / "snippets", results=results)
    build(folder / "catalog.sqlite", tmp_path / "site", records=folder / "snippets", results=results)

    def contents(root):
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.suffix in (".md", ".json")
        }

    once = contents(tmp_path / "once" / "pages")
    assert once == contents(tmp_path / "pages")
    assert "1 passed" in once["implementations/before_training.snip.md"].decode()


@given(st.text(), st.lists(st.text()))
@example('---\n"', ["...", "\u2028\x85\ufeff", "a: b # c", "\\u0041", "{{ x }}", "\x00\x07\x1b"])
def test_front_matter_gives_every_text_back(text, texts):
    written = front_matter({"title": text, "citation": texts, "body": text})
    content, fields = get_data(written)
    assert fields == {"title": text, "citation": texts, "body": text}
    assert content == ""
