"""The Python interface, as mkdocstrings reads it from the source."""

import re

import pytest

from catalog import Catalog
from reference_impls.core import contract, masks, surgery, training
from schema import records


@pytest.fixture(scope="module")
def read(site):
    def text(address):
        return (site[0] / "docs" / "api" / address / "index.html").read_text(encoding="utf-8")

    return text


def names(page):
    return set(re.findall(r'id="([\w.]+)"', page))


def test_every_public_method_of_the_catalog_has_its_signature_and_docstring(read):
    page = read("catalog")
    assert {f"catalog.Catalog.{name}" for name in vars(Catalog) if not name.startswith("_")} <= names(page)
    assert not [name for name in names(page) if "._" in name]
    papers = page[page.index('id="catalog.Catalog.papers"') : page.index('id="catalog.Catalog.keys"')]
    text = re.sub(r"<[^>]+>", "", papers)
    assert "text: str | None = None" in text
    assert Catalog.papers.__doc__.splitlines()[0] in text
    assert "QueryError" in text
    assert 'href="../records/#schema.records.Paper"' in papers


def test_records_and_terms(read):
    page = read("records")
    assert {f"schema.records.{name}" for name in ("Paper", "Entry", "Measurement", "Paper.reference")} <= names(page)
    assert page.index('id="schema.records.Paper"') < page.index('id="schema.records.Venue"') < page.index('id="schema.terms.Term"')
    assert records.Person.__doc__.splitlines()[0] in page


def test_core_and_entries(read):
    core = read("core")
    for module in (masks, surgery, training, contract):
        public = {
            f"{module.__name__}.{name}" for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        }
        assert {name for name in public if "._" not in name} <= names(core) | {f"{module.__name__}.{name}" for name in ALIASES}
    entries = read("implementations")
    assert "reference_impls.before_training.snip.masks" in names(entries)
    assert "before_training.snip" in names(entries)


ALIASES = {"Batches", "Train", "Masks", "Scores"}


def test_nothing_that_the_content_security_policy_forbids(read):
    for address in ("catalog", "records", "core", "implementations"):
        page = read(address)
        assert not re.search(r"\sstyle=|<style|\son\w+=", page)
        assert all("src=" in script or "ld+json" in script for script in re.findall(r"<script[^>]*>", page))
