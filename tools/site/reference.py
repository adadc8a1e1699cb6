"""The pages of the Python interface: what stands on which; mkdocstrings fills them from signatures and docstrings."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

from schema.records import ENTRY_POINTS, Implementation

ROOT = Path(__file__).parents[2]
CORE = "reference_impls/core"
RECORDS = (
    *("Paper", "Record", "Entry", "Taxonomy", "Settings", "ReferenceLink", "Measurement"),
    *("Implementation", "ImplementationLink", "Person", "Venue"),
)
TERMS = ("Axis", "Term", "AXES", "FACETS", "AXIS")

HEAD = "---\ntitle: {title}\ndescription: {description}\n---\n\n# {title}\n\n{lead}\n\n"


def pages(implementations: Mapping[str, Implementation]) -> dict[str, str]:
    """Address of a page -> its Markdown."""
    return {
        "docs/api": _landing(),
        "docs/api/catalog": _page("Catalog", "Open the catalog and query it.", "Needs no PyTorch.", "::: catalog.Catalog\n"),
        "docs/api/records": _page(
            "Records",
            "What the catalog knows about a paper.",
            "Strict, frozen pydantic models, and the closed lists of terms. Every field stands in the [data dictionary](../data.md) too.",
            _inside("schema.records", 2, RECORDS) + "\n## Terms\n\n" + _inside("schema.terms", 3, TERMS),
        ),
        "docs/api/core": _page(
            "Core",
            "What the implementations share.",
            "Scores become masks, masks are held through training or turned into smaller tensors, and what is left is counted.",
            "\n".join(_core()),
        ),
        "docs/api/implementations": _page(
            "Entry functions",
            "How each implementation is called.",
            "One public function for each module, of one of four names; the contract in [Core](core.md) says what each takes and gives. "
            "The linked page has the whole source.",
            "\n".join(_entries(implementations)),
        ),
    }


def public(path: Path) -> list[str]:
    """Names of the public functions and classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]


def _page(title: str, description: str, lead: str, body: str) -> str:
    return HEAD.format(title=title, description=description, lead=lead) + body


def _landing() -> str:
    lead = "Read from the source when this site was built: signatures, and docstrings with shapes, units, ranges and errors."
    rows = (
        "- [Catalog](api/catalog.md): open it, ask it, count. No PyTorch needed.",
        "- [Records](api/records.md): a paper, its tags, its links.",
        "- [Core](api/core.md): masks, schedules, surgery, counting, training; what the implementations share.",
        "- [Entry functions](api/implementations.md): how each implementation is called.",
    )
    return _page("Python interface", "Catalog, records, core and entry functions.", lead, "\n".join(rows) + "\n")


def _core() -> Iterable[str]:
    for path in sorted((ROOT / CORE).glob("*.py")):
        if public(path):
            title = path.stem.capitalize().replace("_", " ")
            yield f"## {title} {{ #{path.stem} }}\n\n" + _inside(f"reference_impls.core.{path.stem}", level=3)


def _entries(implementations: Mapping[str, Implementation]) -> Iterable[str]:
    for module in implementations:
        yield f"## [{module}](../../implementations/{module}.md) {{ #{module} }}\n"
        for entry in public(ROOT / "reference_impls" / f"{module.replace('.', '/')}.py"):
            if entry in ENTRY_POINTS:
                yield _read(f"reference_impls.{module}.{entry}", heading_level=3, show_root_full_path="false")


def _inside(module: str, level: int, members: Iterable[str] = ()) -> str:
    """What stands in a module, under a heading of ours."""
    listed = "".join(f"\n        - {name}" for name in members)
    hidden = {"show_root_heading": "false", "show_root_toc_entry": "false"}
    return _read(module, heading_level=level, **hidden, **({"members": listed} if listed else {}))


def _read(name: str, **options: object) -> str:
    return f"::: {name}\n    options:\n" + "".join(f"      {option}: {value}\n" for option, value in options.items())
