"""Select tests by paper: `pytest --paper lee2019snip`, `pytest --when before_training --how loss_change`.

Runs the tests of the implementations that the selected papers link to: `tests/reference_impls/<folder>/test_<module>.py`, and the cases
of the contract battery for the same modules. A paper without a link of its own has one to its nearest implementation. Values within an
option are alternatives, options narrow each other down, as in a query. Reads the text files, not the database.
"""

import pytest

AXES = ("speedup", "when", "how", "fusion", "granularity")


def pytest_addoption(parser):
    group = parser.getgroup("paper", "selection of tests by paper")
    group.addoption("--paper", action="append", metavar="KEY", help="run the tests of the implementations this paper links to; repeatable")
    for axis in AXES:
        group.addoption(
            f"--{axis}", action="append", metavar="VALUE", help=f"... that papers with this value of {axis} link to; repeatable"
        )


def _asked(config):
    return {axis: set(values) for axis in ("paper", *AXES) if (values := config.getoption(f"--{axis}"))}


def _modules(asked, root):
    """Modules, `folder.name`, that the selected papers of the catalog under a root link to."""
    from catalog.problem import hint, not_allowed
    from catalog.read import read
    from schema.terms import FACETS

    papers = read(root).papers
    known = {"paper": [paper.key for paper in papers]} | {axis: list(map(str, FACETS[axis])) for axis in AXES}
    for axis, values in asked.items():
        for value in values - set(known[axis]):
            if axis == "paper":
                message = f"unknown key `{value}`{hint(value, known[axis])}; allowed: what `pruning-atlas query --format keys` lists"
            else:
                message = not_allowed(axis, value, known[axis])
            raise pytest.UsageError(f"--{axis}: {message}")
    selected = [
        paper
        for paper in papers
        if all({paper.key} & values if axis == "paper" else set(paper.tags(axis)) & values for axis, values in asked.items())
    ]
    return {link.implementation for paper in selected for link in paper.references}


def _module_of(item):
    """The module that a test is about, None if it is about none."""
    if item.path.name == "test_contract.py" and item.path.parent.name == "reference_impls":
        return getattr(item, "callspec", None) and item.callspec.params.get("module")
    if item.path.parent.parent.name == "reference_impls":
        return f"{item.path.parent.name}.{item.path.stem.removeprefix('test_')}"
    return None


_SELECTED = pytest.StashKey[set[str]]()


def pytest_configure(config):
    """Before xdist starts its workers: what they raise reads as a crash."""
    if asked := _asked(config):
        config.stash[_SELECTED] = _modules(asked, config.rootpath)
        if not config.stash[_SELECTED]:
            raise pytest.UsageError(f"{_words(asked)}: no paper matches")


def pytest_collection_modifyitems(config, items):
    if _SELECTED not in config.stash:
        return
    modules = config.stash[_SELECTED]
    kept = [item for item in items if _module_of(item) in modules]
    if not kept and not hasattr(config, "workerinput"):
        raise pytest.UsageError(f"{_words(_asked(config))}: no test among those collected for {', '.join(sorted(modules))}")
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _words(asked):
    return " ".join(f"--{axis} {value}" for axis, values in asked.items() for value in sorted(values))
