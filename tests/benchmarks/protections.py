"""What the gateway must refuse while it is measured: a fast gateway that lets these pass has not been measured at all.

Each request goes on a connection of its own; the answer must be the gateway's own problem document. The upstream answers
401 without the token and 200 with it, so a request that slipped through would not look like a refusal.
"""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass

_HEAD = b"Host: localhost\r\n"


@dataclass(frozen=True, slots=True)
class Protection:
    """A request, and the status and problem that answer it."""

    name: str
    octets: bytes
    status: int
    problem: str


def _get(path: bytes = b"/api/1k", more: bytes = b"", *, method: bytes = b"GET", head: bytes = _HEAD) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, head, more)


PROTECTIONS = (
    Protection("foreign Origin", _get(more=b"Origin: https://evil.example\r\n"), 403, "browser-refused"),
    Protection("cross-site fetch", _get(more=b"Sec-Fetch-Site: cross-site\r\n"), 403, "browser-refused"),
    Protection("wrong Host", _get(head=b"Host: evil.example\r\n"), 421, "host-not-allowed"),
    Protection("two Hosts", _get(head=_HEAD + _HEAD), 400, "bad-request"),
    Protection("dot segment", _get(b"/api/../1k"), 400, "ambiguous-path"),
    Protection("encoded dot segment", _get(b"/api/%2e%2e/1k"), 400, "ambiguous-path"),
    Protection("backslash", _get(b"/api\\1k"), 400, "ambiguous-path"),
    Protection(
        "length and chunks",
        _get(b"/api/post", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", method=b"POST") + b"0\r\n\r\n",
        400,
        "bad-request",
    ),
    Protection(
        "signed length", _get(b"/api/post", b"Content-Length: +4\r\n", method=b"POST") + b"four", 400, "bad-request"
    ),
    Protection("underscore twin", _get(more=b"X_Forwarded_For: 10.0.0.1\r\n"), 400, "bad-request"),
    Protection("folded line", _get(more=b"X: a\r\n b\r\n"), 400, "bad-request"),
    Protection("bare LF", b"GET /api/1k HTTP/1.1\nHost: localhost\n\n", 400, "bad-request"),
    Protection("unknown route", _get(b"/nowhere"), 404, "no-route"),
    Protection("TRACE", _get(method=b"TRACE"), 501, "not-implemented"),
    Protection("wrong method", _get(b"/api/reading", method=b"DELETE"), 405, "method-not-allowed"),
    Protection("oversized head", _get(more=b"X: %b\r\n" % (b"a" * 40_000)), 431, "head-too-large"),
    Protection("too many fields", _get(more=b"X: a\r\n" * 101), 431, "head-too-large"),
    Protection("unknown expectation", _get(more=b"Expect: magic\r\n"), 417, "expectation-failed"),
    Protection("a loop", _get(more=b"Via: 1.1 bearer-proxy\r\n" * 3), 508, "loop-detected"),
    Protection("HTTP/2.0", b"GET /api/1k HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "version-not-supported"),
)


def failed(port: int) -> list[str]:
    """Sends one request per protection to the gateway and returns what was not refused as it must be."""
    faults = []
    for protection in PROTECTIONS:
        status, body = _answered(port, protection.octets)
        if status != protection.status or f"urn:bearer-proxy:problem:{protection.problem}".encode() not in body:
            faults.append(
                f"{protection.name}: not {protection.status} {protection.problem}, but {status} {body[:60]!r}"
            )
    return faults


def _answered(port: int, octets: bytes) -> tuple[int, bytes]:
    """Returns status and body of the answer; 0 for none."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(octets)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
