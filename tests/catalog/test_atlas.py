"""The real catalog: clean, whole, and out again as it was read."""

import pytest

from catalog import Catalog
from catalog.check import check
from catalog.implementations import implementations
from catalog.read import ROOT, read
from catalog.store import store
from schema.records import ENTRY_POINTS
from schema.terms import AXES, Relation


@pytest.fixture(scope="module")
def reading():
    return read()


@pytest.fixture(scope="module")
def atlas(reading, tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "catalog.sqlite"
    store(reading.papers, reading.venues.values(), path)
    with Catalog.open(path) as opened:
        yield opened


def test_is_clean(reading):
    assert [str(problem) for problem in check(reading)] == []


def test_comes_out_as_it_was_read(reading, atlas):
    assert atlas.papers() == reading.papers
    assert len(atlas) >= 40


@pytest.mark.parametrize("axis", ["speedup", "when", "how", "fusion"])
def test_every_term_of_the_survey_has_a_paper(atlas, axis):
    of_the_survey = [str(term) for term in AXES[axis] if term.source.startswith("Cheng")]
    counts = atlas.facets()[axis]
    assert of_the_survey
    assert [value for value in of_the_survey if not counts[value]] == []


def test_every_implementation_implements_a_paper_and_loads(atlas):
    modules = atlas.implementations()
    assert [module.module for module in modules] == sorted(implementations(ROOT))
    for module in modules:
        assert any(link.relation is Relation.IMPLEMENTS for link in module.papers), module.module
        entry = atlas[module.papers[0].key].reference("implements").load()
        assert callable(entry) and entry.__name__ in ENTRY_POINTS


def test_every_paper_is_found_by_its_own_title_and_authors(atlas):
    for paper in atlas.papers():
        assert paper.key in atlas.keys(text=paper.title), paper.key
        if paper.authors:
            assert paper.key in atlas.keys(text=paper.authors[-1].name), paper.key
