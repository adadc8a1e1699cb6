"""Records: what follows from the tags, what is refused, and how a link loads its implementation."""

import sys

import pytest
from pydantic import ValidationError

from catalog.read import read
from schema.records import Person, ReferenceLink, Settings, Taxonomy, fold, normalized_title
from schema.terms import Fusion, How, Passes, Relation, Speedup, When


@pytest.fixture
def paper(garden):
    return {paper.key: paper for paper in read(garden.root).papers}["muller2019shears"]


def tagged(paper, **tags):
    return paper.model_copy(update={"taxonomy": Taxonomy(**tags)})


@pytest.mark.parametrize(
    ("speedups", "universal", "specific"),
    [
        ((), False, False),
        ((Speedup.STRUCTURED,), True, False),
        ((Speedup.UNSTRUCTURED,), False, True),
        ((Speedup.SEMI_STRUCTURED, Speedup.STRUCTURED), True, True),
    ],
)
def test_speedup_is_universal_or_specific(paper, speedups, universal, specific):
    paper = tagged(paper, speedup=speedups)
    assert (paper.universal_speedup, paper.specific_speedup) == (universal, specific)


@pytest.mark.parametrize(
    ("whens", "static", "dynamic"),
    [
        ((), False, False),
        ((When.BEFORE_TRAINING,), True, False),
        ((When.RUN_TIME,), False, True),
        ((When.AFTER_TRAINING, When.RUN_TIME), True, True),
    ],
)
def test_when_is_static_or_dynamic(paper, whens, static, dynamic):
    paper = tagged(paper, when=whens)
    assert (paper.static, paper.dynamic) == (static, dynamic)


def test_fusion_with_two_is_multi(paper):
    assert not tagged(paper, fusion=(Fusion.QUANTIZATION,)).multi_fusion
    assert tagged(paper, fusion=(Fusion.QUANTIZATION, Fusion.NAS)).multi_fusion


def test_tags_are_kept_in_the_order_of_their_definition():
    assert Settings(passes=(Passes.ITERATIVE, Passes.ONE_SHOT)) == Settings(passes=(Passes.ONE_SHOT, Passes.ITERATIVE))


def test_the_closest_link_is_implements(paper):
    nearest = ReferenceLink(implementation="a.b", relation=Relation.NEAREST)
    implements = ReferenceLink(implementation="a.c", relation=Relation.IMPLEMENTS)
    both = paper.model_copy(update={"references": (nearest, implements)})
    assert both.reference() is implements
    assert both.reference("nearest") is nearest
    assert both.reference("subject") is None


def test_frozen_strict_and_closed(paper):
    with pytest.raises(ValidationError, match="frozen"):
        paper.title = "another"
    with pytest.raises(ValidationError, match="string"):
        Person(given="A", family=3)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Person(given="A", family="B", middle="C")
    with pytest.raises(ValidationError, match="instance of When"):
        Taxonomy(when=("run_time",))
    with pytest.raises(ValidationError, match="how_note"):
        Taxonomy(how=(How.OTHER,))


def test_people_are_the_same_by_all_three_names():
    assert Person(given="A", family="B") == Person(given="A", family="B", suffix="")
    assert len({Person(given="A", family="B"), Person(given="A", family="B"), Person(given="A", family="B", suffix="Jr.")}) == 2


def test_fold():
    assert fold("Müller Łukasz Æsop STRAẞE") == "muller lukasz aesop strasse"
    assert normalized_title("The {LTH}: 2:4, re-visited!") == normalized_title("the lth 24 REVISITED") == "thelth24revisited"


def test_a_link_loads_the_entry_of_its_module(tmp_path, monkeypatch):
    package = tmp_path / "reference_impls" / "made_up"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "one.py").write_text("def prune(model):\n    return model + 1\n")
    (package / "none.py").write_text("def cut(model):\n    return model\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "reference_impls"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ReferenceLink(implementation="made_up.one", relation=Relation.IMPLEMENTS).load()(1) == 2
    with pytest.raises(AttributeError, match="none of the entry points masks, prune, callbacks, wrap"):
        ReferenceLink(implementation="made_up.none", relation=Relation.IMPLEMENTS).load()
    with pytest.raises(ModuleNotFoundError):
        ReferenceLink(implementation="made_up.two", relation=Relation.IMPLEMENTS).load()
