"""The command line: formats, exit statuses, what stands on which stream, and that the docs name everything."""

import csv
import io
import json
import os
import re
import time

import pytest
import typer
from typer.testing import CliRunner

from catalog import Catalog, store
from catalog.read import ROOT
from schema.terms import FACETS
from tools import cli, formats
from tools.cli import app


@pytest.fixture
def atlas(garden):
    """Run the command line on the built garden."""
    store.build(garden.database, garden.root)
    return Runner(garden)


class Runner:
    def __init__(self, garden):
        self.garden = garden

    def __call__(self, *arguments, status=0):
        result = CliRunner().invoke(app, [*arguments, "--root", str(self.garden.root)])
        assert result.exit_code == status, (result.output, result.exception)
        return result


def test_keys_are_one_a_line_and_nothing_else(atlas):
    assert atlas("query", "--format", "keys").stdout == "adler1990pruning\nbeek2019leaves\nmuller2019shears\nanonundatedtrunks\n"


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ("--when run_time", "beek2019leaves"),
        ("--when run_time --when after_training", "adler1990pruning beek2019leaves"),
        ("--when run_time --how magnitude", ""),
        ("--text shears", "muller2019shears"),
        ("--years 2019", "beek2019leaves muller2019shears"),
        ("--years 1990-2018", "adler1990pruning"),
        ("--kind survey", "anonundatedtrunks"),
        ("--relation variant", "muller2019shears"),
        ("--structured_family coded", None),
    ],
)
def test_filters(atlas, options, keys):
    if keys is None:
        assert "unknown value of structured_family `coded`" in atlas("query", *options.split(), status=2).stderr
    else:
        assert atlas("query", *options.split(), "--format", "keys").stdout.split() == keys.split()


def test_every_facet_is_an_option_of_query_and_facets(atlas):
    for axis, terms in FACETS.items():
        value = str(next(iter(terms)))
        with Catalog.open(atlas.garden.database) as opened:
            expected = opened.keys(**{axis: value})
        assert atlas("query", f"--{axis}", value, "--format", "keys").stdout.split() == expected
        atlas("facets", f"--{axis}", value)


def test_json(atlas):
    papers = json.loads(atlas("query", "--format", "json").stdout)
    assert [paper["key"] for paper in papers] == ["adler1990pruning", "beek2019leaves", "muller2019shears", "anonundatedtrunks"]
    shears = papers[2]
    assert shears["title"] == "SHEARS: Cutting before the First Leaf"
    assert shears["authors"] == ["Ján Müller", "Ada Adler"]
    assert (shears["year"], shears["venue"], shears["doi"], shears["arxiv"]) == (2019, "ICLR", None, "1901.00001")
    assert shears["url"] == "https://example.org/shears?a=1&b=2"
    assert shears["code"] == ["https://example.org/code", "https://example.org/code2"]
    assert (shears["kind"], shears["speedup"], shears["granularity"]) == ("method", ["unstructured", "structured"], [])
    assert (shears["when"], shears["how"], shears["fusion"]) == (["before_training"], ["sensitivity", "other"], ["quantization"])
    assert shears["structured_family"] == []
    assert shears["references"] == [
        {"implementation": "before_training.shears", "relation": "implements"},
        {"implementation": "after_training.saw", "relation": "variant", "differs": "It cuts before, not after."},
    ]
    assert papers[3]["year"] is None
    assert papers[0]["authors"][1:] == ["Bram van Beek", "Martin King Jr."]


def test_bibtex_reads_back(atlas):
    from catalog.bibtex import parse

    entries, problems = parse(atlas("query", "--format", "bibtex").stdout)
    assert not problems
    assert [entry.key for entry in entries] == ["adler1990pruning", "beek2019leaves", "muller2019shears", "anonundatedtrunks"]


def test_csv_reads_back(atlas):
    rows = list(csv.DictReader(io.StringIO(atlas("query", "--format", "csv").stdout)))
    assert list(rows[0]) == list(formats.FIELDS)
    assert rows[2]["authors"] == "Ján Müller; Ada Adler"
    assert rows[2]["references"] == "before_training.shears (implements); after_training.saw (variant)"
    assert rows[0]["summary"].count("\n\n") == 1


def test_table_shows_untrusted_text_as_text(atlas):
    atlas.garden.replace("catalog/bibliography/undated.bib", "A Survey of Trunks", "[bold]A Survey[/bold] of Trunks")
    atlas("build")
    table = atlas("query").stdout
    assert "[bold]A Survey[/bold] of Trunks" in table
    assert "100% <b>bare</b>" in table


@pytest.mark.parametrize(("format", "nothing"), [("json", "[]\n"), ("keys", ""), ("bibtex", ""), ("table", "")])
def test_no_match_is_empty_and_no_failure(atlas, format, nothing):
    assert atlas("query", "--text", "zebra", "--format", format).stdout == nothing
    assert atlas("query", "--text", "zebra", "--format", "csv").stdout == ",".join(formats.FIELDS) + "\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["query", "--when", "runtime"],
            "unknown value of when `runtime`, did you mean `run_time`?; allowed: before_training, during_training",
        ),
        (["query", "--wen", "run_time"], "unknown option `--wen`, did you mean `--when`?; allowed: --applications, --data"),
        (["facets", "--wen=run_time"], "unknown option `--wen`, did you mean `--when`?; allowed: --applications, --data"),
        (["query", "--years", "2018-"], "unknown years `2018-`; allowed: a year, or first-last: 2018-2021"),
        (["query", "--years", "lately"], "unknown years `lately`"),
        (["query", "--years", "2021-2018"], "years run backwards: 2021-2018"),
        (["query", "--format", "xml"], "'table', 'json', 'bibtex', 'csv', 'keys'"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_allowed(atlas, arguments, says):
    result = atlas(*arguments, status=2)
    assert result.stdout == ""
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_facets(atlas):
    counts = json.loads(atlas("facets", "--when", "run_time", "--format", "json").stdout)
    assert list(counts) == list(FACETS)
    assert counts["when"] == {"before_training": 1, "during_training": 0, "early_training": 0, "after_training": 1, "run_time": 1}
    assert counts["kind"]["adjacent"] == 1 == sum(counts["kind"].values())
    table = atlas("facets", "--when", "run_time").stdout
    assert ["when", "run_time", "1"] in [line.split() for line in table.splitlines()]
    assert "theory" not in table


def test_show(atlas):
    text = atlas("show", "muller2019shears").stdout
    for part in (
        "SHEARS: Cutting before the First Leaf", "Ján Müller, Ada Adler", "International Conference on Learning Representations, 2019",
        "Shears cut at the beginning.", "sensitivity, other (asks the gardener)  [abstract]", "before_training.shears (implements)",
        "after_training.saw (variant) It cuts before, not after.", "adler1990pruning", "beek2019leaves", "@inproceedings{muller2019shears,",
    ):  # fmt: skip
        assert part in text, part
    assert "No author list found." in atlas("show", "anonundatedtrunks").stdout
    shown = json.loads(atlas("show", "adler1990pruning", "--format", "json").stdout)
    assert shown["key"] == "adler1990pruning"
    assert shown["extended_by"] == ["beek2019leaves", "muller2019shears"]


@pytest.mark.parametrize("command", ["show", "run"])
def test_an_unknown_key_suggests_the_nearest(atlas, command):
    assert "no paper `muller2019shear`; nearest: muller2019shears" in atlas(command, "muller2019shear", status=1).stderr


@pytest.mark.parametrize("arguments", [["query"], ["show", "muller2019shears"], ["facets"], ["run", "muller2019shears"], ["site"]])
def test_a_missing_database_names_the_command(garden, arguments):
    result = Runner(garden)(*arguments, status=1)
    assert "run: make catalog" in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not garden.database.exists()


@pytest.mark.parametrize("change", ["write", "delete"])
def test_an_older_database_is_used_but_told(atlas, change):
    assert "older" not in atlas("query", "--format", "keys").stderr
    later = time.time() + 10
    path = atlas.garden.root / "catalog/papers/beek2019leaves.md"
    if change == "write":
        os.utime(path, (later, later))
    else:
        path.unlink()
        os.utime(path.parent, (later, later))
    result = atlas("query", "--format", "keys")
    assert "is older than the text files; run: make catalog" in " ".join(result.stderr.split())
    assert "beek2019leaves" in result.stdout


def test_check(atlas):
    assert atlas("check").stdout == "4 papers, 4 people, 3 venues, 2 implementations: no problems\n"
    doubts = atlas("check", "--doubts").stdout
    assert "no author list found: 1\n  anonundatedtrunks\n" in doubts
    coverage = [line.split() for line in atlas("check", "--coverage").stdout.splitlines()]
    assert ["facet", "value", "implements", "variant", "subject", "nearest"] in coverage
    assert ["all", "papers", "2", "0", "1", "1"] in coverage
    assert ["when", "run_time", "0", "0", "0", "1"] in coverage


def test_check_and_build_print_every_problem_and_leave_the_database(atlas):
    before = atlas.garden.database.read_bytes()
    atlas.garden.replace("catalog/papers/adler1990pruning.md", "[magnitude]", "[magnitud]")
    atlas.garden.replace("catalog/papers/anonundatedtrunks.md", "relation: subject", "relation: subjects")
    for command in ("check", "build"):
        result = atlas(command, status=1)
        assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [
            "catalog/papers/adler1990pruning.md:7",
            "catalog/papers/anonundatedtrunks.md:6",
        ]
        assert "2 problems" in result.stderr
    assert atlas.garden.database.read_bytes() == before


def test_build(garden):
    result = Runner(garden)("build")
    assert "4 papers in" in result.stderr
    with Catalog.open(garden.database) as opened:
        assert len(opened) == 4


def test_run(atlas):
    atlas.garden.write("site_src/snippets/before_training/shears.py", "import reference_impls\nprint('snip')\nprint('snap')\n")
    result = atlas("run", "muller2019shears")
    assert result.stdout == "snip\nsnap\n"
    assert "Running before_training.shears, which implements muller2019shears" in " ".join(result.stderr.split())
    assert "not implemented yet; running the nearest" in " ".join(atlas("run", "beek2019leaves").stderr.split())
    assert "(subject of anonundatedtrunks): It describes" in " ".join(atlas("run", "anonundatedtrunks").stderr.split())


def test_run_passes_a_failure_on(atlas):
    atlas.garden.write("site_src/snippets/before_training/shears.py", "print('snip')\nraise SystemExit(3)\n")
    result = atlas("run", "muller2019shears", status=1)
    assert result.stdout == "snip\n"
    assert "failed with exit status 3" in " ".join(result.stderr.split())


def test_progress_shows_only_after_its_patience(monkeypatch, capsys):
    with cli.progress("Reading") as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with cli.progress("Reading") as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "PATIENCE", -1.0)
    with cli.progress("Reading") as advance:
        advance(1, 2)
    assert "Reading" in capsys.readouterr().err


def commands():
    group = typer.main.get_command(app)
    return dict(group.commands)


def test_every_command_and_option_is_in_the_docs():
    text = (ROOT / "site_src/docs/cli.md").read_text(encoding="utf-8")
    for name, command in commands().items():
        assert f"\n## `{name}" in text, name
        section = text.partition(f"\n## `{name}")[2].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.name == "context":
                continue
            shown = parameter.name if parameter.name in FACETS else None
            documented = f"`{parameter.opts[0]}" if parameter.param_type_name == "option" else parameter.name.upper()
            where = text if shown or parameter.name in ("root", "text", "years") else section
            assert documented in where, (name, documented)


def test_the_docs_name_no_command_or_option_that_there_is_not():
    text = (ROOT / "site_src/docs/cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(\w+)", text, re.MULTILINE)) == set(commands())
    options = {option for command in commands().values() for parameter in command.params for option in parameter.opts} | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text)) <= options


def test_serve_is_told_its_port_and_how_long_a_run_may_take(atlas, monkeypatch):
    served = []
    monkeypatch.setattr("tools.serve.serve", lambda folder, port, live: served.append((folder, port, live.limit)))
    assert "run: make site" in atlas("serve", status=1).stderr
    assert served == []
    site = atlas.garden.root / "build" / "site"
    atlas.garden.write("build/site/index.html", "home")
    atlas("serve")
    atlas("serve", "--port", "0", "--run-limit", "7.5")
    atlas("serve", "--run-limit", "0", status=2)
    assert served == [(site, 8000, 60.0), (site, 0, 7.5)]
