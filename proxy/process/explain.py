"""What the gateway would do with a request, without doing it: for `bearer-proxy explain`.

Runs the very decision of the request path. No token is asked for and nothing is sent; the token's place, and every
header value that the configuration sets, show as `***`.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import Refusal, UsageError
from proxy.gateway.access import Peer
from proxy.gateway.decide import Admitted, Forward, NeedToken, decide
from proxy.gateway.problem import Reply
from proxy.gateway.settings import Settings
from proxy.http1.fields import Field, is_token
from proxy.http1.target import parse_target
from proxy.http1.wire import RequestHead
from proxy.process import hints
from proxy.process.assemble import Gateway, new_request_id

_HIDDEN = b"***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The outcome for people, and whether the request would be forwarded."""

    lines: tuple[str, ...]
    forwarded: bool


def request_head(method: str, url: str, fields: tuple[Field, ...], settings: Settings) -> RequestHead:
    """Returns the head of a request for a URL, or for a path, which then goes to the first host that is allowed.

    Raises UsageError for a method or URL that is none.
    """
    if not is_token(method.encode("utf-8", "replace")):
        raise UsageError("the method is not one")
    try:
        target = parse_target(url.encode("utf-8"), b"GET")
    except Refusal:
        raise UsageError("give a path (/orders/7) or a URL (http://localhost:8080/orders/7)") from None
    host = target.authority or _own_host(settings)
    path = target.path if target.query is None else target.path + b"?" + target.query
    return RequestHead(method.encode("ascii"), path, (1, 1), ((b"Host", host), *fields))


def _own_host(settings: Settings) -> bytes:
    hosts = [host for host in settings.access.allowed_hosts if not host.startswith(b"*")]
    return hosts[0] if hosts else b"localhost"


def explain(settings: Settings, clock: Clock, *, method: str, url: str) -> Explanation:
    """Returns what would become of a request from a client that may use the gateway. Needs an event loop."""
    gateway = Gateway(settings, clock)
    visitor = gateway.snapshot.visitor(Peer(None), secure=settings.tls is not None)
    head = request_head(method, url, (), settings)
    request_id = new_request_id()
    match decide(head, visitor, request_id, gateway.snapshot, clock.now()):
        case Reply() as reply:
            why = "answered by the gateway itself" if reply.problem is None else f"refused: {reply.problem.suffix}"
            detail = ""
            if reply.error is not None and reply.problem is not None and reply.error.detail != reply.problem.suffix:
                detail = f" ({reply.error.detail})"
            lines = [f"{reply.status} {why}{detail}"]
            if reply.error is not None and (hint := hints.hint(reply.error)) is not None:
                lines.append(f"hint: {hint}")
            return Explanation(lines=tuple(lines), forwarded=False)
        case NeedToken(admitted) | Forward(admitted=admitted):
            return Explanation(lines=_request(admitted, request_id), forwarded=True)


def _request(admitted: Admitted, request_id: bytes) -> tuple[str, ...]:
    route = admitted.plan.route
    lines = [
        f"route:      {route.name}",
        f"credential: {route.credential or 'none'}",
        f"upstream:   {route.upstream}",
        "",
    ]
    lines += (admitted.open_head + request_id).decode("latin-1").split("\r\n")
    lines += [f"{name.decode('ascii')}: {_HIDDEN.decode()}" for name, _ in route.set_request_headers]
    if route.credential is not None:
        lines.append(f"{route.header_name.decode('ascii')}: Bearer {_HIDDEN.decode()}")
    return tuple(lines)
