"""The query door against brute force over random catalogs, its order, and what it refuses."""

import re
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog, CatalogError, QueryError
from catalog.store import build, store
from schema import SCHEMA_VERSION
from schema.records import fold
from schema.terms import FACETS, Relation
from tests.made_up_papers import VENUES, catalogs, texts


@contextmanager
def stored(papers):
    with tempfile.TemporaryDirectory() as folder:
        store(papers, VENUES, Path(folder) / "catalog.sqlite")
        with Catalog.open(Path(folder) / "catalog.sqlite") as atlas:
            yield atlas


@pytest.fixture
def atlas(garden):
    build(garden.database, garden.root)
    with Catalog.open(garden.database) as opened:
        yield opened


def tokens(text):
    return re.findall(r"[^\W_]+", fold(text))


def matches(paper, text, years, axes):
    """What a query means, spelled out."""
    have = tokens(" ".join([paper.title, paper.name or "", *(author.name for author in paper.authors), paper.summary]))
    return (
        all(any(token.startswith(word) for token in have) for word in tokens(text or ""))
        and (years is None or (paper.year is not None and years[0] <= paper.year <= years[1]))
        and all(not values or any(tag in values for tag in paper.tags(axis)) for axis, values in axes.items())
    )


@st.composite
def questions(draw):
    axes = draw(st.sets(st.sampled_from(list(FACETS)), max_size=3))
    return (
        # ß is a letter of its own to SQLite and two to Unicode folding
        draw(st.none() | texts.filter(lambda text: "ß" not in text)),
        draw(st.none() | st.tuples(st.integers(2014, 2019), st.integers(2019, 2023))),
        {axis: draw(st.lists(st.sampled_from([str(term) for term in FACETS[axis]]), max_size=3)) for axis in sorted(axes)},
    )


@settings(deadline=None, max_examples=40)
@given(catalogs(), st.lists(questions(), min_size=5, max_size=8))
def test_papers_and_facets_mean_what_brute_force_means(papers, asked):
    with stored(papers) as atlas:
        for text, years, axes in asked:
            expected = [paper for paper in papers if matches(paper, text, years, axes)]
            found = atlas.papers(text=text, years=years, **axes)
            if tokens(text or ""):
                found.sort(key=papers.index)
            assert found == expected
            assert sorted(atlas.keys(text=text, years=years, **axes)) == sorted(paper.key for paper in expected)
            counts = atlas.facets(text=text, years=years, **axes)
            for axis, terms in FACETS.items():
                others = {other: values for other, values in axes.items() if other != axis}
                fit = [paper for paper in papers if matches(paper, text, years, others)]
                assert counts[axis] == {str(term): sum(term in paper.tags(axis) for paper in fit) for term in terms}


@settings(deadline=None, max_examples=300)
@given(text=st.text() | st.text(st.sampled_from("ab\"'*():^-+{}&| ANDORNEAR\\%_\0\n")))
def test_no_text_is_an_error(text):
    with GARDEN() as atlas:
        assert len(atlas.papers(text=text)) <= 4


class GARDEN:
    """One stored garden for many examples; a fixture may not live as long."""

    atlas = None

    def __enter__(self):
        if GARDEN.atlas is None:
            from tests.garden import Garden

            with tempfile.TemporaryDirectory() as folder:
                made = Garden(Path(folder))
                build(made.database, made.root)
                GARDEN.atlas = Catalog.open(made.database)
                assert len(GARDEN.atlas) == 4
        return GARDEN.atlas

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("gartner", ["adler1990pruning"]),  # Gärtner's
        ("GÄRT saw naive", ["adler1990pruning"]),
        ("mull shears", ["muller2019shears"]),  # an author and a title
        ("van beek", ["adler1990pruning", "beek2019leaves"]),
        ("magnitude", ["anonundatedtrunks"]),
        ("winter shears", []),
        ("inter", []),  # the beginning of a word, not its middle
        ('"winter" OR (trees* NEAR -x):', []),
        ('pruning: (apple) "trees"', ["adler1990pruning"]),
        ("!?*", ["adler1990pruning", "beek2019leaves", "muller2019shears", "anonundatedtrunks"]),
    ],
)
def test_text(atlas, text, keys):
    assert sorted(atlas.keys(text=text)) == sorted(keys)


def test_a_match_in_the_title_comes_first_then_name_then_authors(garden):
    for number, (place, old, new) in enumerate(
        [
            ("papers/adler1990pruning.md", "Small branches go first.", "Mistletoe."),
            ("bibliography/2019.bib", "Bram van Beek", "Bram Mistletoe"),
            ("papers/muller2019shears.md", "name: SHEARS", "name: Mistletoe"),
            ("bibliography/undated.bib", "A Survey of Trunks", "A Mistletoe of Trunks"),
        ]
    ):
        garden.replace(f"catalog/{place}", old, new)
        assert number < 4
    garden.replace("catalog/bibliography/2019.bib", "{beek2019leaves,", "{mistletoe2019leaves,")
    (garden.root / "catalog/papers/beek2019leaves.md").rename(garden.root / "catalog/papers/mistletoe2019leaves.md")
    garden.replace("catalog/papers/mistletoe2019leaves.md", "key: beek2019leaves", "key: mistletoe2019leaves")
    build(garden.database, garden.root)
    with Catalog.open(garden.database) as atlas:
        assert atlas.keys(text="mistletoe") == ["anonundatedtrunks", "muller2019shears", "mistletoe2019leaves", "adler1990pruning"]


def test_without_text_the_order_is_year_then_key_and_undated_last(atlas):
    assert list(atlas) == ["adler1990pruning", "beek2019leaves", "muller2019shears", "anonundatedtrunks"]
    assert [paper.key for paper in atlas.papers()] == list(atlas) == atlas.keys()


def test_is_a_mapping(atlas):
    assert len(atlas) == 4
    assert "muller2019shears" in atlas
    assert "nobody" not in atlas
    assert atlas["muller2019shears"].authors[0].name == "Ján Müller"
    with pytest.raises(KeyError, match="no paper `muller2019shear`; nearest: muller2019shears"):
        atlas["muller2019shear"]


def test_one_value_or_several_strings_or_terms(atlas):
    assert atlas.keys(when="run_time") == ["beek2019leaves"]
    assert atlas.keys(when=["run_time", "after_training"]) == ["adler1990pruning", "beek2019leaves"]
    assert atlas.keys(when=FACETS["when"]("run_time")) == ["beek2019leaves"]
    assert atlas.keys(when=[]) == atlas.keys(when=None) == atlas.keys()
    assert atlas.keys(years=2019) == ["beek2019leaves", "muller2019shears"]
    assert atlas.keys(years=(1900, 2018)) == ["adler1990pruning"]
    assert atlas.keys(kind="survey", relation="subject") == ["anonundatedtrunks"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"wen": "run_time"}, "unknown axis `wen`, did you mean `when`?; allowed: speedup, granularity, when,"),
        ({"when": "runtime"}, "unknown value of when `runtime`, did you mean `run_time`?; allowed: before_training, during_training,"),
        ({"how": ["magnitude", "size"]}, "unknown value of how `size`"),
        ({"years": (2020, 2018)}, "years run backwards: 2020-2018"),
    ],
)
@pytest.mark.parametrize("method", ["papers", "keys", "facets"])
def test_refuses_what_has_no_meaning(atlas, method, question, message):
    with pytest.raises(QueryError, match=re.escape(message)):
        getattr(atlas, method)(**question)


def test_implementations(atlas):
    shears = {module.module: module for module in atlas.implementations()}["before_training.shears"]
    assert (shears.folder, shears.name) == ("before_training", "shears")
    assert [(link.key, link.relation) for link in shears.papers] == [
        ("muller2019shears", Relation.IMPLEMENTS),
        ("anonundatedtrunks", Relation.SUBJECT),
    ]
    assert shears.papers[1].differs == "It describes what the module does."
    saw = atlas.implementations()[0]
    assert saw.module == "after_training.saw"
    assert [(link.key, link.relation) for link in saw.papers][-1] == ("beek2019leaves", Relation.NEAREST)


def test_lineage(atlas):
    assert atlas["beek2019leaves"].builds_on == ("muller2019shears", "adler1990pruning")
    assert atlas.extended_by("adler1990pruning") == ["beek2019leaves", "muller2019shears"]
    assert atlas.extended_by("beek2019leaves") == []


def test_is_read_only(atlas):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        atlas._connection.execute("DELETE FROM paper")


def test_a_lock_on_the_file_stops_no_reader(garden):
    build(garden.database, garden.root)
    with sqlite3.connect(garden.database) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with Catalog.open(garden.database) as atlas:
            assert len(atlas) == 4


def test_refuses_a_file_that_is_missing_foreign_or_of_another_version(garden):
    with pytest.raises(CatalogError, match=r"no catalog at .*; run: make catalog"):
        Catalog.open(garden.database)
    garden.write("build/catalog.sqlite", "this is no database at all, only text")
    with pytest.raises(CatalogError, match=r"is no catalog .*; run: make catalog"):
        Catalog.open(garden.database)
    garden.database.unlink()
    with sqlite3.connect(garden.database) as connection:
        connection.execute("CREATE TABLE paper (id)")
    with pytest.raises(CatalogError, match="is no catalog; run: make catalog"):
        Catalog.open(garden.database)
    build(garden.database, garden.root)
    with sqlite3.connect(garden.database) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(CatalogError, match=f"has schema version 999, this code reads {SCHEMA_VERSION}; run: make catalog"):
        Catalog.open(garden.database)


def test_the_words_of_the_full_text_index_can_be_listed(atlas):
    atlas._connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, paper_text, instance)")
    rows = atlas._connection.execute("SELECT doc, col FROM temp.vocabulary WHERE term = 'gartner'").fetchall()
    assert rows == [(1, "summary")]
