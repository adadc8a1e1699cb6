import gzip
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import typer

from tools.serve import HEADERS, make_server, serve

SECRET = "outside"


@pytest.fixture
def folder(tmp_path):
    site = tmp_path / "site"
    (site / "papers" / "a").mkdir(parents=True)
    (site / "index.html").write_text("<h1>home</h1>" + "x" * 2000)
    (site / "papers" / "a" / "index.html").write_text("paper a")
    (site / "404.html").write_text("nothing here")
    (site / "data.json").write_text('{"a": "' + "é" * 1000 + '"}', encoding="utf-8")
    (site / "font.woff2").write_bytes(b"font" * 1000)
    (tmp_path / "secret.txt").write_text(SECRET)
    (site / "link.txt").symlink_to(tmp_path / "secret.txt")
    return site


@pytest.fixture
def ask(folder):
    server = make_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def request(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    yield request
    server.shutdown()
    server.server_close()


def test_pages_types_and_policy(ask):
    status, headers, body = ask("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b"<h1>home")
    for name, value in HEADERS.items():
        assert headers[name] == value
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert ask("/papers/a/")[2] == b"paper a"
    assert ask("/data.json")[1]["Content-Type"] == "application/json; charset=utf-8"
    assert ask("/font.woff2")[1]["Content-Type"] == "font/woff2"


def test_a_folder_gets_its_slash_and_keeps_its_question(ask):
    status, headers, _ = ask("/papers/a?x=1")
    assert (status, headers["Location"]) == (301, "/papers/a/?x=1")


def test_no_redirect_to_another_host(ask):
    status, headers, _ = ask("//papers/a")
    assert status == 301
    assert headers["Location"] == "/papers/a/"


def test_text_is_compressed_if_the_browser_takes_it(ask, folder):
    plain = ask("/data.json")
    small = ask("/data.json", Accept_Encoding="br, gzip")
    assert "Content-Encoding" not in plain[1]
    assert small[1]["Content-Encoding"] == "gzip"
    assert len(small[2]) < len(plain[2]) / 10
    assert gzip.decompress(small[2]) == plain[2] == (folder / "data.json").read_bytes()
    assert small[1]["ETag"] != plain[1]["ETag"]
    assert "Content-Encoding" not in ask("/data.json", Accept_Encoding="gzip;q=0")[1]
    assert "Content-Encoding" not in ask("/font.woff2", Accept_Encoding="gzip")[1]


def test_unchanged_files_are_not_sent_again(ask, folder):
    _, headers, _ = ask("/data.json", Accept_Encoding="gzip")
    status, _, body = ask("/data.json", Accept_Encoding="gzip", If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")
    (folder / "data.json").write_text("{}")
    assert ask("/data.json", If_None_Match=headers["ETag"])[::2] == (200, b"{}")


def test_head_sends_no_body(ask):
    status, headers, body = ask("/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 2000


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/papers/../../secret.txt", "/link.txt", "/..%2fsecret.txt", "/%00"]
)
def test_nothing_outside_the_folder(ask, path):
    status, _, body = ask(path)
    assert status == 404
    assert SECRET.encode() not in body


def test_what_is_not_there(ask):
    assert ask("/nothing")[::2] == (404, b"nothing here")
    assert ask("/", "POST")[0] == 501


def test_a_taken_port_is_said(folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(typer.Exit) as stop:
            serve(folder, port)
    assert stop.value.exit_code == 1
    assert f"Port {port} is taken" in capsys.readouterr().err


def _kernel_of(server):
    """The process of the kernel that a server started, once there is one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in _children(server):
            if b"ipykernel_launcher" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no kernel was started")


def _children(parent):
    """Children of all threads of a process."""
    return [child for path in Path(f"/proc/{parent}/task").glob("*/children") for child in path.read_text().split()]


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL], ids=["asked to end", "killed"])
def test_no_kernel_outlives_the_server(tmp_path, kind):
    site = tmp_path / "build" / "site"
    site.mkdir(parents=True)
    (site / "index.html").write_text("<head></head>")
    command = [sys.executable, "-m", "tools.cli", "serve", "--port", "0", "--root", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://127\.0\.0\.1:(\d+)", server.stderr.readline())
            kernel = _kernel_of(server.pid)
            _answers(int(address[1]))
        finally:
            server.send_signal(kind)
        assert server.wait(60) == (0 if kind == signal.SIGTERM else -kind)
    end = time.monotonic() + 60
    while _runs(kernel):
        assert time.monotonic() < end, "the kernel still runs"
        time.sleep(0.05)


def _answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
