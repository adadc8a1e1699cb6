"""The reference implementations as the catalog sees them: by their source, never by importing them."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from schema.records import ENTRY_POINTS, KEY_PATTERN

FOLDERS = ("before_training", "during_training", "after_training", "run_time", "fusion")
"""Where implementations stand; the other folders of `reference_impls` hold what they share."""


@dataclass(frozen=True)
class Source:
    """The source of one implementation.

    Attributes:
        module: `folder.name`.
        path: relative to the root of the repository.
        keys: the paper keys that the docstring names -> line of the first mention.
        entry_points: its public entry functions; None if it is no Python.
    """

    module: str
    path: str
    keys: dict[str, int]
    entry_points: tuple[str, ...] | None

    @property
    def tests(self) -> str:
        """Where its tests must stand."""
        folder, _, name = self.module.partition(".")
        return f"tests/reference_impls/{folder}/test_{name}.py"

    @property
    def snippet(self) -> str:
        """Where its runnable snippet must stand."""
        return f"site_src/snippets/{self.module.replace('.', '/')}.py"


def implementations(root: Path) -> dict[str, Source]:
    """Every implementation under a repository's root, by module."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((root / "reference_impls" / folder).glob("*.py")):
            if not path.stem.startswith("_"):
                source = _source(f"{folder}.{path.stem}", path, path.relative_to(root).as_posix())
                found[source.module] = source
    return found


def _source(module: str, path: Path, name: str) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return Source(module, name, {}, None)
    keys: dict[str, int] = {}
    if ast.get_docstring(tree):
        statement = tree.body[0]
        for line, content in enumerate(text.splitlines()[: statement.end_lineno], start=1):
            for key in re.findall(rf"\b{KEY_PATTERN}\b", content):
                keys.setdefault(key, line)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return Source(module, name, keys, tuple(entry for entry in ENTRY_POINTS if entry in defined))
