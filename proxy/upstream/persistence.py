"""How a response ends, and whether it leaves its connection open for another request.

Source: RFC 9112 §9.3 (persistence); MS-NLMP and RFC 4559 §6 for schemes that authenticate a connection.
"""

from __future__ import annotations

from proxy.http1.fields import CONNECTION_BOUND, Fields, challenges, persists
from proxy.http1.framing import Framing, response_framing
from proxy.http1.wire import ResponseHead


def course(head: ResponseHead, method: bytes) -> tuple[Framing, bool]:
    """Returns how the body ends of a response to a request with this method, and what `leaves_open` says.

    Raises as `response_framing` does.
    """
    known = head.course
    if known is None or method == b"HEAD":
        framing = response_framing(method=method, status=head.status, version=head.version, found=head.known)
        known = (framing, leaves_open(head))
        if method != b"HEAD":
            head.course = known
    return known


def leaves_open(head: ResponseHead) -> bool:
    """Tells whether the upstream keeps the connection open, and whether it may serve anyone.

    A connection on which NTLM or Negotiate was spoken may carry one client's identity; the next must not inherit it.
    """
    known = head.known
    return persists(head.version, known) and not (b"www-authenticate" in known and _binds(head.fields))


def _binds(fields: Fields) -> bool:
    return any(challenge.scheme in CONNECTION_BOUND for challenge in challenges(fields))
