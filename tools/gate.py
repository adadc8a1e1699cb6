"""Who may run code through the local server: the pages that it served itself, opened on this machine by the user who started it.

What another site's page sends here is refused by its origin, and for want of the token: that stands in the pages, which no other origin can
read, and is sent in a header, which no other origin may set. A name that an attacker made point to this machine is refused by its host.
Another user of the machine, who could read the pages, is refused as the owner of the connection.
"""

import hmac
import json
import os
import re
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

TOKEN = "X-Atlas-Token"
LONGEST = 100_000
"""Bytes of the longest request."""

OWN = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
"""Names of this server. Any port: a tunnel may end at another one."""

CONNECTIONS = tuple(Path("/proc/net") / name for name in ("tcp", "tcp6"))


class Body(Protocol):
    """What can be read of a request."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""


class RefusedError(Exception):
    """A request that is not answered; the message says why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


def host(headers: Message) -> str:
    """The name that this server was called by.

    Raises:
        RefusedError: it is not a name of this server.
    """
    hosts = headers.get_all("Host", [])
    if len(hosts) != 1 or not OWN.fullmatch(hosts[0]):
        raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to 127.0.0.1 and localhost only.")
    return str(hosts[0])


def asked(headers: Message, body: Body, token: str, port: int) -> Mapping[str, str]:
    """What a page asks for: the members of the JSON object that it sent.

    Args:
        headers: of the request.
        body: of the request, unread.
        token: what the pages of this server were given.
        port: the other end of the connection.

    Raises:
        RefusedError: it may not ask, or asks for nothing that can be understood.
    """
    if headers.get_all("Origin") != [f"http://{host(headers)}"]:
        raise RefusedError(HTTPStatus.FORBIDDEN, "Only pages of this server may ask.")
    if owner(port) not in (None, os.getuid()):
        raise RefusedError(HTTPStatus.FORBIDDEN, "Only the user who started the server may ask.")
    if not hmac.compare_digest(headers.get(TOKEN, "").encode(), token.encode()):
        raise RefusedError(HTTPStatus.FORBIDDEN, "The token is not that of this server: it was started anew.")
    if headers.get_content_type() != "application/json":
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The request must be application/json.")
    length = headers.get("Content-Length", "")
    if not length.isdecimal():
        raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "The request must say how long it is.")
    if int(length) > LONGEST:
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request is too long; allowed: {LONGEST:,} bytes.")
    try:
        members = json.loads(body.read(int(length)))
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The request is no JSON.") from None
    if not isinstance(members, dict) or not all(isinstance(value, str) for value in members.values()):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The request must be a JSON object of texts.")
    return members


def owner(port: int) -> int | None:
    """The user whose program holds this end of a connection on this machine; None where the system does not say."""
    for path in CONNECTIONS:
        if path.exists():
            for line in path.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                address, _, end = fields[1].partition(":")
                if int(end, 16) == port and address.endswith("0100007F") and fields[3] == "01":
                    return int(fields[7])
    return None
