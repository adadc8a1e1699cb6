"""What the documentation shows is run as it stands."""

import re
import shlex
import sqlite3

import pytest
from typer.testing import CliRunner

import catalog.query
from catalog.read import ROOT, read
from catalog.store import store
from tools import cli

DOCS = ROOT / "site_src" / "docs"
README = "../../README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes(name, language):
    return [code for found, code in FENCE.findall((DOCS / name).read_text(encoding="utf-8")) if found == language]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with the real catalog in build/."""
    folder = tmp_path_factory.mktemp("real")
    found = read()
    store(found.papers, found.venues.values(), folder / "build" / "catalog.sqlite")
    return folder


@pytest.mark.parametrize("name", ["cookbook.md", "getting-started.md", README])
def test_python_recipes_run(name, real, monkeypatch):
    monkeypatch.setattr(catalog.query, "DATABASE", real / "build" / "catalog.sqlite")
    names = {}
    blocks = recipes(name, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), names)


@pytest.mark.parametrize("name", ["cookbook.md", README])
def test_shell_recipes_find_something(name, real):
    asked = [
        line
        for block in recipes(name, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("pruning-atlas") and not line.startswith("pruning-atlas run")  # the snippets have tests of their own
    ]
    assert len(asked) >= 4
    for line in asked:
        words = shlex.split(line.partition(" > ")[0])[1:]
        outcome = CliRunner().invoke(cli.app, [*words, "--root", str(real)])
        assert outcome.exit_code == 0, (line, outcome.output)
        assert outcome.stdout.strip(), line


@pytest.mark.parametrize("name", ["cookbook.md", README])
def test_the_sql_recipe_finds_something(name, real):
    (block,) = [block for block in recipes(name, "sh") if block.startswith("sqlite3")]
    with sqlite3.connect(real / "build" / "catalog.sqlite") as connection:
        rows = connection.execute(block.partition('"')[2].rpartition('"')[0]).fetchall()
    assert len(rows) >= 5
