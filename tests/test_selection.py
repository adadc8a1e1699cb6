"""`pytest --paper`, `--when` and their like, on a made-up repository."""

import os

import pytest

from catalog.read import read  # before pytester: it forgets what is first imported inside it, and a second import makes other classes
from tests.garden import Garden

pytest_plugins = ["pytester"]


@pytest.fixture
def garden(tmp_path_factory):
    made = Garden(tmp_path_factory.mktemp("garden"))
    assert len(read(made.root).papers) == 4
    return made


CONTRACT = """
import pytest

@pytest.mark.parametrize("module", ["before_training.shears", "after_training.saw"])
def test_law(module):
    pass
"""


@pytest.fixture
def selected(garden, pytester):
    """Status, and the tests that pytest would run with some options or what it says instead."""
    garden.write("tests/reference_impls/test_contract.py", CONTRACT)
    garden.write("tests/catalog/test_other.py", "def test_other():\n    pass\n")
    garden.write("pytest.ini", "[pytest]\ntestpaths = tests\n")
    pytester.chdir()

    def run(*options):
        os.chdir(garden.root)
        result = pytester.runpytest_inprocess("--collect-only", "-q", "-p", "tests.selection", *options)
        tests = sorted(line.rpartition("/")[2] for line in result.outlines if "::" in line)
        return int(result.ret), tests if result.ret == 0 else result.stdout.str() + result.stderr.str()

    return run


SHEARS = ["test_contract.py::test_law[before_training.shears]", "test_shears.py::test_nothing"]
SAW = ["test_contract.py::test_law[after_training.saw]", "test_saw.py::test_nothing"]


@pytest.mark.parametrize(
    ("options", "tests"),
    [
        ("", [*SHEARS, *SAW, "test_other.py::test_other"]),
        ("--paper adler1990pruning", SAW),
        ("--paper muller2019shears", [*SHEARS, *SAW]),  # implements one, is a variant of the other
        ("--paper anonundatedtrunks", SHEARS),
        ("--paper beek2019leaves", SAW),  # nearest, and nothing else
        ("--paper anonundatedtrunks --paper beek2019leaves", [*SHEARS, *SAW]),
        ("--when after_training", SAW),
        ("--when run_time --when before_training", [*SHEARS, *SAW]),
        ("--speedup unstructured --how magnitude", SAW),
        ("--fusion quantization", [*SHEARS, *SAW]),
    ],
)
def test_selects(selected, options, tests):
    assert selected(*options.split()) == (0, sorted(tests))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--paper nobody2019nothing", "--paper: unknown key `nobody2019nothing`"),
        ("--paper muller2019shear", "did you mean `muller2019shears`?"),
        ("--when runtime", "--when: unknown when `runtime`, did you mean `run_time`?; allowed: before_training"),
        ("--granularity head", "--granularity head: no paper matches"),
        ("--paper adler1990pruning --when run_time", "no paper matches"),
        ("--paper adler1990pruning tests/catalog", "--paper adler1990pruning: no test among those collected for after_training.saw"),
    ],
)
def test_a_selection_that_matches_nothing_fails_and_says_so(selected, options, says):
    status, output = selected(*options.split())
    assert status == 4
    assert says in output
