import json

import pytest

from schema.records import Person
from tests.site import made_up
from tools.site import cite


@pytest.fixture
def paper():
    first = made_up.papers(3)[2]
    return first.model_copy(
        update={
            "title": "Second order derivatives",
            "authors": (
                Person(given="Babak A.-B.", family="Hassibi"),
                Person(given="", family="The Group"),
                Person(given="Jo", family="van Roe", suffix="Jr."),
            ),
            "year": 1992,
            "doi": "10.1000/x",
            "arxiv": None,
            "venue": made_up._VENUES[0],
        }
    )


def test_apa(paper):
    assert cite.apa(paper) == (
        "Hassibi, B. A. B., The Group, & van Roe, J., Jr. (1992). Second order derivatives. "
        "International Conference on Learning Representations. https://doi.org/10.1000/x"
    )
    bare = paper.model_copy(update={"authors": (), "year": None, "venue": None, "doi": None, "url": None})
    assert cite.apa(bare) == "(n.d.). Second order derivatives."
    alone = paper.model_copy(update={"authors": paper.authors[:1]})
    assert cite.apa(alone).startswith("Hassibi, B. A. B. (1992).")


def test_ris(paper):
    lines = cite.ris(paper).splitlines()
    assert lines[0] == "TY  - CPAPER"
    assert [line for line in lines if line.startswith("AU")] == ["AU  - Hassibi, Babak A.-B.", "AU  - The Group", "AU  - van Roe, Jo, Jr."]
    assert {"TI  - Second order derivatives", "PY  - 1992", "DO  - 10.1000/x"} <= set(lines)
    assert lines[-1] == "ER  - "


def test_what_crawlers_read(paper):
    assert ["author", "Hassibi, Babak A.-B."] in cite.meta(paper)
    assert ["conference_title", "International Conference on Learning Representations"] in cite.meta(paper)
    data = json.loads(cite.linked_data(paper))
    assert (data["@type"], data["datePublished"]) == ("ScholarlyArticle", "1992")
    assert data["author"][2] == {"@type": "Person", "name": "Jo van Roe Jr."}
    assert data["identifier"] == [{"@type": "PropertyValue", "propertyID": "DOI", "value": "10.1000/x"}]


def test_every_address_of_a_paper_once_and_the_official_one_first(paper):
    known = paper.model_copy(update={"arxiv": "1810.02340", "openreview": "B1VZqjAcYX", "url": "https://arxiv.org/abs/1810.02340"})
    expected = ["https://doi.org/10.1000/x", "https://arxiv.org/abs/1810.02340", "https://openreview.net/forum?id=B1VZqjAcYX"]
    assert cite.addresses(known) == json.loads(cite.linked_data(known))["sameAs"] == expected
    assert cite.addresses(paper.model_copy(update={"doi": None, "url": None})) == []


@pytest.mark.parametrize(("pages", "first", "last"), [("598--605", "598", "605"), ("598-605", "598", "605"), ("1209", "1209", None)])
def test_pages(paper, pages, first, last):
    printed = paper.model_copy(update={"pages": pages, "volume": "2", "number": "7", "publisher": "Morgan"})
    fields = dict(cite.meta(printed))
    assert (fields["firstpage"], fields.get("lastpage")) == (first, last)
    assert (fields["volume"], fields["issue"], fields["publisher"]) == ("2", "7", "Morgan")
    lines = cite.ris(printed).splitlines()
    assert f"SP  - {first}" in lines
    assert [line for line in lines if line.startswith("EP")] == ([f"EP  - {last}"] if last else [])
    assert json.loads(cite.linked_data(printed))["pageStart"] == first
    assert json.loads(cite.linked_data(printed)).get("pageEnd") == last


@pytest.mark.parametrize(
    ("kind", "field"),
    [("journal", "journal_title"), ("workshop", "conference_title"), ("thesis", "dissertation_institution"), ("preprint", None)],
)
def test_a_venue_is_named_for_what_it_is(paper, kind, field):
    venue = paper.venue.model_copy(update={"kind": kind})
    named = [name for name, value in cite.meta(paper.model_copy(update={"venue": venue})) if value == venue.name]
    assert named == ([field] if field else [])


def test_linked_data_cannot_end_its_script(paper):
    hostile = paper.model_copy(update={"title": "</script><script>alert(1)</script>&amp;"})
    written = cite.linked_data(hostile)
    assert not set("<>&") & set(written)
    assert json.loads(written)["headline"] == hostile.title
