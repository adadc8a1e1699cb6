"""Measured sizes: read line by line, checked, stored and found again."""

import json

import pytest

from catalog import Catalog, store
from catalog.check import check
from catalog.read import read

PATH = "catalog/measurements/sizes.jsonl"
SIZE = {
    "network": "lenet_300_100",
    "amount": "sparsity 0.5",
    "parameters_before": 50610,
    "parameters_after": 50610,
    "weight_sparsity": 0.5,
    "macs_before": 50200,
    "macs_after": 50200,
    "bytes_before": 202440,
    "bytes_after": 202440,
    "latency_ratio": 1.01,
    "rounds": 9,
    "date": "2026-11-21",
    "torch": "2.13.0",
    "processor": "made up",
}


@pytest.fixture
def module(garden):
    return read(garden.root).papers[0].references[0].implementation


@pytest.fixture
def write(garden):
    def lines(*lines):
        (garden.root / PATH).parent.mkdir(exist_ok=True)
        (garden.root / PATH).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))

    return lines


def test_a_line_is_found_again_in_the_database(garden, write, module):
    write(SIZE | {"module": module})
    store.build(garden.database, garden.root)
    with Catalog.open(garden.database) as atlas:
        (found,) = atlas.sizes().values()
        assert list(atlas.sizes()) == [module]
    assert found.model_dump() == SIZE | {"module": module}


def test_without_the_file_nothing_is_known(garden):
    store.build(garden.database, garden.root)
    with Catalog.open(garden.database) as atlas:
        assert atlas.sizes() == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_sparsity": 1.5}, "weight_sparsity"),
        ({"latency_ratio": 0}, "latency_ratio"),
        ({"macs_after": -1}, "macs_after"),
        ({"parameters_after": 10.5}, "parameters_after"),
        ({"date": "today"}, "date"),
        ({"colour": "red"}, "colour"),
        ({"module": "nowhere"}, "module"),
    ],
)
def test_a_bad_line_is_told_with_its_place(garden, write, module, change, says):
    write(SIZE | {"module": module}, SIZE | {"module": "run_time.other"} | change)
    problems = read(garden.root).problems
    assert {(problem.path, problem.line) for problem in problems} == {(PATH, 2)}
    assert f"`{says}`" in problems[0].message or says in problems[0].message
    assert "allowed" in problems[0].message


def test_a_missing_field_a_broken_line_and_a_second_one(garden, write, module):
    good = SIZE | {"module": module}
    write(good, {name: value for name, value in good.items() if name != "rounds"}, '{"module": ', "[1]", good)
    problems = sorted(read(garden.root).problems)
    assert [problem.line for problem in problems] == [2, 3, 4, 5]
    assert "rounds" in problems[0].message
    assert "this is no JSON (Expecting value" in problems[1].message
    assert "this is no JSON (no object); allowed: one JSON object per line" in problems[2].message
    assert f"the first is {PATH}:1" in problems[3].message


def test_an_implementation_that_there_is_not(garden, write, module):
    write(SIZE | {"module": module + "x"})
    (problem,) = check(read(garden.root), garden.root)
    assert (problem.path, problem.line) == (PATH, 1)
    assert f"did you mean `{module}`?" in problem.message
