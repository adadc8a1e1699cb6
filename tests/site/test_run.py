"""Snippets edited and run in the page, as a reader would, with a real kernel behind the server."""

import base64
import http.server
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib

import pytest

from catalog.read import ROOT
from tests.site.conftest import RECORDED, Visitor
from tests.site.test_axe import violations
from tools.live import Live
from tools.serve import make_server
from tools.site import snippets

pytestmark = pytest.mark.browser

PATH = f"implementations/{RECORDED}/"
LONG = 120_000
"""Milliseconds: on a busy machine torch takes its time to load."""


@pytest.fixture(scope="module")
def live():
    return Live(ROOT, 60)


@pytest.fixture(scope="module")
def running(site, live):
    """Where the site is served with a kernel."""
    server = make_server(site[0], 0, live)
    live.warm()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def read(chromium, running):
    """Makes a page with a runner, opened by a visitor of its own; at the end none may have met a complaint or a stranger."""
    visitors = []

    def make(path=PATH, address=running, **options):
        visitors.append(Visitor(chromium, address, **options))
        page = visitors[-1].go(path)
        page.set_default_timeout(LONG)
        page.visitor = visitors[-1]
        page.get_by_role("button", name="Run", exact=True).first.wait_for()
        return page

    yield make
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]
    assert [visitor.strangers for visitor in visitors] == [[] for _ in visitors]


def editor(page):
    return page.get_by_role("textbox", name="Snippet").first


def button(page, name):
    return page.get_by_role("button", name=name, exact=True).first


def status(page):
    return page.locator(".live-status").first


def shown(page):
    return page.locator(".live .live-body").first


def ended(page, outcome):
    page.locator(f".live-status[data-outcome={outcome}]").first.wait_for()


def run(page, code, outcome="finished"):
    editor(page).fill(code)
    button(page, "Run").click()
    ended(page, outcome)


def says(page, text):
    shown(page).get_by_text(text).first.wait_for()


def test_a_snippet_is_run_as_it_was_edited_beside_what_was_recorded(read, atlas):
    paper = next(paper for paper in atlas.papers(relation="implements") if paper.references[0].implementation == RECORDED)
    for path in (PATH, f"papers/{paper.key}/", ""):
        page = read(path)
        assert editor(page).input_value() == snippets.snippet(RECORDED)
        assert not shown(page).is_visible()
        editor(page).focus()
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("answer = 6 * 7\nprint('the answer is', answer)\n")
        button(page, "Run").click()
        ended(page, "finished")
        assert shown(page).inner_text().strip() == "the answer is 42"
        assert re.fullmatch(r"Finished after \d+\.\d s", status(page).inner_text())
        assert page.locator(".output:not(.live)").first.inner_text().split("\n\n") == ["Recorded output 1.5 s", "as recorded"]


def test_an_error_shows_where_it_happened_and_the_next_run_clears_it(read):
    page = read()
    run(page, "print('before')\n\ndef half(x):\n    return x / 0\n\nhalf(1)", "failed")
    lines = [line.strip() for line in shown(page).inner_text().splitlines() if line.strip()]
    assert lines[0] == "before"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert any("line 6" in line for line in lines) and "half(1)" in lines
    assert status(page).inner_text().startswith("Failed")
    assert page.locator(".live.failed").count() == 1
    assert page.locator("[data-announce]").inner_text().startswith("Failed")
    run(page, "print('after')")
    assert shown(page).inner_text().strip() == "after"
    assert page.locator(".live.failed").count() == 0


def png(width, height):
    """A grey picture."""
    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_figures_are_shown_between_the_lines_that_surround_them(read):
    page = read()
    picture = base64.b64encode(png(30, 20)).decode()
    figure = f"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode('{picture}')))"
    run(page, f"print('above')\n{figure}\nprint('below')")
    image = page.get_by_role("img", name="Figure 1 of your run")
    image.wait_for()
    assert image.evaluate("async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }") == [30, 20]
    assert shown(page).evaluate("body => [...body.children].map(child => child.tagName)") == ["PRE", "IMG", "PRE"]
    assert shown(page).inner_text().split() == ["above", "below"]


def test_text_comes_while_the_run_goes_on_and_stop_ends_it(read, live):
    page = read()
    editor(page).fill("print('on its way', flush=True)\nwhile True: pass")
    button(page, "Run").click()
    says(page, "on its way")
    assert button(page, "Run").get_attribute("aria-disabled") == "true"
    page.get_by_text(re.compile(r"^Running, \d+ s$")).wait_for()
    button(page, "Stop").click()
    ended(page, "stopped")
    assert shown(page).inner_text().strip() == "on its way"
    assert button(page, "Stop").get_attribute("aria-disabled") == "true"
    run(page, "print('again')")
    assert shown(page).inner_text().strip() == "again"


def test_the_limit_ends_what_nobody_stops(read, live, monkeypatch):
    page = read()
    run(page, "1")  # with torch loaded before the clock is set
    monkeypatch.setattr(live, "limit", 0.5)
    run(page, "while True: pass", "limit")
    assert re.fullmatch(r"Stopped at the time limit after \d+\.\d s", status(page).inner_text())


def test_reset_brings_the_snippet_back_and_a_new_kernel(read, live):
    page = read()
    run(page, "import builtins\nbuiltins.print = None", "finished")
    before = live.pid
    button(page, "Reset").click()
    ended(page, "reset")
    assert editor(page).input_value() == snippets.snippet(RECORDED)
    assert not shown(page).is_visible()
    run(page, "print('whole again')")
    assert shown(page).inner_text().strip() == "whole again"
    assert live.pid != before


def test_reset_ends_what_runs(read):
    page = read()
    editor(page).fill("print('on its way', flush=True)\nwhile True: pass")
    button(page, "Run").click()
    says(page, "on its way")
    button(page, "Reset").click()
    page.locator(".live-status", has_text="The kernel was started anew").wait_for()
    assert editor(page).input_value() == snippets.snippet(RECORDED)


def test_too_much_output_is_cut_with_a_notice(read):
    page = read()
    run(page, "for i in range(3000):\n    print(i, 'x' * 90)")
    notice = page.locator(".live-notice")
    assert notice.inner_text().startswith("Output is cut here: a run may show 100,000 characters")
    text = page.locator(".live-body pre").text_content()
    assert len(text) == 100_000
    assert text.startswith("0 xxx")


def test_a_progress_bar_writes_over_its_line(read):
    page = read()
    run(page, "for i in range(4):\n    print(f'\\rstep {i}', end='', flush=True)\nprint('\\nwindows\\r\\nend')")
    assert page.locator(".live-body pre").text_content().replace("\r", "") == "step 3\nwindows\nend\n"


def test_a_second_page_waits_for_its_turn(read):
    first, second = read(), read()
    editor(first).fill("print('one', flush=True)\nwhile True: pass")
    button(first, "Run").click()
    says(first, "one")
    editor(second).fill("print('two')")
    button(second, "Run").click()
    second.get_by_text("Waiting for the kernel").wait_for()
    button(first, "Stop").click()
    ended(second, "finished")
    assert shown(second).inner_text().strip() == "two"


def test_whoever_leaves_the_page_ends_its_run(read, live):
    page, other = read(), read()
    editor(page).fill("print('on', flush=True)\nwhile True: pass")
    button(page, "Run").click()
    says(page, "on")
    page.get_by_role("link", name="Taxonomy").first.click()
    page.wait_for_url(re.compile("taxonomy/"))
    run(other, "print('free')")
    assert shown(other).inner_text().strip() == "free"


def test_by_keyboard_alone(read):
    page = read()
    field = editor(page)
    field.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("for i in range(2):")
    page.keyboard.press("Enter")
    page.keyboard.type("print(i)")
    page.keyboard.press("Enter")
    page.keyboard.type("x = 1")
    assert field.input_value() == "for i in range(2):\n    print(i)\n    x = 1"
    page.keyboard.press("Control+Enter")
    ended(page, "finished")
    assert shown(page).inner_text().split() == ["0", "1"]
    assert field.evaluate("field => field === document.activeElement")
    for name in ("Run", "Stop", "Reset"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == name
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    ended(page, "reset")
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    assert field.evaluate("field => field === document.activeElement")
    page.keyboard.press("Enter")
    page.keyboard.press("ControlOrMeta+z")
    assert field.input_value() == snippets.snippet(RECORDED)


def test_colours_lie_behind_every_letter(read):
    page = read()
    codes = [snippets.snippet(f"{path.parent.name}.{path.stem}") for path in sorted(snippets.SNIPPETS.glob("*/*.py"))]
    codes += [
        "x = '''open",
        "f(",
        "'unclosed\nnext # c",
        "a = 1e-3 + 0x1F\n\n\n",
        "# only",
        "",
        "définition = 'ü' \\\n",
        "def class_():\n\tpass",
    ]
    join = "codes => import('/-/python.js').then(python => codes.map(code => python.tokens(code).map(([, text]) => text).join('')))"
    assert page.evaluate(join, codes) == codes
    kinds = page.evaluate(
        "code => import('/-/python.js').then(python => python.tokens(code).filter(([kind]) => kind))",
        "def half(x):  # by two\n    return len(f'{x}') / 2 if x.map else None",
    )
    assert kinds == [
        ["k", "def"],
        ["nf", "half"],
        ["c1", "# by two"],
        ["k", "return"],
        ["nb", "len"],
        ["s1", "f'{x}'"],
        ["mi", "2"],
        ["k", "if"],
        ["k", "else"],
        ["k", "None"],
    ]
    for code in ("short\n", "\n".join(f"line_{i} = {'1' * 3 * i}" for i in range(60)) + "\n"):
        editor(page).fill(code)
        paint, field = (
            page.locator(f".editor > {name}").first.evaluate("e => [e.scrollWidth, e.scrollHeight, e.clientHeight]")
            for name in ("pre", "textarea")
        )
        assert field[1] <= field[2], "a line of the field is hidden"
        assert field[0] <= paint[0]
        assert page.locator(".editor code").first.text_content() == code + "\n"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_guideline_is_violated_and_nothing_sticks_out(read, scheme, width):
    page = read(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})
    run(page, "import sys\nprint('warned', file=sys.stderr)\nprint('x' * 300)\n1 / 0", "failed")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_moves_when_the_buttons_come(read):
    page = read()
    page.add_init_script(
        """window.moved = 0;
        const sum = (list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value; };
        new PerformanceObserver(sum).observe({ type: "layout-shift", buffered: true });"""
    )
    for path in (PATH, ""):
        page.visitor.go(path)
        button(page, "Run").wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.moved") < 0.02, path


def test_the_built_site_knows_nothing_of_it(visit, site):
    page = visit().go(PATH)
    page.wait_for_load_state("networkidle")
    assert page.locator(".runner").count() == 1
    assert page.get_by_role("textbox", name="Snippet").count() == page.get_by_role("button", name="Run", exact=True).count() == 0
    names = [path for path in site[0].rglob("*") if path.is_file()]
    assert not [path for path in names if path.name in ("live.js", "live.css", "editor.js", "python.js")]
    texts = {path: path.read_text(encoding="utf-8") for path in names if path.suffix in (".html", ".js", ".css")}
    assert len(texts) > 400
    assert [path for path, text in texts.items() if "atlas-token" in text or '"/-/' in text or "X-Atlas-Token" in text] == []


ATTACK = """async ([address, path, code]) => {
  const body = JSON.stringify({ run: "a", code });
  const ways = [
    { mode: "no-cors" },
    { mode: "cors", headers: { "Content-Type": "text/plain" } },
    { mode: "cors", headers: { "Content-Type": "application/json", "X-Atlas-Token": "guess" } },
  ];
  const tries = ways.map((way) => fetch(address + "-/run", { method: "POST", body, ...way }).then((answer) => answer.type, () => "failed"));
  const reads = ["cors", "no-cors"].map((mode) => fetch(address + path, { mode }).then((answer) => answer.text(), () => "failed"));
  return Promise.all([...tries, ...reads]);
}"""


def test_a_page_of_another_origin_reads_and_runs_nothing(chromium, running, tmp_path):
    """Another port of this machine, which is as near as a stranger can be."""

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, *_):
            pass

    elsewhere = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=elsewhere.serve_forever, args=(0.05,), daemon=True).start()
    mark = tmp_path / "it ran"
    page = chromium.new_page()
    page.goto(f"http://127.0.0.1:{elsewhere.server_port}/")
    code = f"open({str(mark)!r}, 'w')"
    tried = page.evaluate(ATTACK, [running, PATH, code])
    assert tried == ["failed", "failed", "failed", "failed", "failed"]
    page.close()
    elsewhere.shutdown()
    elsewhere.server_close()
    assert not mark.exists()


class Process:
    """`pruning-atlas serve` in a process of its own."""

    def __init__(self, root, port=0):
        command = [sys.executable, "-m", "tools.cli", "serve", "--port", str(port), "--root", str(root)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.address = re.search(r"http://127\.0\.0\.1:\d+", self.process.stderr.readline())[0] + "/"

    @property
    def port(self):
        return int(self.address.rstrip("/").rpartition(":")[2])

    def end(self, kind=signal.SIGKILL):
        self.process.send_signal(kind)
        self.process.wait(60)
        self.process.stderr.close()


def test_a_page_says_when_its_server_has_stopped(read, site, tmp_path):
    (tmp_path / "build").mkdir()
    os.symlink(site[0], tmp_path / "build" / "site")
    server = Process(tmp_path)
    idle, busy = read(address=server.address), read(address=server.address)
    editor(busy).fill("print('on', flush=True)\nwhile True: pass")
    button(busy, "Run").click()
    says(busy, "on")
    server.end()
    for page in (idle, busy):
        ended(page, "gone")
        assert status(page).inner_text().startswith("The server has stopped.")
        assert button(page, "Run").get_attribute("aria-disabled") == "true"
    assert shown(busy).inner_text().strip() == "on"  # what had come stays
    assert page.locator(".live.failed .output-head").inner_text() == "Your run: the connection broke"
    edited = "print('kept')"
    editor(idle).fill(edited)
    again = Process(tmp_path, server.port)
    try:
        idle.locator(".live-status", has_text="The server was started anew. Reload this page").wait_for()
        assert editor(idle).input_value() == edited
        idle.reload()
        run(idle, "print('back')")
        assert shown(idle).inner_text().strip() == "back"
    finally:
        again.end(signal.SIGTERM)
        for page in (idle, busy):
            page.visitor.complaints.clear()  # of the connection that was refused, and the token that was old
