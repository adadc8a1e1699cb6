"""How the tests run: one torch thread each, the fast ones first, selected by paper, with nothing skipped in silence."""

import json
import os
from pathlib import Path

import pytest
import torch

pytest_plugins = ["tests.selection"]

RESULTS = Path(__file__).parents[1] / "build" / "tests.json"  # test -> [outcome, seconds]; the site shows it
DESELECTED = "deselected"

torch.set_num_threads(1)


def _rank(item):
    """Fast tests, then claims, then the browser's."""
    return 2 if item.get_closest_marker("browser") else 1 if item.get_closest_marker("claim") else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    items.sort(key=_rank)
    absent = {"gpu"} if not torch.cuda.is_available() else set()
    lacking = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]
        config.stash[_LACKING] = [item.nodeid for item in lacking]


_LACKING = pytest.StashKey[list[str]]()
_OUTCOMES = pytest.StashKey[dict[str, list]]()


def pytest_configure(config):
    config.stash[_OUTCOMES] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and nothing is skipped under CI: {report.longrepr}"


def _last_results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def _stands(test):
    """Whether a test of this name is still in its file."""
    path, _, name = test.partition("::")
    file = Path(__file__).parents[1] / path
    return file.exists() and f"def {name.partition('[')[0].rpartition('::')[2]}(" in file.read_text()


class _Results:
    """Writes the outcome of every test that ran; those that did not run keep their last one."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.config.stash[_OUTCOMES][report.nodeid] = [report.outcome, round(report.duration, 3)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        """Under xdist only the workers collect: the controller's last line counts what one of them deselected."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        reporter.stats[DESELECTED] = getattr(node, "workeroutput", {}).get(DESELECTED, [])

    def pytest_sessionfinish(self):
        known = {test: result for test, result in _last_results().items() if _stands(test)}
        RESULTS.parent.mkdir(exist_ok=True)
        temporary = RESULTS.with_suffix(f".{os.getpid()}.tmp")  # another run may be writing, too
        temporary.write_text(json.dumps(dict(sorted((known | self.config.stash[_OUTCOMES]).items())), indent=0))
        temporary.replace(RESULTS)


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Results(session.config))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        session.config.workeroutput[DESELECTED] = session.config.stash.get(_LACKING, [])
