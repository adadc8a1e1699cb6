"""What the source of a reference implementation says of itself, read from its text: it is never imported."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import BibTeXLexer, PythonLexer

from schema.records import ENTRY_POINTS

ROOT = Path(__file__).parents[2]
IMPLEMENTATIONS = ROOT / "reference_impls"
DECLARED = {"UNIT": "Removes", "GROUP": "Compares within", "AMOUNTS": "Asked by", "NETWORK": "Shown on", "TRAITS": "Traits"}
"""The constants that a module declares, and what the site calls them."""

_plain = HtmlFormatter(nowrap=True)
_lexers = {"python": PythonLexer(stripnl=False), "bibtex": BibTeXLexer()}


@dataclass(frozen=True)
class Passage:
    """A stretch of source beside its explanation.

    Attributes:
        name: of the function or class; empty for what stands between them.
        explanation: its docstring.
        code: its lines, without the docstring.
        line: number of its first line in the file.
    """

    name: str
    explanation: str
    code: str
    line: int


@dataclass(frozen=True)
class Source:
    """A reference implementation, as its text states it.

    Attributes:
        module: `folder.name`.
        path: from the root of the repository.
        title: first line of the docstring.
        explanation: the rest of the docstring.
        entry: which of `ENTRY_POINTS` it has, with its signature.
        declared: `UNIT`, `GROUP`, `AMOUNTS`, `NETWORK`, `TRAITS` -> names.
        passages: the whole file but for its docstring.
        lines: how many the file has.
    """

    module: str
    path: str
    title: str
    explanation: str
    entry: str
    declared: dict[str, tuple[str, ...]] = field(hash=False)
    passages: tuple[Passage, ...] = ()
    lines: int = 0

    @property
    def name(self) -> str:
        """What stands before the colon of the title: the method's name."""
        return self.title.partition(":")[0]

    @property
    def promise(self) -> str:
        """What stands after the colon of the title: what the method does."""
        does = self.title.partition(":")[2].strip() or self.title
        return does[:1].upper() + does[1:]


@cache
def read(module: str) -> Source:
    """The source of `folder.name`.

    Raises:
        FileNotFoundError: there is no such module.
    """
    path = IMPLEMENTATIONS / f"{module.replace('.', '/')}.py"
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    title, _, explanation = (ast.get_docstring(tree) or module).partition("\n")
    return Source(
        module=module,
        path=path.relative_to(ROOT).as_posix(),
        title=title,
        explanation=explanation.strip(),
        entry=next((signature(node) for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in ENTRY_POINTS), ""),
        declared=dict(_declared(tree)),
        passages=tuple(_passages(tree, text.splitlines())),
        lines=text.count("\n"),
    )


@cache
def traits() -> dict[str, str]:
    """Trait -> what it promises, from `core.contract`."""
    tree = ast.parse((IMPLEMENTATIONS / "core" / "contract.py").read_text(encoding="utf-8"))
    for name, value in _assignments(tree):
        if name == "TRAITS":
            found: dict[str, str] = ast.literal_eval(value)
            return found
    return {}


def colored(code: str, language: str = "python") -> Markup:
    """Code with its tokens marked for the style sheet."""
    return Markup(highlight(code, _lexers[language], _plain).rstrip("\n"))


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _declared(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, value in _assignments(tree):
        if name in DECLARED:
            called = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
            names = [_name(node) for node in ast.walk(value) if id(node) not in called]
            yield name, tuple(found for found in names if found)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return node.id if isinstance(node, ast.Name) else ""


def signature(node: ast.FunctionDef) -> str:
    """How a function is called: `masks(model, batches, amount) -> Masks`; a method without `self` or `cls`."""
    bare: Any = ast.parse("def f(): ...").body[0]
    bare.name, bare.args, bare.returns = node.name, copy.deepcopy(node.args), node.returns
    if bare.args.args and bare.args.args[0].arg in ("self", "cls"):
        bare.args.args.pop(0)
    return ast.unparse(bare).removeprefix("def ").removesuffix("\n    ...").removesuffix(":")


def _passages(tree: ast.Module, lines: list[str]) -> Iterator[Passage]:
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    start = tree.body[0].end_lineno or 0 if ast.get_docstring(tree) is not None else 0
    plain_from = start
    for node in body:
        end = node.end_lineno or start
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            while first > start and lines[first - 1].startswith("#"):
                first -= 1
            if passage := _passage("", "", lines[plain_from:first], plain_from):
                yield passage
            explanation = ast.get_docstring(node) or ""
            kept = lines[first:end]
            if explanation:
                told = node.body[0]
                last = told.end_lineno or told.lineno
                kept = lines[first : told.lineno - 1] + lines[last:end]
            if passage := _passage(node.name, explanation, kept, first):
                yield passage
            plain_from = end
        start = end
    if passage := _passage("", "", lines[plain_from:], plain_from):
        yield passage


def _passage(name: str, explanation: str, lines: list[str], before: int) -> Passage | None:
    code = "\n".join(lines).strip("\n")
    return Passage(name, explanation, code, before + 1) if code.strip() else None
