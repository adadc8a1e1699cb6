"""The page on data names every field and column that there is, and no table that there is not."""

import re

import pytest
from sqlmodel import SQLModel

from catalog.bibtex import FIELDS as BIBTEX_FIELDS
from catalog.read import ROOT
from schema import records, tables
from tools.formats import FIELDS

TEXT = (ROOT / "site_src/docs/data.md").read_text(encoding="utf-8")
MODELS = [
    value
    for value in vars(records).values()
    if isinstance(value, type) and issubclass(value, records.Model) and value.__module__ == "schema.records"
]
INTERNAL = {"Model", "Paper", "Implementation", "ImplementationLink"}


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("model", [model for model in MODELS if model.__name__ not in INTERNAL], ids=lambda model: model.__name__)
def test_every_field_of_a_record_is_named(model):
    place = {"Entry": "BibTeX entry", "Person": "BibTeX entry", "Venue": "Venue table", "Size": "Measured sizes"}.get(
        model.__name__, "Record"
    )
    for name in model.model_fields:
        assert f"`{name}`" in section(place) or (name, place) == ("key", "BibTeX entry"), name


def test_every_bibtex_field_is_named():
    for name in BIBTEX_FIELDS:
        assert f"`{name}`" in section("BibTeX entry"), name


def test_every_field_of_json_is_named():
    named = re.findall(r"`(\w+)`", section("JSON and CSV"))
    assert set(FIELDS) <= set(named)
    assert set(named) - set(FIELDS) == {"implementation", "relation", "differs"}


def test_tables_and_columns_are_those_of_the_database():
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section("SQLite"), re.MULTILINE))
    del documented["paper_text"]
    assert set(documented) == set(SQLModel.metadata.tables)
    for name, table in SQLModel.metadata.tables.items():
        assert re.findall(r"`(\w+)`", documented[name]) == list(table.columns.keys())
    assert tables.PaperRow.__tablename__ == "paper"
