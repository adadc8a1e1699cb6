from catalog import Catalog
from tools.site import reference


def test_every_public_method_of_the_catalog_is_there():
    (entry,) = reference.sections()["Catalog"]
    public = {f"Catalog.{name}" for name in vars(Catalog) if not name.startswith("_")}
    assert {member.name for member in entry.members} == public
    (papers,) = [member for member in entry.members if member.name == "Catalog.papers"]
    assert papers.signature.startswith("papers(text: str | None=None")
    assert "Raises:" in papers.explanation


def test_records_and_core_are_there():
    sections = reference.sections()
    assert [entry.name for entry in sections["Records"]][:2] == ["Paper", "Record"]
    assert {"keep_highest", "prunable_weights"} <= {entry.name for entry in sections["reference_impls.core.masks"]}
    assert all(entry.explanation for entries in sections.values() for entry in entries)
