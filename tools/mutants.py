"""Break the implementations on purpose, and count which breaks their own tests notice: `make mutants`.

Each mutant changes one thing in a module: an operator, a number, a comparison, a dropped statement, swapped arguments.
Strings, annotations, defaults, declarations and error branches are left alone.
`tests/breaks/<folder>/<module>.toml` adds the breaks that a person thought of.
A mutant is run in a fork of one process that has torch and the like loaded, against the module's own tests without its `claim` tests.
Results are kept in build/mutants, by the content of the module, its tests and all that either of them imports from here; survivors that
change nothing are explained in the same .toml.

Why not mutmut or cosmic-ray: both start an interpreter per mutant, and importing torch costs more than running the tests.
"""

import ast
import copy
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "mutants"
MOST = 60
SEED = 0
SECONDS = 90  # a mutant that runs longer than this is counted as noticed: the tests would never end
# what tests import and no mutant changes; a first import in every fork costs more than most tests
LOADED_BEFORE = ("hypothesis", "pytest", "sklearn.datasets", "torch._dynamo", "torch.func")
DECLARATIONS = {"TRAITS", "UNIT", "GROUP", "AMOUNTS", "NETWORK", "QUICK"}

SWAPPED_OPERATORS: dict[type[ast.AST], type[Any]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPPED_NAMES = {
    "min": "max",
    "max": "min",
    "argmin": "argmax",
    "argmax": "argmin",
    "amin": "amax",
    "amax": "amin",
    "sum": "mean",
    "mean": "sum",
    "ones_like": "zeros_like",
    "zeros_like": "ones_like",
    "ones": "zeros",
    "zeros": "ones",
}
DROPPED_CALLS = {"abs", "square", "sqrt", "log", "exp", "pow", "softmax", "sigmoid", "cumsum", "floor", "ceil", "clamp"}


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        what: the change, with its line.
        killed: whether a test noticed it.
    """

    what: str
    killed: bool


def mutants(source: str) -> list[tuple[str, str]]:
    """Every single change of the module, as (what, changed source), in the order of the file."""
    tree = ast.parse(source)
    found: list[tuple[str, str]] = []
    for index, node in enumerate(_places(tree)):
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            change(list(_places(changed))[index])
            line = getattr(node, "lineno", 0)
            found.append((f"line {line}: {what}", ast.unparse(ast.fix_missing_locations(changed))))
    return [(what, text) for what, text in found if text != ast.unparse(tree)]


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be changed: no annotations, defaults, declarations, strings, or branches that only raise."""
    if isinstance(tree, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments):
        return
    if isinstance(tree, ast.If) and all(isinstance(statement, ast.Raise) for statement in tree.body):
        for statement in tree.orelse:
            yield from _places(statement)
        return
    if isinstance(tree, ast.Assign) and any(isinstance(target, ast.Name) and target.id in DECLARATIONS for target in tree.targets):
        return
    if isinstance(tree, ast.keyword) and tree.arg == "strict":
        return
    yield tree
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[..., None]]]:
    """What can be changed at a node: a description, and the function that does it to the node's copy."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPPED_OPERATORS:
        other = SWAPPED_OPERATORS[type(node.op)]

        def swap_operator(n: ast.BinOp) -> None:
            n.op = other()

        yield f"{type(node.op).__name__} -> {other.__name__}", swap_operator
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED_OPERATORS:
        comparison = SWAPPED_OPERATORS[type(node.ops[0])]

        def swap_comparison(n: ast.Compare) -> None:
            n.ops[0] = comparison()

        yield f"{type(node.ops[0]).__name__} -> {comparison.__name__}", swap_comparison
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):

        def drop_sign(n: ast.UnaryOp) -> None:
            n.op = ast.UAdd() if isinstance(n.op, ast.USub) else n.op
            if not isinstance(n.op, ast.UAdd):
                n.operand = ast.UnaryOp(n.op, n.operand)

        yield f"{type(node.op).__name__} dropped", drop_sign
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):

        def negate(n: ast.Constant) -> None:
            n.value = not n.value

        yield f"{node.value} -> {not node.value}", negate
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):

        def increase(n: ast.Constant) -> None:
            assert isinstance(n.value, int | float)
            n.value = n.value + 1

        yield f"{node.value} -> {node.value + 1}", increase
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED_NAMES:

        def swap_name(n: ast.Attribute) -> None:
            n.attr = SWAPPED_NAMES[n.attr]

        yield f"{node.attr} -> {SWAPPED_NAMES[node.attr]}", swap_name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_CALLS:

        def drop_call(n: ast.Call) -> None:
            assert isinstance(n.func, ast.Attribute)
            base = n.func.value
            is_function = isinstance(base, ast.Name) and base.id in ("torch", "math", "functional") and n.args
            n.func = ast.Name("_same", ast.Load())
            n.args = [n.args[0] if is_function else base]
            n.keywords = []

        yield f"{node.func.attr}() dropped", drop_call
    if isinstance(node, ast.Call) and len(node.args) == 2 and not any(isinstance(argument, ast.Starred) for argument in node.args):

        def swap_arguments(n: ast.Call) -> None:
            n.args.reverse()

        yield "arguments swapped", swap_arguments
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):

        def drop_statement(n: ast.Expr) -> None:
            n.value = ast.Constant(None)

        yield "statement dropped", drop_statement
    if isinstance(node, ast.AugAssign):

        def drop_update(n: ast.AugAssign) -> None:
            n.value = ast.Constant(0) if isinstance(n.op, ast.Add | ast.Sub) else ast.Constant(1)

        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            yield "update dropped", drop_update


def breaks(name: str, source: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The breaks that a person wrote for the module, and the survivors that are explained: (what, changed source), what -> why.

    Raises:
        ValueError: a break's `old` does not occur exactly once, or there are fewer than three.
    """
    path = ROOT / "tests" / "breaks" / f"{name.replace('.', '/')}.toml"
    if not path.exists():
        raise ValueError(f"{path.relative_to(ROOT)}: not there; three breaks by hand are needed")
    written = tomllib.loads(path.read_text())
    found = []
    for item in written.get("break", []):
        if source.count(item["old"]) != 1:
            raise ValueError(f"{path.relative_to(ROOT)}: {item['old']!r} occurs {source.count(item['old'])} times in the module, not once")
        found.append((f"by hand: {item['what']}", source.replace(item["old"], item["new"])))
    if len(found) < 3:
        raise ValueError(f"{path.relative_to(ROOT)}: {len(found)} breaks; three are needed")
    return found, {item["what"]: item["why"] for item in written.get("equivalent", [])}


def killed(name: str, source: str) -> bool:
    """Whether the module's tests notice that its source is this one. Runs in a fork."""
    return all_killed(name, [source], 1)[0]


def all_killed(name: str, sources: Sequence[str], processes: int) -> list[bool]:
    """For each source whether the module's tests notice it; so many at a time, each in a fork."""
    outcome: list[bool] = [True] * len(sources)
    waiting = list(enumerate(sources))[::-1]
    running: dict[int, tuple[int, float]] = {}
    with Progress(console=Console(stderr=True), disable=len(sources) == 1) as progress:
        bar = progress.add_task(name, total=len(sources))
        while waiting or running:
            while waiting and len(running) < processes:
                place, source = waiting.pop()
                child = os.fork()
                if child == 0:
                    _run_tests(name, source)
                running[child] = (place, time.monotonic() + SECONDS)
            for child, (place, deadline) in list(running.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    outcome[place] = os.waitstatus_to_exitcode(status) != 0
                elif time.monotonic() > deadline:  # its tests would never end: noticed
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                else:
                    continue
                del running[child]
                progress.advance(bar)
            time.sleep(0.01)
    return outcome


def _run_tests(name: str, source: str) -> None:
    """Put the source in the module's place, run its tests quietly, and leave the process."""
    import importlib.util
    import types

    import pytest

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    full = f"reference_impls.{name}"
    for loaded in [module for module in sys.modules if module.startswith(("reference_impls.", "tests.reference_impls."))]:
        del sys.modules[loaded]  # what was imported before still holds the unchanged module
    try:
        module = types.ModuleType(full)
        spec = importlib.util.find_spec(full)
        assert spec is not None
        module.__file__, module.__spec__ = spec.origin, spec
        module.__dict__["_same"] = lambda value: value
        sys.modules[full] = module
        exec(compile(source, f"<mutant of {full}>", "exec"), module.__dict__)
        package = importlib.import_module(full.rpartition(".")[0])
        setattr(package, full.rpartition(".")[2], module)
    except BaseException:
        os._exit(1)
    code = pytest.main([str(_tests(name)), "-x", "-q", "-m", "not claim", "-p", "no:cacheprovider", "--no-header"])
    os._exit(0 if code == 0 else 1)


def _tests(name: str) -> Path:
    folder, _, module = name.partition(".")
    return ROOT / "tests" / "reference_impls" / folder / f"test_{module}.py"


def imported(*files: Path) -> list[Path]:
    """These files and the files below reference_impls/ that they import, directly or through others; sorted."""
    found, waiting = set(files), list(files)
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("reference_impls"):
                continue
            for dotted in [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]:
                file = ROOT / f"{dotted.replace('.', '/')}.py"
                if file not in found and file.exists():
                    found.add(file)
                    waiting.append(file)
    return sorted(found)


def examine(name: str) -> list[Outcome]:
    """The outcome of each of the module's mutants; from the cache where nothing has changed.

    Raises:
        ValueError: the module's own tests fail without a change, or its breaks are not in order.
    """
    path = ROOT / "reference_impls" / f"{name.replace('.', '/')}.py"
    source = path.read_text()
    by_hand, _ = breaks(name, source)
    by_hand_file = ROOT / "tests" / "breaks" / f"{name.replace('.', '/')}.toml"
    content = b"\0".join(file.read_bytes() for file in [*imported(path, _tests(name)), by_hand_file, Path(__file__)])
    cached = CACHE / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.json"
    if cached.exists():
        return [Outcome(**item) for item in json.loads(cached.read_text())]
    if killed(name, source):
        raise ValueError(f"{_tests(name).relative_to(ROOT)}: fails before anything is changed")
    drawn = mutants(source)
    if len(drawn) > MOST:
        drawn = [drawn[i] for i in sorted(random.Random(SEED).sample(range(len(drawn)), MOST))]
    broken = [*by_hand, *drawn]
    found = all_killed(name, [text for _, text in broken], os.cpu_count() or 1)
    outcomes = [Outcome(what, dead) for (what, _), dead in zip(broken, found, strict=True)]
    CACHE.mkdir(parents=True, exist_ok=True)
    cached.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    return outcomes


def main(modules: list[str] = typer.Argument(None, help="folder.module; all of them if none is named")) -> None:  # noqa: B008 (typer's way)
    """Print the table of mutants; exit 1 where a module loses fewer than 90 % or a break by hand survives."""
    import torch

    from reference_impls.core import contract

    torch.set_num_threads(1)
    for library in LOADED_BEFORE:
        importlib.import_module(library)
    os.nice(10)  # hours of work give way to whatever else the machine does
    console, failed = Console(), False
    table = Table("module", "mutants", "killed", "%", title="Mutants killed by each module's own tests")
    survivors: list[str] = []
    for name in modules or contract.names():
        try:
            outcomes = examine(name)
        except ValueError as error:
            survivors.append(f"{name}: {error}")
            failed = True
            continue
        explained = breaks(name, (ROOT / "reference_impls" / f"{name.replace('.', '/')}.py").read_text())[1]
        counted = [outcome for outcome in outcomes if outcome.killed or outcome.what not in explained]
        dead = sum(outcome.killed for outcome in counted)
        share = 100 * dead / len(counted)
        table.add_row(name, str(len(counted)), str(dead), f"{share:.0f}")
        survivors += [f"{name}: {outcome.what}" for outcome in counted if not outcome.killed]
        survivors += [f"{name}: {o.what}: changes nothing: {explained[o.what]}" for o in outcomes if not o.killed and o.what in explained]
        failed |= share < 90 or any(not outcome.killed and outcome.what.startswith("by hand") for outcome in counted)
    console.print(table)
    for line in survivors:
        console.print(line, markup=False, highlight=False)
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
