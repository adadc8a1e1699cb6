"""What is stored is what was read; the same text gives the same bytes; a failure leaves the old file."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from catalog import Catalog, InvalidCatalog, store
from catalog.read import ROOT, read
from schema import tables
from schema.terms import AXES
from tests.made_up_papers import VENUES, catalogs


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@settings(deadline=None, max_examples=40)
@given(catalogs())
def test_what_comes_out_is_what_went_in(papers):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.sqlite"
        store.store(papers, VENUES, path)
        with Catalog.open(path) as atlas:
            assert atlas.papers() == papers


def test_the_garden_comes_out_as_it_was_read(garden):
    reading = store.build(garden.database, garden.root)
    with Catalog.open(garden.database) as atlas:
        assert atlas.papers() == reading.papers == read(garden.root).papers
        assert [atlas[paper.key] for paper in reading.papers] == reading.papers


def test_same_text_same_bytes(garden, tmp_path):
    store.build(garden.database, garden.root)
    store.build(tmp_path / "again.sqlite", garden.root)
    assert digest(garden.database) == digest(tmp_path / "again.sqlite")
    # another process has other hashes of strings and enums
    code = "import sys; from pathlib import Path; from catalog.store import build; build(Path(sys.argv[1]), Path(sys.argv[2]))"
    for seed in ("1", "2", "3"):
        target = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, target, garden.root], check=True, cwd=ROOT, env=environment)
        assert digest(garden.database) == digest(target)


def test_other_text_other_bytes(garden, tmp_path):
    store.build(garden.database, garden.root)
    garden.replace("catalog/papers/adler1990pruning.md", "Small branches", "Large branches")
    store.build(tmp_path / "again.sqlite", garden.root)
    assert digest(garden.database) != digest(tmp_path / "again.sqlite")


@pytest.mark.parametrize("where", ["_fill", "os.fsync", "os.replace"])
def test_a_crash_leaves_the_old_file_and_nothing_else(garden, monkeypatch, where):
    store.build(garden.database, garden.root)
    before = digest(garden.database)
    garden.replace("catalog/papers/adler1990pruning.md", "Small branches", "Large branches")

    def crash(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(f"catalog.store.{where}", crash)
    with pytest.raises(OSError, match="the disk is full"):
        store.build(garden.database, garden.root)
    assert digest(garden.database) == before
    assert list(garden.database.parent.iterdir()) == [garden.database]


def test_bad_text_leaves_the_old_file(garden):
    store.build(garden.database, garden.root)
    before = digest(garden.database)
    garden.replace("catalog/papers/adler1990pruning.md", "[magnitude]", "[magnitud]")
    with pytest.raises(InvalidCatalog, match="did you mean `magnitude`"):
        store.build(garden.database, garden.root)
    assert digest(garden.database) == before


def test_an_open_catalog_outlives_a_rebuild(garden):
    store.build(garden.database, garden.root)
    with Catalog.open(garden.database) as atlas:
        garden.replace("catalog/papers/adler1990pruning.md", "Small branches", "Large branches")
        store.build(garden.database, garden.root)
        assert "Small branches" in atlas["adler1990pruning"].summary


def test_tables_hold_people_once_tags_all_and_keys_that_fit(garden):
    store.build(garden.database, garden.root)
    with sqlite3.connect(garden.database) as connection:
        people = connection.execute("SELECT given, family, suffix FROM person").fetchall()
        assert people.count(("Ada", "Adler", "")) == 1
        assert ("Martin", "King", "Jr.") in people
        authors = connection.execute(
            "SELECT family FROM authorship JOIN person ON person.id = person_id WHERE paper_id = 1 ORDER BY position"
        )
        assert authors.fetchall() == [("Adler",), ("van Beek",), ("King",)]
        tags = connection.execute("SELECT axis, value FROM tag ORDER BY id").fetchall()
        assert tags == [(axis, str(value)) for axis, values in AXES.items() for value in values]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%\\_%' ESCAPE '\\'")
        }
        assert {"paper", "person", "venue", "tag", "reference", "authorship", "code", "evidence", "reported"} <= names


def test_the_database_refuses_a_dangling_reference(garden):
    reading = read(garden.root)
    lost = reading.papers[0].model_copy(update={"venue": VENUES[0]})
    with pytest.raises(Exception, match="FOREIGN KEY constraint failed"):
        store.store([lost], [], garden.database)
    assert not garden.database.exists()


def test_every_facet_has_an_index(garden):
    store.build(garden.database, garden.root)
    questions = {
        "SELECT paper_id FROM paper_tag WHERE tag_id = 3": "paper_tag",
        "SELECT tag_id FROM paper_tag WHERE paper_id = 3": "paper_tag",
        "SELECT id FROM tag WHERE axis = 'when' AND value = 'run_time'": "tag",
        "SELECT id FROM paper WHERE kind = 'survey'": "paper",
        "SELECT id FROM paper WHERE year BETWEEN 2018 AND 2020": "paper",
        "SELECT id FROM paper WHERE venue_id = 'iclr'": "paper",
        "SELECT paper_id FROM reference WHERE relation = 'implements'": "reference",
        "SELECT paper_id FROM reference WHERE implementation = 'a.b'": "reference",
        "SELECT paper_id FROM authorship WHERE person_id = 1": "authorship",
        "SELECT paper_id FROM builds_on WHERE earlier_id = 1": "builds_on",
    }
    with sqlite3.connect(garden.database) as connection:
        # the statistics say that scanning four rows costs nothing
        connection.executescript("DELETE FROM sqlite_stat1; ANALYZE sqlite_schema")
        for question, table in questions.items():
            plan = " ".join(str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {question}"))
            assert f"SEARCH {table} USING" in plan, (question, plan)


def test_every_column_is_written(garden):
    """A column that a record fills and that comes out empty would be a column forgotten."""
    garden.replace("catalog/bibliography/1990.bib", "  pages ", "  number = {4},\n  publisher = {P},\n  note = {N},\n  pages ")
    store.build(garden.database, garden.root)
    with sqlite3.connect(garden.database) as connection:
        for column in tables.PaperRow.model_fields:
            filled = connection.execute(f"SELECT count({column}) FROM paper").fetchone()[0]
            assert filled, column
