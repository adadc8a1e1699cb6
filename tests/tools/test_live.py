"""Runs in a real kernel, without a browser: what comes out, and every way in which a run can end."""

import base64
import os
import threading
import time
from pathlib import Path

import pytest

from catalog.read import ROOT
from tools import live as module
from tools.live import Live

LIMIT = 60.0
ENDLESS = f"print('on', flush=True)\nimport time\nend = time.monotonic() + {LIMIT}\nwhile time.monotonic() < end: pass"
"""So long that it stands for ever, and yet a test fails that waits for its end."""

PNG = base64.b64encode(b"\x89PNG not looked at by the server").decode()


@pytest.fixture(scope="module")
def live():
    runs = Live(ROOT, LIMIT)
    runs.warm()
    yield runs
    runs.close()


def run(live, code, name="run"):
    return list(live.run(name, code))


def text(events, *streams):
    return "".join(event["text"] for event in events if event["kind"] == "text" and event["stream"] in (streams or ("stdout",)))


def errors(events):
    return "".join(event["text"] for event in events if event["kind"] == "error")


def outcome(events):
    assert [event["kind"] for event in events].count("done") == 1
    return events[-1]["outcome"]


def until(events, kind):
    """Let a run go on until it says something of this kind."""
    return next(event for event in events if event["kind"] == kind)


def in_background(live, code, name):
    """(thread, what the run said) of a run that goes on beside the test; its first event is waited for."""
    said, begun = [], threading.Event()

    def go():
        for event in live.run(name, code):
            said.append(event)
            begun.set()

    thread = threading.Thread(target=go)
    thread.start()
    assert begun.wait(LIMIT)
    return thread, said


def until_said(said, kind, times=1):
    """Wait until a run in the background, which goes on, has said something of this kind so many times."""
    end = time.monotonic() + LIMIT
    while sum(event["kind"] == kind for event in said) < times:
        assert time.monotonic() < end
        assert all(event["kind"] != "done" for event in said)
        time.sleep(0.01)


def finished(thread):
    thread.join(LIMIT)
    assert not thread.is_alive()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_text_values_and_figures_come_in_order(live):
    code = f"""
import sys
from IPython.display import Image, display
print("é out", flush=True)
print("err", file=sys.stderr, flush=True)
display(Image(data=__import__("base64").b64decode("{PNG}")))
display("shown")
1 + 1
"""
    events = run(live, code)
    assert outcome(events) == "finished"
    said = [event for event in events if event["kind"] in ("text", "figure")]
    assert [(event["kind"], event.get("stream"), event.get("text", event.get("png"))) for event in said] == [
        ("text", "stdout", "é out\n"),
        ("text", "stderr", "err\n"),
        ("figure", None, PNG),
        ("text", "stdout", "'shown'\n"),
        ("text", "stdout", "2\n"),
    ]
    assert events.index(next(e for e in events if e["kind"] == "started")) < events.index(said[0])
    assert live.state == "ready"


def test_each_run_starts_without_names_and_from_the_same_seed(live):
    first, second = (text(run(live, "import torch\nname = 1\nprint(torch.rand(3))")) for _ in range(2))
    assert first == second != ""
    missing = run(live, "print(name)")
    assert outcome(missing) == "failed"
    assert errors(missing).rstrip().endswith("NameError: name 'name' is not defined")


def test_torch_is_there_before_the_first_line_with_one_thread(live):
    events = run(live, "import sys\nprint('torch' in sys.modules, sys.modules['torch'].get_num_threads(), __name__)")
    assert text(events) == "True 1 __main__\n"


def test_the_projects_own_modules_can_be_imported(live):
    assert text(run(live, "from reference_impls.core.amounts import Sparsity\nprint(Sparsity(0.5))")) == "Sparsity(fraction=0.5)\n"


def test_an_error_names_its_line_in_plain_text(live):
    events = run(live, "def half(x):\n    return x / 0\n\nhalf(1)")
    assert outcome(events) == "failed"
    said = errors(events)
    assert said.index("line 4") < said.index("half(1)") < said.index("line 2") < said.index("return x / 0")
    assert said.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in said


def test_no_terminal_codes_reach_the_page(live):
    assert text(run(live, r"print('\x1b[1;31mred\x1b[0m and \x1b]8;;http://x\x07link')")) == "red and link\n"


def test_asking_for_input_is_an_error_and_no_standstill(live):
    events = run(live, "input()")
    assert outcome(events) == "failed"
    assert "does not support input" in errors(events)


def test_output_is_cut_with_a_notice_and_the_run_goes_on(live, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MOST_TEXT", 1000)
    mark = tmp_path / "went on"
    events = run(live, f"for i in range(50):\n    print('x' * 99, flush=True)\nopen({str(mark)!r}, 'w')\n1 / 0")
    assert len(text(events)) == 1000
    (notice,) = [event["text"] for event in events if event["kind"] == "notice"]
    assert "1,000 characters" in notice
    assert mark.exists()
    assert errors(events).rstrip().endswith("ZeroDivisionError: division by zero")


def test_figures_are_cut_too(live, monkeypatch):
    monkeypatch.setattr(module, "MOST_FIGURES", 2 * len(PNG))
    code = (
        f"from IPython.display import Image, display\nfor _ in range(4):\n    display(Image(data=__import__('base64').b64decode('{PNG}')))"
    )
    events = run(live, code)
    assert [event["kind"] for event in events if event["kind"] in ("figure", "notice")] == ["figure", "figure", "notice"]


def test_stop_ends_an_endless_loop_and_keeps_the_kernel(live, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    pid = live.pid
    thread, said = in_background(live, ENDLESS, "endless")
    until_said(said, "text")
    assert live.state == "busy"
    live.stop("somebody else's")
    until_said(said, "beat", sum(event["kind"] == "beat" for event in said) + 5)
    live.stop("endless")
    finished(thread)
    assert outcome(said) == "stopped"
    assert errors(said) == ""
    assert (text(run(live, "print('next')")), live.pid) == ("next\n", pid)


def test_an_endless_loop_is_interrupted_at_the_limit(live, monkeypatch):
    pid = live.pid
    monkeypatch.setattr(live, "limit", 0.3)
    events = run(live, ENDLESS)
    assert outcome(events) == "limit"
    assert events[-1]["seconds"] >= 0.3
    assert live.pid == pid


def test_what_does_not_heed_the_interruption_is_killed(live, monkeypatch):
    pid = live.pid
    monkeypatch.setattr(live, "limit", 0.3)
    monkeypatch.setattr(module, "GRACE", 0.3)
    events = run(
        live,
        "import time\nfor _ in range(3):\n    try:\n        time.sleep(20)\n    except KeyboardInterrupt:\n        print('no', flush=True)",
    )
    assert outcome(events) == "limit"
    assert "no" in text(events)
    assert not alive(pid)
    monkeypatch.setattr(live, "limit", LIMIT)
    assert text(run(live, "print('new')")) == "new\n"
    assert live.pid != pid


def test_a_second_run_waits_and_can_leave_the_queue(live, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    first = live.run("first", ENDLESS)
    until(first, "text")
    second, said = in_background(live, "print('two')", "second")
    third, told = in_background(live, "print('three')", "third")
    assert said[0] == told[0] == {"kind": "waiting"}
    live.stop("second")
    finished(second)
    assert outcome(said) == "stopped"
    assert text(said) == ""
    live.stop("first")
    assert outcome(list(first)) == "stopped"
    finished(third)
    assert text(told) == "three\n"


def test_whoever_goes_away_ends_the_run(live):
    pid = live.pid
    events = live.run("left", ENDLESS)
    until(events, "text")
    events.close()
    assert live.state == "ready"
    assert (text(run(live, "print('next')")), live.pid) == ("next\n", pid)


def test_a_kernel_that_dies_says_so_and_comes_back(live):
    assert outcome(run(live, "import os\nos._exit(3)")) == "died"
    assert text(run(live, "print('back')")) == "back\n"


def test_reset_ends_the_run_and_starts_anew(live):
    run(live, "import torch\ntorch.set_default_dtype(torch.float64)")
    assert "float64" in text(run(live, "import torch\nprint(torch.zeros(1).dtype)"))  # the process is the same
    pid = live.pid
    thread, said = in_background(live, ENDLESS, "endless")
    until_said(said, "text")
    live.reset()
    finished(thread)
    assert outcome(said) == "reset"
    assert "float32" in text(run(live, "import torch\nprint(torch.zeros(1).dtype)"))
    assert live.pid != pid
    assert not alive(pid)


def test_what_a_run_started_ends_with_its_kernel(live, tmp_path):
    mark = tmp_path / "pid"
    run(live, f"import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, file=open({str(mark)!r}, 'w'))")
    child = int(mark.read_text())
    assert alive(child)
    live.reset()
    run(live, "1")
    assert not alive(child)


def test_many_runs_leave_no_files_open(live):
    def once():
        run(live, "1")

    def opened():
        return len(list(Path("/proc/self/fd").iterdir()))

    once()
    before = opened()
    for _ in range(20):
        thread = threading.Thread(target=once)
        thread.start()
        finished(thread)
    assert opened() <= before + 6  # a thread that looks after the kernel may not have ended yet


def test_closing_ends_the_kernel_for_good():
    runs = Live(ROOT, LIMIT)
    assert text(run(runs, "print('on')")) == "on\n"
    pid = runs.pid
    assert alive(pid) and pid != os.getpid()
    runs.close()
    assert not alive(pid)
    assert outcome(run(runs, "print('off')")) == "died"
    assert runs.pid is None
