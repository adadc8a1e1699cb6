"""Who may run code through the server, and who may not: every way round that a page of another site could try."""

import http.client
import json
import os
import re
import socket
import threading

import pytest

from tools import gate
from tools.serve import HEADERS, make_server

PAGE = '<html><head><title>a</title></head><body><div class="runner" data-module="a.b"></div></body></html>'
WAIT = 60.0


class FakeLive:
    """Notes what it is asked; a run says `first`, and `last` unless `go` is cleared."""

    state = "ready"

    def __init__(self):
        self.calls = []
        self.go = threading.Event()
        self.go.set()
        self.left = threading.Event()
        self.closed = False

    def run(self, name, code):
        self.calls.append(("run", name, code))
        try:
            yield {"kind": "first"}
            while not self.go.wait(0.01):
                yield {"kind": "beat"}
            yield {"kind": "last"}
        finally:
            self.left.set()

    def stop(self, name):
        self.calls.append(("stop", name))

    def reset(self):
        self.calls.append(("reset",))

    def close(self):
        self.closed = True


class Served:
    """A server with a fake kernel, and what a page of it would send."""

    def __init__(self, folder, live):
        self.live = live
        self.server = make_server(folder, 0, live)
        self.port = self.server.server_port
        self.own = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        found = re.search(rb'<meta name="atlas-token" content="([^"]+)">', self.ask("GET", "/")[2])
        self.token = found and found[1].decode()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def open(self, method, path, headers, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection, connection.getresponse()

    def ask(self, method, path, headers=None, body=None):
        connection, answer = self.open(method, path, headers or [("Host", self.own)], body)
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def headers(self, body=b"{}", **changed):
        """What a page of this server sends; a change replaces a header, None leaves it out."""
        usual = {
            "Host": self.own,
            "Origin": f"http://{self.own}",
            "Content-Type": "application/json",
            "X-Atlas-Token": self.token,
            "Content-Length": str(len(body)),
        }
        usual |= {name.replace("_", "-"): value for name, value in changed.items()}
        return [(name, value) for name, value in usual.items() if value is not None]

    def post(self, action="reset", body=b"{}", **changed):
        status, _, content = self.ask("POST", f"/-/{action}", self.headers(body, **changed), body)
        return status, json.loads(content)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "plain.html").write_text(PAGE.replace("runner", "walker"))
    return tmp_path


@pytest.fixture
def served(folder):
    site = Served(folder, FakeLive())
    yield site
    site.live.go.set()
    site.close()


def test_only_a_page_with_a_snippet_gets_script_and_token(served, folder):
    page = served.ask("GET", "/")[2].decode()
    assert page.index('src="/-/live.js"') < page.index("</head>")
    assert page.count("atlas-token") == 1
    assert len(served.token) >= 32
    assert served.ask("GET", "/plain.html")[2] == (folder / "plain.html").read_bytes()
    assert (folder / "index.html").read_text() == PAGE


def test_without_a_kernel_there_is_no_trace_of_it(folder):
    site = Served(folder, None)
    try:
        assert site.ask("GET", "/")[2].decode() == PAGE
        assert site.ask("GET", "/-/live.js")[0] == 404
        assert site.ask("POST", "/-/run", site.headers(X_Atlas_Token="x"))[0] == 501
    finally:
        site.close()


def test_every_start_has_a_token_of_its_own_and_no_page_with_an_old_one_is_kept(served, folder):
    tag = served.ask("GET", "/")[1]["ETag"]
    other = Served(folder, FakeLive())
    try:
        assert other.token != served.token
        assert other.ask("GET", "/", [("Host", other.own), ("If-None-Match", tag)])[0] == 200
        assert other.post(X_Atlas_Token=served.token)[0] == 403
    finally:
        other.close()


def test_the_script_is_served_and_nothing_beside_it(served):
    status, headers, body = served.ask("GET", "/-/live.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"X-Atlas-Token" in body
    assert served.token.encode() not in body
    for path in ("/-/../snippets/before_training/snip.py", "/-/%2e%2e/static/mark.svg", "/-/", "/-/run"):
        assert served.ask("GET", path)[0] == 404, path


def test_the_servers_own_page_may_ask(served):
    assert served.post("state") == (200, {"kernel": "ready"})
    assert served.post("stop", b'{"run": "a"}') == (200, {"kernel": "ready"})
    assert served.post("reset")[0] == 200
    assert served.live.calls == [("stop", "a"), ("reset",)]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_forwarded_port_is_no_stranger(served, name):
    assert served.post(Host=f"{name}:4321", Origin=f"http://{name}:4321")[0] == 200
    assert served.ask("GET", "/", [("Host", name)])[0] == 200


FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:80",
    "127.0.0.1:80@evil.example",
    "[::1]:80",
    "127.0.0.2",
    "0.0.0.0",
    "",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_was_made_to_point_here_gets_nothing(served, host):
    """DNS rebinding: the attacker's page has this server as its own origin, but its name stays the attacker's."""
    for path in ("/", "/-/live.js", "/plain.html"):
        status, _, body = served.ask("GET", path, [("Host", host)])
        assert status == 421, path
        assert served.token.encode() not in body
    assert served.post(Host=host, Origin=f"http://{host}")[0] in (403, 421)
    assert served.live.calls == []


def test_no_host_and_two_hosts(served):
    assert served.ask("GET", "/", [("Accept", "*/*")])[0] == 421
    assert served.ask("GET", "/", [("Host", served.own), ("Host", "evil.example")])[0] == 421


REFUSED = {
    "no origin": ({"Origin": None}, 403),
    "another site": ({"Origin": "https://evil.example"}, 403),
    "another server of this machine": ({"Origin": "http://127.0.0.1:1"}, 403),
    "the same by another name": ({"Origin": "http://localhost"}, 403),
    "a sandboxed frame": ({"Origin": "null"}, 403),
    "no token": ({"X_Atlas_Token": None}, 403),
    "a wrong token": ({"X_Atlas_Token": "A" * 43}, 403),
    "a token that is no ASCII": ({"X_Atlas_Token": "\xe9"}, 403),
    "an empty token": ({"X_Atlas_Token": ""}, 403),
    "a form": ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    "text that needs no question beforehand": ({"Content_Type": "text/plain"}, 415),
    "no length": ({"Content_Length": None}, 411),
    "a negative length": ({"Content_Length": "-1"}, 411),
    "too much": ({"Content_Length": "100001"}, 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_page_of_the_server_would_not_send_is_refused(served, case):
    changed, expected = REFUSED[case]
    for action in ("run", "stop", "reset", "state"):
        status, answer = served.post(action, **changed)
        assert status == expected, action
        assert answer["problem"].endswith(".")
        assert served.token not in answer["problem"]
    assert served.live.calls == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"run"', b'{"run": 1}', b"\xff"])
def test_what_is_no_object_of_texts_is_refused(served, body):
    assert served.post("run", body)[0] == 400
    assert served.live.calls == []


def test_other_methods_and_actions_do_nothing(served):
    assert served.post("nothing")[0] == 501
    assert served.ask("PUT", "/-/run", served.headers())[0] == 501
    status, headers, _ = served.ask("OPTIONS", "/-/run", [("Host", served.own), ("Origin", "https://evil.example")])
    assert status == 501
    assert not [name for name in headers if name.lower().startswith("access-control")]  # so a browser never sends what needs a question
    assert served.live.calls == []


def test_answers_may_not_be_read_or_framed_elsewhere(served):
    for method, path in (("GET", "/"), ("GET", "/-/live.js"), ("POST", "/-/state")):
        headers = served.ask(method, path, served.headers(), b"{}")[1]
        for name, value in HEADERS.items():
            assert headers[name] == value, (path, name)
        assert "Access-Control-Allow-Origin" not in headers
        assert "Set-Cookie" not in headers  # cookies know no ports: every server of this machine would get them
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_another_user_of_the_machine_is_refused(served, monkeypatch):
    monkeypatch.setattr(gate, "owner", lambda port: os.getuid() + 1)
    status, answer = served.post()
    assert (status, served.live.calls) == (403, [])
    assert "user" in answer["problem"]
    monkeypatch.setattr(gate, "owner", lambda port: None)  # a system that does not say
    assert served.post()[0] == 200


def test_the_owner_of_a_connection_is_found(served):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        assert gate.owner(connection.getsockname()[1]) == os.getuid()
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        assert gate.owner(idle.getsockname()[1]) is None


LINES = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000    11        0 1 1 0 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000    12        0 1 1 0 0
   2: 0100000A:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000    13        0 1 1 0 0
   3: 0100007F:C350 0100007F:1F90 06 00000000:00000000 00:00000000 00000000    14        0 1 1 0 0
"""


def test_the_owner_is_read_at_the_right_end_of_the_right_connection(monkeypatch, tmp_path):
    paths = tmp_path / "tcp", tmp_path / "tcp6"
    monkeypatch.setattr(gate, "CONNECTIONS", paths)
    assert gate.owner(50000) is None
    paths[0].write_text(LINES)
    assert gate.owner(50000) is None  # another address, and one that waits for its end
    paths[1].write_text(LINES.replace("0100000A:C350", "0000000000000000FFFF00000100007F:C350"))
    assert gate.owner(50000) == 13
    assert gate.owner(8080) == 12


def test_events_come_as_they_happen(served):
    served.live.go.clear()
    body = json.dumps({"run": "a", "code": "print('é')"}).encode()
    connection, answer = served.open("POST", "/-/run", served.headers(body), body)
    assert answer.status == 200
    assert json.loads(answer.readline()) == {"kind": "first"}  # while the run still goes on
    assert not served.live.left.is_set()
    served.live.go.set()
    assert json.loads(answer.read().splitlines()[-1]) == {"kind": "last"}
    assert served.live.calls == [("run", "a", "print('é')")]
    connection.close()


def test_a_page_that_goes_away_ends_its_run(served):
    served.live.go.clear()
    body = b'{"run": "a", "code": "1"}'
    connection, answer = served.open("POST", "/-/run", served.headers(body), body)
    answer.readline()
    answer.close()
    connection.close()
    assert served.live.left.wait(WAIT)


def test_only_this_machine_is_listened_to(served):
    assert served.server.server_address[0] == "127.0.0.1"


def test_the_kernel_ends_with_the_server(served):
    served.close()
    assert served.live.closed
