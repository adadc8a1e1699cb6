"""Reading joins entry and record, and costs no torch."""

import subprocess
import sys

import pytest

from catalog.read import ROOT, read, sources


def test_entry_and_record_are_one_paper(garden):
    papers = {paper.key: paper for paper in read(garden.root).papers}
    assert list(papers) == ["adler1990pruning", "beek2019leaves", "muller2019shears", "anonundatedtrunks"]
    apple = papers["adler1990pruning"]
    assert [author.name for author in apple.authors] == ["Ada Adler", "Bram van Beek", "Martin King Jr."]
    assert (apple.year, apple.volume, apple.pages, apple.doi, apple.source) == (1990, "2", "10-12", "10.1000/apple.1", "made up")
    assert apple.venue.abbreviation == "J. Bot."
    assert [str(value) for value in apple.taxonomy.settings.passes] == ["one_shot", "iterative"]  # as defined, not as written
    assert apple.summary == "Small branches go first. What is left grows on.\n\nA second paragraph, about the Gärtner's naïve saw."
    shears = papers["muller2019shears"]
    assert (shears.arxiv, shears.openreview, shears.entry_type) == ("1901.00001", "B1shears01", "inproceedings")
    assert shears.url == "https://example.org/shears?a=1&b=2"
    assert [(link.implementation, str(link.relation)) for link in shears.references] == [
        ("before_training.shears", "implements"),
        ("after_training.saw", "variant"),
    ]
    assert shears.reported[0].value == 91.5
    trunks = papers["anonundatedtrunks"]
    assert (trunks.year, trunks.venue, trunks.authors, trunks.authors_unknown) == (None, None, (), True)
    assert trunks.title == "A Survey of Trunks & Branches: 100% <b>bare</b>"


@pytest.mark.parametrize("spelling", ["Journal of Botany", "journal of botany", "J. Bot.", "botany"])
def test_a_venue_is_found_by_name_abbreviation_or_id(garden, spelling):
    garden.replace("catalog/bibliography/1990.bib", "{Journal of Botany}", f"{{{spelling}}}")
    assert read(garden.root).papers[0].venue.id == "botany"


def test_windows_line_ends_and_a_summary_with_dashes(garden):
    path = garden.root / "catalog/papers/beek2019leaves.md"
    path.write_bytes(path.read_text().replace("input by input.", "input\n--- or not ---\nby input.").replace("\n", "\r\n").encode())
    reading = read(garden.root)
    assert not reading.problems
    assert reading.papers[1].summary == "Each leaf decides, input --- or not --- by input."


def test_progress_counts_every_file(garden):
    calls = []
    read(garden.root, lambda done, of: calls.append((done, of)))
    number = len(sources(garden.root))
    assert calls == [(done, number) for done in range(1, number + 1)]
    assert number == 3 + 4 + 1


def test_schema_and_catalog_never_import_torch_and_the_door_no_sqlalchemy(garden):
    code = """
import sys, catalog, catalog.query, schema.records, schema.terms
assert "sqlalchemy" not in sys.modules
import catalog.check, catalog.store, schema.tables
from pathlib import Path
root = Path(sys.argv[1])
catalog.store.build(root / "build" / "catalog.sqlite", root)
with catalog.Catalog.open(root / "build" / "catalog.sqlite") as atlas:
    assert len(atlas.papers(text="shears")) == 1
    sys.modules["torch"] = None
    try:
        atlas["muller2019shears"].references[0].load()
    except ImportError:
        pass
assert not [name for name in sys.modules if name.startswith(("torch.", "reference_impls.core"))]
"""
    subprocess.run([sys.executable, "-c", code, garden.root], check=True, cwd=ROOT)
