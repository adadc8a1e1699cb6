"""The Python interface, read from the source: signatures and docstrings of what is public."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.site.sources import signature

ROOT = Path(__file__).parents[2]
FILES = {
    "Catalog": ("catalog/query.py", ("Catalog",)),
    "Records": (
        "schema/records.py",
        ("Paper", "Record", "Entry", "Taxonomy", "Settings", "ReferenceLink", "Implementation", "Person", "Venue"),
    ),
}
CORE = "reference_impls/core"


@dataclass(frozen=True)
class Entry:
    """Something public.

    Attributes:
        name: `Catalog.papers`.
        signature: as it is called; for a class or a property its name.
        explanation: the docstring.
        members: public methods of a class.
    """

    name: str
    signature: str
    explanation: str
    members: tuple["Entry", ...] = field(default=())


def sections() -> dict[str, list[Entry]]:
    """Title -> its entries: the catalog, the records, then one section for each module of the core."""
    found = {title: [entry for entry in _entries(ROOT / path) if entry.name in names] for title, (path, names) in FILES.items()}
    for title, (_, names) in FILES.items():
        found[title].sort(key=lambda entry, names=names: names.index(entry.name))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    for path in sorted((ROOT / CORE).glob("*.py")):
        if entries := list(_entries(path)):
            found[f"reference_impls.core.{path.stem}"] = entries
    return found


def _entries(path: Path) -> Iterator[Entry]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and (told := ast.get_docstring(node)):
            if isinstance(node, ast.FunctionDef):
                yield Entry(node.name, signature(node), told)
            else:
                yield Entry(node.name, node.name, told, tuple(_members(node)))


def _members(node: ast.ClassDef) -> Iterator[Entry]:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_") and (told := ast.get_docstring(member)):
            decorators = {ast.unparse(decorator) for decorator in member.decorator_list}
            called = member.name if decorators & {"property", "cached_property"} else signature(member)
            yield Entry(f"{node.name}.{member.name}", called, told)
