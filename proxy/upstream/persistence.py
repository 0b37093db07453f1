"""Whether a response leaves its connection open for another request.

Source: RFC 9112 §9.3 (persistence); MS-NLMP and RFC 4559 §6 for schemes that authenticate a connection.
"""

from __future__ import annotations

from proxy.http1.fields import CONNECTION_BOUND, Fields, challenges, persists
from proxy.http1.wire import ResponseHead


def leaves_open(head: ResponseHead) -> bool:
    """Tells whether the upstream keeps the connection open, and whether it may serve anyone.

    A connection on which NTLM or Negotiate was spoken may carry one client's identity; the next must not inherit it.
    """
    known = head.known
    return persists(head.version, known) and not (b"www-authenticate" in known and _binds(head.fields))


def _binds(fields: Fields) -> bool:
    return any(challenge.scheme in CONNECTION_BOUND for challenge in challenges(fields))
