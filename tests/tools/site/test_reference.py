import re

from reference_impls.core import contract
from schema.records import Implementation
from tools.site import reference

MODULES = {name: Implementation(module=name, papers=()) for name in contract.names()}


def test_every_module_of_the_core_is_read():
    named = re.findall(r"^::: reference_impls\.core\.(\w+)$", reference.pages({})["docs/api/core"], re.MULTILINE)
    standing = {path.stem for path in (reference.ROOT / reference.CORE).glob("*.py") if path.stem != "__init__"}
    assert set(named) == standing
    assert named == sorted(named)


def test_each_implementation_is_read_at_its_entry():
    page = reference.pages(MODULES)["docs/api/implementations"]
    for name in MODULES:
        (entry,) = re.findall(rf"^::: reference_impls\.{re.escape(name)}\.(\w+)$", page, re.MULTILINE)
        assert entry == contract.entry(contract.load(name))
        assert f"](../../implementations/{name}.md)" in page


def test_what_is_private_is_not_public(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("def open(): ...\ndef _shut(): ...\nclass Door: ...\nclass _Lock: ...\nX = 1\n")
    assert reference.public(path) == ["open", "Door"]
