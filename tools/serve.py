"""Serve the built site to this machine: compressed, cached, and under a strict content security policy.

With a kernel (tools/live.py), the pages that show a snippet get a script that runs it, and the token it needs, on their way out. The built
site knows nothing of either.
"""

import errno
import gzip
import hashlib
import json
import mimetypes
import secrets
import signal
from contextlib import closing
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console

from tools import gate
from tools.live import Live

HOST = "127.0.0.1"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml; charset=utf-8",
    ".woff2": "font/woff2",
}
COMPRESSED = ("text/", "application/json", "application/xml", "image/svg+xml")
SMALLEST = 600
"""Bytes below which compressing does not pay."""

LIVE = "/-/"
"""Where pages find the script that runs snippets, and what that script asks."""

SCRIPTS = Path(__file__).parents[1] / "site_src" / "live"
RUNNER = b'class="runner"'
"""What stands in a page with a snippet."""

HEAD = (
    '<meta name="atlas-token" content="{token}"><link rel="stylesheet" href="{live}live.css">'
    '<script type="module" src="{live}live.js"></script>'
)
STUCK = 30.0
"""Seconds after which a page that does not read what its run says is given up."""


def serve(folder: Path, port: int, live: Live | None = None) -> None:
    """Serve a folder at http://127.0.0.1:<port> until it is interrupted or terminated; port 0 takes any free one.

    Args:
        folder: the built site.
        port: where to listen.
        live: what runs snippets; it ends with the server.

    Raises:
        typer.Exit: the port is taken, or the folder is not there; the reason is printed.
    """
    console = Console(stderr=True, highlight=False)
    try:
        server = make_server(folder, port, live)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        console.print(f"Port {port} is taken by another program. Take another one: make serve PORT={port + 1}")
        raise typer.Exit(1) from None
    console.print(f"Pruning Atlas at http://{HOST}:{server.server_port}  (Ctrl-C stops)")
    if live:
        live.warm()
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, _interrupt)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.print("Stopped")
    finally:
        server.server_close()


def _interrupt(kind: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def make_server(folder: Path, port: int, live: Live | None = None) -> ThreadingHTTPServer:
    """A server that is bound but does not run yet. Closing it ends `live` too.

    Raises:
        OSError: the port is taken.
    """
    root, runs, secret = folder.resolve(), live, secrets.token_urlsafe(32)

    class Handler(_Handler):
        folder = root
        live = runs
        token = secret

    class Server(_Server):
        def server_close(self) -> None:
            super().server_close()
            if runs:
                runs.close()

    return Server((HOST, port), Handler)


class _Server(ThreadingHTTPServer):
    # two servers must not share a port in silence
    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 128  # a search fetches dozens of small files at once
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    live: Live | None
    token: str
    protocol_version = "HTTP/1.1"
    server_version = "PruningAtlas"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_POST(self) -> None:
        self.close_connection = True  # the body of a refused request stays unread
        live, action = self.live, urlsplit(self.path).path.removeprefix(LIVE)
        if live is None or action not in ("state", "run", "stop", "reset"):
            self._say(HTTPStatus.NOT_IMPLEMENTED, {"problem": "Nothing here takes a POST."})
            return
        try:
            asked = gate.asked(self.headers, self.rfile, self.token, self.client_address[1])
        except gate.RefusedError as refused:
            self._say(refused.status, {"problem": str(refused)})
            return
        if action == "run":
            self._run(live, asked.get("run", ""), asked.get("code", ""))
            return
        if action == "stop":
            live.stop(asked.get("run", ""))
        elif action == "reset":
            live.reset()
        self._say(HTTPStatus.OK, {"kernel": live.state})

    def _run(self, live: Live, name: str, code: str) -> None:
        """Send the events of a run as they come, each a line of JSON. A page that goes away ends its run."""
        self.connection.settimeout(STUCK)
        self._send(HTTPStatus.OK, {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", "Connection": "close"}, None, False)
        with closing(live.run(name, code)) as events:
            for event in events:
                try:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                except OSError:
                    return

    def _say(self, status: HTTPStatus, what: dict[str, Any]) -> None:
        self._send(status, {"Content-Type": TYPES[".json"], "Cache-Control": "no-store"}, json.dumps(what).encode(), True)

    def _answer(self, *, with_body: bool) -> None:
        try:
            gate.host(self.headers)
        except gate.RefusedError as refused:
            self._send(refused.status, {"Content-Type": TYPES[".txt"]}, str(refused).encode(), with_body)
            return
        address = urlsplit(self.path)
        path = self._file(unquote(address.path))
        if path is not None and path.is_dir():
            if not address.path.endswith("/"):
                target = f"{address.path}/" + (f"?{address.query}" if address.query else "")
                self._send(HTTPStatus.MOVED_PERMANENTLY, {"Location": target}, b"", with_body)
                return
            path = path / "index.html"
        if path is None or not path.is_file():
            missing = self.folder / "404.html"
            body = missing.read_bytes() if missing.is_file() else b"Not found"
            self._send(HTTPStatus.NOT_FOUND, {"Content-Type": TYPES[".html"], "Cache-Control": "no-store"}, body, with_body)
            return
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        wanted = self.headers.get("Accept-Encoding", "")
        compress = kind.startswith(COMPRESSED) and any(
            part.strip().split(";")[0] == "gzip" and "q=0" not in part.replace("q=0.", "") for part in wanted.split(",")
        )
        state = path.stat()
        head = HEAD.format(token=self.token, live=LIVE).encode() if self.live and path.suffix == ".html" else b""
        body, mark, compressed = _read(path, state.st_mtime_ns, state.st_size, compress, head)
        headers = {
            "Content-Type": kind,
            "ETag": mark,
            "Vary": "Accept-Encoding",
            # a rebuilt site must show at once; fonts never change under the same name
            "Cache-Control": "max-age=31536000, immutable" if path.suffix == ".woff2" else "no-cache",
        }
        if compressed:
            headers["Content-Encoding"] = "gzip"
        if mark in (known.strip() for known in self.headers.get("If-None-Match", "").split(",")):
            self._send(HTTPStatus.NOT_MODIFIED, headers, None, with_body)
        else:
            self._send(HTTPStatus.OK, headers, body, with_body)

    def _file(self, address: str) -> Path | None:
        """What the address names inside the folder; None if it leads out of it."""
        if "\0" in address:
            return None
        folder, name = (
            (SCRIPTS, address.removeprefix(LIVE)) if self.live and address.startswith(LIVE) else (self.folder, address.lstrip("/"))
        )
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) else None

    def _send(self, status: HTTPStatus, headers: dict[str, str], body: bytes | None, with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and body is not None:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the browser shows what went wrong."""


@lru_cache(maxsize=512)
def _read(path: Path, changed: int, size: int, compress: bool, head: bytes) -> tuple[bytes, str, bool]:
    """(content, entity tag, whether it is compressed); `changed` and `size` make a changed file a new question.

    A page with a snippet gets `head` at the end of its own.
    """
    content = path.read_bytes()
    if head and RUNNER in content:
        content = content.replace(b"</head>", head + b"</head>", 1)
    mark = hashlib.sha256(content).hexdigest()[:20]
    if compress and size >= SMALLEST:
        return gzip.compress(content, 6, mtime=0), f'"{mark}-gzip"', True
    return content, f'"{mark}"', False
