"""An answer's head as the client gets it: how the body is framed, and whether the connection stays open.

The one place for it, whoever writes the answer.

Source: RFC 9112 §6 (framing), §9.3 (persistence); RFC 9110 §6.6.1 (Date).
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.gateway import rewrite
from proxy.gateway.rewrite import ResponseRules
from proxy.http1.fields import end_to_end
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.wire import ResponseHead, head_octets, keep_derived, response_head

_HTTP_11 = (1, 1)
_UNTIL_CLOSE = Framing(BodyKind.UNTIL_CLOSE)
_CHUNKED = Framing(BodyKind.CHUNKED)


def framed(framing: Framing, *, version: tuple[int, int]) -> Framing:
    """Returns how an answer's body goes to a client that speaks `version`; `framing` says how it came.

    A body of unknown length goes chunked to HTTP/1.1 and until close to HTTP/1.0 (RFC 9112 §6.3).
    """
    kind = framing.kind
    if kind is BodyKind.LENGTH or kind is BodyKind.NONE:
        return framing
    return _CHUNKED if version >= _HTTP_11 else _UNTIL_CLOSE


def answer_head(
    status: int,
    reason: bytes,
    lines: list[bytes],
    framing: Framing,
    *,
    method: bytes,
    version: tuple[int, int],
    keep_alive: bool,
    dated: bool,
    date: Callable[[], bytes],
) -> bytes:
    """Returns the head's octets. `lines` are its field lines but for framing and persistence; `framing` as `framed` says.

    `dated` says that Date is among them; else `date` gives its value. Raises as `head_octets` does.
    """
    if framing.kind is BodyKind.LENGTH:
        lines.append(b"Content-Length: %d" % framing.length)
    elif framing.kind is BodyKind.CHUNKED and method != b"HEAD":
        lines.append(b"Transfer-Encoding: chunked")
    if not dated:
        lines.append(b"Date: " + date())
    if not keep_alive:
        lines.append(b"Connection: close")
    elif version < _HTTP_11:
        lines.append(b"Connection: keep-alive")
    return head_octets(b"HTTP/1.1 %d %b" % (status, reason), lines)


def passed_on(
    head: ResponseHead,
    framing: Framing,
    rules: ResponseRules,
    *,
    method: bytes,
    keep_alive: bool,
    date: Callable[[], bytes],
) -> bytes:
    """Returns the head's octets for a client that speaks HTTP/1.1; `framing` as `framed` says. Raises as `head_octets` does."""
    known_by = rules.whole if keep_alive else rules.last
    whole = head.derived.get(known_by) if method != b"HEAD" else None
    if whole is not None:
        return whole  # type: ignore[return-value]  # it was put there below
    dated = rules.dated(head)
    lines = rewrite.inbound_lines(head, rules, method=method)
    data = answer_head(
        head.status,
        head.reason,
        lines,
        framing,
        method=method,
        version=_HTTP_11,
        keep_alive=keep_alive,
        dated=dated,
        date=date,
    )
    if dated and method != b"HEAD" and not rules.route.set_response_headers:
        keep_derived(head.derived, known_by, data)
    return data


def interim_head(head: ResponseHead) -> bytes:
    """Returns the octets of an interim response (1xx) for a client that speaks HTTP/1.1 (RFC 9110 §15.2)."""
    fields = [field for field in end_to_end(head.fields) if field[0].lower() != b"content-length"]
    return response_head(head.status, head.reason, fields)
