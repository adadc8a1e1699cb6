"""One torch thread per test process; tests are selected by paper; what this machine cannot run is deselected and counted."""

import pytest
import torch

pytest_plugins = ["tests.selection"]

torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    absent = {"gpu"} if not torch.cuda.is_available() else set()
    deselected = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    import os

    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and nothing is skipped under CI: {report.longrepr}"
