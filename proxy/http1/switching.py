"""Switching protocols: which requests ask for it, for which protocols, and which answers grant what was asked.

Never asked for on a client's behalf: HTTP in another version (h2c) and TLS. Behind them further requests would flow
that no rule here has seen.

Source: RFC 9110 §7.8 (Upgrade), §15.2.2 (101); RFC 6455 §4.1 (websocket); RFC 9113 §3.1 (h2c is obsolete).
"""

from __future__ import annotations

import re

from proxy.errors import Problem, Refusal
from proxy.http1.fields import OWS, TOKEN, connection_options, list_members
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.wire import RequestHead, ResponseHead

_PROTOCOL = re.compile(rb"%b++(?:/%b++)?" % (TOKEN, TOKEN))
_NEVER = frozenset({b"h2c", b"h2", b"http", b"tls"})  # names, lower-case, without a version


def asked(head: RequestHead, framing: Framing) -> bytes:
    """Returns the value of Upgrade to send on, b"" if the request does not ask to switch, or for nothing that is let through.

    The value is the client's own, byte for byte, unless a protocol had to be left out. What asks in HTTP/1.0, without the
    `upgrade` option of Connection, together with `close`, or ungrammatically, is an ordinary request (RFC 9110 §7.8
    allows to ignore Upgrade). Raises Refusal(BAD_REQUEST) if it has a body, or asks for websocket by another method
    than GET.
    """
    lines = head.known.get(b"upgrade")
    if not lines or head.version != (1, 1):
        return b""
    options = connection_options(head.known)
    if b"upgrade" not in options or b"close" in options:
        return b""
    offered = _members(lines)
    if not all(map(_PROTOCOL.fullmatch, offered)):
        return b""
    wanted = [member for member in offered if _name(member) not in _NEVER]
    if not wanted:
        return b""
    if framing.kind is BodyKind.CHUNKED or framing.length > 0:
        raise Refusal(Problem.BAD_REQUEST, "an upgrade with a body")
    if head.method != b"GET" and any(_name(member) == b"websocket" for member in wanted):
        raise Refusal(Problem.BAD_REQUEST, "websocket is asked for by GET")
    return b", ".join(lines if wanted == offered else wanted)


def granted(head: ResponseHead, upgrade: bytes) -> bool:
    """Tells whether a 101 names protocols that were asked for by this value of Upgrade, and none else."""
    chosen = list_members(head.known.get(b"upgrade", ()))
    return bool(chosen) and set(chosen) <= set(_members([upgrade.lower()]))


def _members(lines: list[bytes]) -> list[bytes]:
    return [member for part in b",".join(lines).split(b",") if (member := part.strip(OWS))]


def _name(protocol: bytes) -> bytes:
    return protocol.partition(b"/")[0].lower()
