"""The replies that the gateway makes itself, as values.

Fixed text per problem and a request id: never a host name, a path, a version, or words of the upstream or of the
authorization server. At most 512 octets of body.

Source: RFC 9457 (problem details), RFC 9209 (Proxy-Status).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus

from proxy.errors import GatewayError, Problem
from proxy.http1.fields import Field

PSEUDONYM = b"bearer-proxy"

# after these the next bytes on the connection cannot be trusted to start a request, or the client is too slow or too big
_CLOSING = frozenset({400, 408, 413, 414, 417, 431, 501, 505})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer made here. ``fields`` hold neither Content-Length, Date nor Connection: the sender adds those."""

    status: int
    reason: bytes
    fields: tuple[Field, ...] = ()
    body: bytes = b""
    close: bool = False
    problem: Problem | None = None
    error: GatewayError | None = None


def problem_reply(
    problem: Problem,
    request_id: bytes,
    *,
    retry_after_s: float | None = None,
    allow: tuple[bytes, ...] | None = None,
    error: GatewayError | None = None,
) -> Reply:
    """Returns the reply for a problem; `request_id` is visible ASCII, at most 128 octets.

    A failure's own RFC 9209 type stands in Proxy-Status where there is one, so that `upstream-unreachable` still tells
    a refused connection from a name that does not resolve.
    """
    error_type = problem.error_type if error is None else error.error_type
    document = {
        "type": f"urn:bearer-proxy:problem:{problem.suffix}",
        "title": problem.title,
        "status": problem.status,
        "request_id": request_id.decode("ascii"),
    }
    fields: list[Field] = [
        (b"Content-Type", b"application/problem+json"),
        (b"Cache-Control", b"no-store"),
        (b"Proxy-Status", PSEUDONYM + b"; error=" + error_type.encode("ascii")),
    ]
    if retry_after_s is not None:
        fields.append((b"Retry-After", str(max(1, math.ceil(retry_after_s))).encode("ascii")))
    if allow is not None:
        fields.append((b"Allow", b", ".join(allow)))
    return Reply(
        status=problem.status,
        reason=HTTPStatus(problem.status).phrase.encode("ascii"),
        fields=tuple(fields),
        body=json.dumps(document, separators=(",", ":")).encode("ascii"),
        close=problem.status in _CLOSING or problem is Problem.CLIENT_NOT_ALLOWED,
        problem=problem,
        error=error,
    )
