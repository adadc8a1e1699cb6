import re
from xml.etree import ElementTree

import pytest

from catalog.read import read as read_catalog
from schema.terms import Relation
from tools.site import formulas

MATH = "{http://www.w3.org/1998/Math/MathML}"
KNOWN = formulas.read()
GOOD = {"axis": "how", "value": "magnitude", "latex": "|w|", "where": "w is a weight.", "source": "han2015learning"}


@pytest.fixture(scope="module")
def papers():
    return {paper.key: paper for paper in read_catalog().papers}


@pytest.mark.parametrize("term", KNOWN, ids=".".join)
def test_the_source_carries_the_term_and_is_implemented(term, papers):
    axis, value = term
    paper = papers[KNOWN[term].source]
    assert value in paper.tags(axis)
    assert paper.reference(Relation.IMPLEMENTS), "a formula's paper has an implementation that computes it"


@pytest.mark.parametrize("term", KNOWN, ids=".".join)
def test_it_is_mathml_without_leftovers(term):
    tree = ElementTree.fromstring(str(KNOWN[term].mathml))
    assert tree.tag == f"{MATH}math"
    assert tree.get("display") == "block"
    text = "".join(tree.itertext())
    assert not re.search(r"[\\{}]", text), text
    assert not re.search(r"<script|\sstyle=|href", str(KNOWN[term].mathml))


def test_a_formula_is_drawn_as_it_was_written():
    tree = ElementTree.fromstring(str(KNOWN["how", "loss_change"].mathml))
    assert [found.tag.removeprefix(MATH) for found in tree.iter() if found.tag in (f"{MATH}mfrac", f"{MATH}msubsup")] == [
        "mfrac",
        "mfrac",
        "msubsup",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"axis": "who"}, "unknown axis `who`; allowed: speedup"),
        ({"value": "magnitud"}, "unknown value `magnitud`; allowed: magnitude"),
        ({"latex": ""}, "latex: String should have at least 1 character"),
        ({"source": "Han 2015"}, "source: String should match"),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(tmp_path, change, says):
    path = tmp_path / "formulas.yaml"
    path.write_text(formulas.yaml.safe_dump([GOOD | {"value": "lp_norm"}, GOOD | change]))
    with pytest.raises(ValueError, match="entry 2: ") as raised:
        formulas.read(path)
    assert says in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_term_stands_once(tmp_path):
    path = tmp_path / "formulas.yaml"
    path.write_text(formulas.yaml.safe_dump([GOOD, GOOD]))
    with pytest.raises(ValueError, match="entry 2: how magnitude stands there twice"):
        formulas.read(path)
