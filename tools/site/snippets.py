"""Record what the runnable snippets print. A snippet runs again only if its code, what it imports, or torch has changed."""

import ast
import contextlib
import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.progress import track

ROOT = Path(__file__).parents[2]
SNIPPETS = ROOT / "site_src" / "snippets"
RECORDS = ROOT / "build" / "snippets"
PACKAGES = ("reference_impls", "catalog", "schema")
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
BRANCH = "gh-pages"
"""The branch that holds the published site, its notebooks among it: where `mkdocs gh-deploy` puts it."""

LIMIT = 60.0
"""Seconds after which a snippet is stopped."""

PROCESSES = 2
"""Snippets that run at a time, each with one torch thread."""


@dataclass(frozen=True)
class Recording:
    """What a snippet printed.

    Attributes:
        module: the implementation that it shows, `folder.name`.
        code: the snippet.
        output: what it printed.
        error: the last line of what went wrong; empty if nothing did.
        seconds: how long it ran.
        fingerprint: of all that the output depends on.
    """

    module: str
    code: str
    output: str
    error: str
    seconds: float
    fingerprint: str


def snippet(module: str, snippets: Path = SNIPPETS) -> str | None:
    """The snippet of an implementation, if there is one."""
    path = snippets / f"{module.replace('.', '/')}.py"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def recorded(module: str, snippets: Path = SNIPPETS, records: Path = RECORDS) -> Recording | None:
    """The recording of an implementation's snippet, if there is one of the snippet as it stands."""
    path = records / f"{module}.json"
    code = snippet(module, snippets)
    if code is None or not path.exists():
        return None
    recording = Recording(**json.loads(path.read_text(encoding="utf-8")))
    return recording if recording.code == code else None


def colab(repository: str, module: str) -> str | None:
    """Where Colab opens the notebook of an implementation; None if it cannot: it reads public GitHub repositories only."""
    found = GITHUB.fullmatch(repository)
    return f"https://colab.research.google.com/github/{found[1]}/blob/{BRANCH}/data/snippets/{module}.ipynb" if found else None


def notebook(module: str, code: str, recording: Recording | None, repository: str = "") -> dict[str, Any]:
    """The snippet as a Jupyter notebook, with its recorded output where there is one.

    Args:
        module: the implementation that it shows.
        code: the snippet.
        recording: what it printed.
        repository: public address of the atlas, if it has one; a cell before the snippet then installs it.
    """
    outputs = []
    if recording and recording.output:
        outputs = [{"output_type": "stream", "name": "stdout", "text": f"{recording.output}\n"}]
    note = f"`{module}` of the Pruning Atlas. It runs where the atlas is installed: `pip install --editable .` in its folder."
    install: dict[str, Any] = {
        "cell_type": "code",
        "id": "install",
        "metadata": {},
        "execution_count": None,
        "source": f"%pip install --quiet git+{repository}",
        "outputs": [],
    }
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "cells": [
            {"cell_type": "markdown", "id": "about", "metadata": {}, "source": note},
            *([install] if repository else []),
            {
                "cell_type": "code",
                "id": "snippet",
                "metadata": {},
                "execution_count": 1 if recording else None,
                "source": code,
                "outputs": outputs,
            },
        ],
    }


def write(modules: Iterable[str], folder: Path, records: Path = RECORDS, repository: str = "") -> None:
    """Write each snippet into the folder as `<module>.py` and `<module>.ipynb`, to be downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in modules:
        if code := snippet(module):
            (folder / f"{module}.py").write_text(f"{code}\n", encoding="utf-8")
            content = notebook(module, code, recorded(module, records=records), repository)
            (folder / f"{module}.ipynb").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def record(snippets: Path = SNIPPETS, records: Path = RECORDS) -> list[Recording]:
    """Run every snippet whose recording is missing, old or a failure, two at a time; gives the recordings that were made anew."""
    records.mkdir(parents=True, exist_ok=True)
    stale = list(_stale(snippets, records))
    made = []
    if stale:
        # a process of its own for each snippet, forked from one that has imported torch already; the threads only wait for them
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "sklearn.datasets", "tools.site.snippets"])
        with ThreadPoolExecutor(PROCESSES) as pool:
            recordings = pool.map(lambda snippet: _run(context, *snippet), stale)
            for recording in track(recordings, "Running snippets", total=len(stale), transient=True):
                text = json.dumps(asdict(recording), indent=1, ensure_ascii=False)
                (records / f"{recording.module}.json").write_text(text, encoding="utf-8")
                made.append(recording)
    return made


def _stale(snippets: Path, records: Path) -> Iterator[tuple[str, str, str]]:
    for path in sorted(snippets.glob("*/*.py")):
        module = f"{path.parent.name}.{path.stem}"
        code = path.read_text(encoding="utf-8").strip()
        fingerprint = _fingerprint(code)
        known = recorded(module, snippets, records)
        # what failed may have failed for want of time or memory
        if known is None or known.fingerprint != fingerprint or known.error:
            yield module, code, fingerprint


def _fingerprint(code: str) -> str:
    digest = hashlib.sha256(f"{importlib.metadata.version('torch')} {sys.version_info[:2]}\n{code}".encode())
    for path in sorted(_reached(code)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _reached(code: str) -> set[Path]:
    """Files of the project that the code imports, and what they import."""
    reached: set[Path] = set()
    waiting = _imports(code)
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting |= _imports_of(path)
    return reached


@cache
def _imports_of(path: Path) -> frozenset[Path]:
    return frozenset(_imports(path.read_text(encoding="utf-8")))


def _imports(code: str) -> set[Path]:
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    candidates = (ROOT / name.replace(".", "/") for name in names if name.split(".")[0] in PACKAGES)
    files = (file for path in candidates for file in (path.with_suffix(".py"), path / "__init__.py"))
    return {file for file in files if file.is_file()}


def _run(context: multiprocessing.context.ForkServerContext, module: str, code: str, fingerprint: str) -> Recording:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(code, sender), daemon=True)
    started = time.perf_counter()
    process.start()
    sender.close()
    output, error = "", f"stopped after {LIMIT:.0f} seconds"
    if receiver.poll(LIMIT):
        try:
            output, error = receiver.recv()
        except EOFError:
            error = "the process ended without a word"
    process.kill()
    process.join()
    return Recording(module, code, output, error, round(time.perf_counter() - started, 2), fingerprint)


def _execute(code: str, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    printed = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
        except Exception as problem:
            error = traceback.format_exception_only(problem)[-1].strip()
    sender.send((printed.getvalue().rstrip(), error))
