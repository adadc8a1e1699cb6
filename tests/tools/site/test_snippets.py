import json

import nbformat
import pytest

from tools.site import snippets


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "snippets" / "before_training").mkdir(parents=True)
    return tmp_path / "snippets", tmp_path / "records"


def write(folders, code, name="example"):
    (folders[0] / "before_training" / f"{name}.py").write_text(code)


def test_output_is_recorded_once(folders):
    write(folders, "import torch\nprint(torch.ones(2).sum().item())")
    (made,) = snippets.record(*folders)
    assert (made.module, made.output, made.error) == ("before_training.example", "2.0", "")
    assert snippets.record(*folders) == []
    assert snippets.recorded("before_training.example", *folders) == made


def test_changed_code_runs_again(folders):
    write(folders, "print(1)")
    snippets.record(*folders)
    write(folders, "print(2)")
    assert snippets.recorded("before_training.example", *folders) is None  # the page must not show old output
    assert [made.output for made in snippets.record(*folders)] == ["2"]


def test_what_a_snippet_imports_counts(folders, monkeypatch):
    code = "from reference_impls.core import amounts\nprint(3)"
    before = snippets._fingerprint(code)
    reached = {path.relative_to(snippets.ROOT).as_posix() for path in snippets._reached(code)}
    assert "reference_impls/core/amounts.py" in reached
    monkeypatch.setattr(snippets.importlib.metadata, "version", lambda name: "0.0")
    assert snippets._fingerprint(code) != before


def test_a_changed_import_runs_the_snippet_again(tmp_path, monkeypatch):
    package = tmp_path / "reference_impls"
    package.mkdir()
    for name, code in {"__init__": "", "first": "from reference_impls import second", "second": "x = 1"}.items():
        (package / f"{name}.py").write_text(code)
    monkeypatch.setattr(snippets, "ROOT", tmp_path)
    before = snippets._fingerprint("from reference_impls.first import second")
    assert snippets._fingerprint("from reference_impls.first import second") == before
    (package / "second.py").write_text("x = 2")
    assert snippets._fingerprint("from reference_impls.first import second") != before


def test_the_imports_of_imports_count():
    reached = {path.name for path in snippets._reached("from reference_impls.before_training import snip")}
    assert {"snip.py", "masks.py"} <= reached


def test_a_failure_is_recorded_with_what_was_printed_before(folders):
    write(folders, "print('so far')\nraise ValueError('no data')")
    (made,) = snippets.record(*folders)
    assert (made.output, made.error) == ("so far", "ValueError: no data")


def test_an_endless_snippet_is_stopped(folders, monkeypatch):
    monkeypatch.setattr(snippets, "LIMIT", 1.0)
    write(folders, "while True: pass")
    (made,) = snippets.record(*folders)
    assert made.error == "stopped after 1 seconds"


def test_a_snippet_that_ends_its_process_does_not_stop_the_others(folders):
    write(folders, "import os\nos._exit(3)", "a")
    write(folders, "print('here')", "b")
    first, second = snippets.record(*folders)
    assert first.error
    assert second.output == "here"


def test_a_failure_is_tried_again(folders):
    flag = folders[0] / "there"
    write(folders, f"import pathlib\nassert pathlib.Path({str(flag)!r}).exists(), 'not yet'\nprint('now')")
    (failed,) = snippets.record(*folders)
    assert failed.error == "AssertionError: not yet"
    flag.touch()
    (made,) = snippets.record(*folders)
    assert (made.output, made.error) == ("now", "")


def test_two_snippets_run_at_a_time_and_no_more(folders, tmp_path):
    """Each waits until it has met another one; a third would have been seen."""
    meet = f"""
import pathlib, time
place = pathlib.Path({str(tmp_path)!r})
me = place / (NAME + ".here")
me.touch()
end = time.monotonic() + 40
most = 0
while most < 2 and time.monotonic() < end:
    most = max(most, len(list(place.glob("*.here"))))
    time.sleep(0.01)
(place / (NAME + ".met")).write_text(str(most))
while len(list(place.glob("*.met"))) % 2 and time.monotonic() < end:
    time.sleep(0.01)
most = max(most, len(list(place.glob("*.here"))))
me.unlink()
print(most)
"""
    for name in "abcd":
        write(folders, f"NAME = {name!r}{meet}", name)
    assert [made.output for made in snippets.record(*folders)] == ["2"] * 4


def test_a_notebook_holds_the_snippet_and_what_it_printed():
    recording = snippets.Recording("before_training.snip", "print('é')", "é", "", 0.1, "")
    made = snippets.notebook("before_training.snip", "print('é')", recording)
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    about, cell = made["cells"]
    assert about["cell_type"] == "markdown"
    assert (cell["cell_type"], cell["source"], cell["execution_count"]) == ("code", "print('é')", 1)
    assert cell["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "é\n"}]
    assert len({about["id"], cell["id"]}) == 2
    fresh = snippets.notebook("before_training.snip", "print(1)", None)["cells"][1]
    assert (fresh["outputs"], fresh["execution_count"]) == ([], None)


def test_notebooks_are_valid_and_executed(folders, tmp_path):
    """As they are downloaded: what they show is what the snippet printed when it was recorded."""
    module = "before_training.erk_random"
    code = snippets.snippet(module)
    recording = snippets.Recording(module, code, "kept\naccuracy", "", 0.1, "")
    folders[1].mkdir()
    (folders[1] / f"{module}.json").write_text(json.dumps(snippets.asdict(recording)))
    snippets.write([module, "before_training.nothing"], tmp_path / "out", folders[1], "https://github.com/o/r")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{module}.ipynb", f"{module}.py"]
    assert (tmp_path / "out" / f"{module}.py").read_text() == f"{code}\n"
    made = nbformat.read(tmp_path / "out" / f"{module}.ipynb", as_version=4)
    nbformat.validate(made)
    _, install, cell = made.cells
    assert install.source == "%pip install --quiet git+https://github.com/o/r"
    assert (cell.source, cell.execution_count, cell.outputs[0].text) == (code, 1, "kept\naccuracy\n")
    for recorded in (recording, None):
        nbformat.validate(nbformat.from_dict(snippets.notebook(module, code, recorded)))


COLAB = "https://colab.research.google.com/github/owner/a.name/blob/gh-pages/data/snippets/a.b.ipynb"


@pytest.mark.parametrize(
    "repository", ["https://github.com/owner/a.name", "https://github.com/owner/a.name/", "https://github.com/owner/a.name.git"]
)
def test_colab_opens_what_is_public_on_github(repository):
    assert snippets.colab(repository, "a.b") == COLAB


@pytest.mark.parametrize(
    "repository", ["", "https://gitlab.example/owner/name", "https://github.com/owner", "https://github.com.example/o/n"]
)
def test_colab_opens_nothing_else(repository):
    assert snippets.colab(repository, "a.b") is None
