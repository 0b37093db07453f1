"""What becomes of a request, decided in one synchronous, pure function.

Grammar, access, route, token and outbound head: all that needs no waiting. The executors (``handler`` now, others
behind the same decision) carry it out and have no rules of their own. ``NeedToken`` asks the executor to await the
token and then to call ``forward``, so that nothing is admitted twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.errors import Problem, Refusal
from proxy.gateway import rewrite
from proxy.gateway.access import Access, Visitor
from proxy.gateway.problem import Reply, problem_reply
from proxy.gateway.query_token import without_token
from proxy.gateway.snapshot import RoutePlan, Snapshot
from proxy.http1 import framing as framing_rules
from proxy.http1 import switching
from proxy.http1 import target as target_rules
from proxy.http1.fields import binds_connection, list_members, persists
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.target import Form, RequestTarget
from proxy.http1.wire import METHODS, RequestHead, keep_derived, open_head
from proxy.routing import ClientAuthorization, Matched, PathPolicy, Route, WrongMethod
from proxy.tokens.access_token import AccessToken

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_MAX_SHOWN = 100  # octets of a refused Host in the log
_SUPPORTED_VERSIONS = frozenset({(1, 0), (1, 1)})
_NONE: list[bytes] = []


class Admitted(NamedTuple):
    """A request that passed every rule; what is said of it holds whenever the same head comes from the same visitor.

    Apart from the rate limit, its number and its token. A named tuple, since most requests have one of their own.
    """

    plan: RoutePlan
    head: RequestHead
    open_head: bytes  # for the upstream: request line and field lines, up to the value of X-Request-Id
    framing: Framing
    expects_continue: bool
    upgrade: bytes  # the Upgrade field to send; b"" = the request does not ask for another protocol
    binds_connection: bool  # it may make the upstream take the connection for one client's: nobody else gets it
    persists: bool  # the client's connection may serve another request
    repeatable: bool  # no rule looked at more than the head, the visitor and the configuration

    def __repr__(self) -> str:  # the rest holds secrets
        return f"Admitted({self.plan.route.name!r}, {self.head!r})"


class Forward(NamedTuple):
    """A request ready to be sent: `head` is the whole outbound head, token included."""

    admitted: Admitted
    head: bytes
    token: AccessToken | None

    def __repr__(self) -> str:
        return f"Forward({self.admitted!r})"


class NeedToken(NamedTuple):
    """The route's credential has no usable token at this moment."""

    admitted: Admitted


Decision = Forward | NeedToken | Reply


def decide(head: RequestHead, visitor: Visitor, request_id: bytes, snapshot: Snapshot, now: float) -> Decision:
    """Returns what to do with a request. No I/O, no await; `now` is Clock.now() in seconds.

    `visitor` is what this very snapshot says of the connection's other end. The head's size was bounded where its
    octets came in.
    """
    try:
        admitted = _admit(head, visitor, request_id, snapshot)
    except Refusal as refusal:
        return refused(refusal, request_id)
    return again(admitted, request_id, now) if isinstance(admitted, Admitted) else admitted


def again(admitted: Admitted, request_id: bytes, now: float) -> Decision:
    """Returns what to do with a request of which all is known that its head, its visitor and the configuration say."""
    plan = admitted.plan
    if plan.bucket is not None and (wait_s := plan.bucket.take(now)) > 0:
        return refused(Refusal(Problem.RATE_LIMITED, retry_after_s=wait_s), request_id)
    source = plan.source
    if source is None:
        return forward(admitted, None, request_id)
    token = source.current()
    return NeedToken(admitted) if token is None else forward(admitted, token, request_id)


def refused(refusal: Refusal, request_id: bytes) -> Reply:
    """Returns the reply to a refusal."""
    return problem_reply(refusal.problem, request_id, retry_after_s=refusal.retry_after_s, error=refusal)


def forward(admitted: Admitted, token: AccessToken | None, request_id: bytes) -> Forward:
    """Returns the request to send, with this token. Fails closed: a route with a credential never goes without one.

    `request_id` is as `request_id` gave it.
    """
    plan = admitted.plan
    if plan.route.set_request_headers:
        request_id = request_id + b"\r\n" + rewrite.set_lines(plan.route).removesuffix(b"\r\n")
    if plan.source is None:
        return Forward(admitted, admitted.open_head + request_id + b"\r\n\r\n", token)
    if token is None:
        raise AssertionError("a route with a credential was about to be forwarded without its token")
    head = b"".join((admitted.open_head, request_id, plan.request_rules.token_name, token.line_end))
    return Forward(admitted, head, token)


def request_id(head: RequestHead, make: Callable[[], bytes]) -> bytes:
    """Returns the client's X-Request-Id if there is exactly one and it is 1 to 128 visible ASCII octets, else a made one."""
    given = head.known.get(b"x-request-id")
    if given is not None and len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) is not None:
        return given[0]
    return make()


def _admit(head: RequestHead, visitor: Visitor, request_id: bytes, snapshot: Snapshot) -> Admitted | Reply:
    """Applies the rules in the order in which they protect: who asks, what it says, where it may go."""
    if visitor.refused is not None:
        raise Refusal(visitor.refused)
    found = head.known
    if head.version not in _SUPPORTED_VERSIONS:
        raise Refusal(Problem.VERSION_NOT_SUPPORTED)
    if head.method not in METHODS:
        raise Refusal(Problem.NOT_IMPLEMENTED, "method")
    target = target_rules.parse_target(head.target, head.method)
    framing = framing_rules.request_framing(head.version, found)
    upgrade = switching.asked(head, framing) if b"upgrade" in found else b""
    authority, host_name = _addressed(head, target, snapshot.access)
    if head.method == b"OPTIONS" and (target.form is Form.ASTERISK or _last_hop(head)):
        return Reply(status=204, reason=b"No Content", close=framing.kind is not BodyKind.NONE)
    plan = _routed(head, target, host_name, snapshot, request_id)
    if isinstance(plan, Reply):
        return plan
    if plan.access is not None:
        lower_authority = None if authority is None else authority.lower()
        problem = (
            plan.access.client_refused(visitor.peer)
            or plan.access.host_refused(host_name)
            or plan.access.request_refused(head, lower_authority)
        )
        if problem is not None:
            raise Refusal(problem)
    route = plan.route
    if b"authorization" in found and route.client_authorization is ClientAuthorization.REFUSE:
        raise Refusal(Problem.AUTHORIZATION_REFUSED)
    expectations = list_members(found[b"expect"]) if b"expect" in found else None
    if expectations and expectations != [b"100-continue"]:
        raise Refusal(Problem.EXPECTATION_FAILED)
    if plan.body_limit and framing.kind is BodyKind.LENGTH and framing.length > plan.body_limit:
        raise Refusal(Problem.BODY_TOO_LARGE)
    onward = rewrite.outbound_target(route, target.path, _query(target, route))
    if onward.startswith(b"//") and route.path_policy is PathPolicy.STRICT:
        raise Refusal(Problem.AMBIGUOUS_PATH, "without the prefix the path would begin with //")
    lines = rewrite.outbound_lines(head, plan.request_rules, visitor, host=authority, framing=framing, upgrade=upgrade)
    return Admitted(
        plan,
        head,
        open_head(b"%b %b HTTP/1.1" % (head.method, onward), lines) + b"X-Request-Id: ",
        framing,
        bool(expectations) and head.version == (1, 1) and framing.kind is not BodyKind.NONE,
        upgrade,
        route.client_authorization is ClientAuthorization.PASS and binds_connection(found),
        persists(head.version, found),
        plan.access is None and snapshot.access.rules.required_header is None,
    )


def _addressed(head: RequestHead, target: RequestTarget, access: Access) -> tuple[bytes | None, bytes | None]:
    """Returns the authority that the request names and its host, if the rules for hosts, browsers and keys let it pass."""
    remembered = head.derived.get(access)
    if remembered is not None and target.authority is None:
        return remembered  # type: ignore[return-value]  # it was put there below
    authority = _authority(head, target)
    host_name = None if authority is None else target_rules.parse_host(authority).name
    if (problem := access.host_refused(host_name)) is not None:
        shown = (host_name or b"")[:_MAX_SHOWN].decode("latin-1")  # for the log: the commonest thing to mend
        raise Refusal(problem, f"access.allowed_hosts does not list {shown}")
    if (problem := access.request_refused(head, None if authority is None else authority.lower())) is not None:
        raise Refusal(problem)
    by_fields_alone = target.authority is None and authority is not None and access.rules.required_header is None
    if by_fields_alone:
        keep_derived(head.derived, access, (authority, host_name))
    return authority, host_name


def _query(target: RequestTarget, route: Route) -> bytes | None:
    """Returns the query to send: without a token of the client's own where ours is sent."""
    query = target.query
    if query is None or route.credential is None:
        return query
    kept = without_token(query)
    if kept is not query and route.client_authorization is ClientAuthorization.REFUSE:
        raise Refusal(Problem.AUTHORIZATION_REFUSED, "access_token in the query")
    return kept if kept or not query else None


def _authority(head: RequestHead, target: RequestTarget) -> bytes | None:
    """Returns the request's authority: the target's where it has one (RFC 9112 §3.2.2), else Host's."""
    hosts = head.known.get(b"host", _NONE)
    if len(hosts) > 1 or (not hosts and head.version == (1, 1)):
        raise Refusal(Problem.BAD_REQUEST, "a request has exactly one Host")
    if hosts:
        target_rules.parse_host(hosts[0])
    if target.authority is not None:
        return target.authority
    return hosts[0] if hosts else None


def _last_hop(head: RequestHead) -> bool:
    """Tells whether Max-Forwards says that this OPTIONS request goes no further (RFC 9110 §7.6.2)."""
    return any(value and not value.strip(b"0") for value in head.known.get(b"max-forwards", ()))


def _routed(
    head: RequestHead, target: RequestTarget, host: bytes | None, snapshot: Snapshot, request_id: bytes
) -> RoutePlan | Reply:
    """Finds the route by the path's own bytes. An ambiguous path is refused unless the route asked for it raw.

    So is one that a lenient reader would find another route for (`/%61dmin`, `/admin;x`, `/a//dmin`): the upstream of
    this route may be such a reader, and would get the token of this route for the path of that one.
    """
    path = target.path
    found = snapshot.table.match(host, path, head.method)
    if found.__class__ is Matched and target_rules.unmistakable(path):  # nearly every request
        return snapshot.plans[found.route.name]
    strict = not (isinstance(found, Matched) and found.route.path_policy is PathPolicy.RAW)
    if strict and target_rules.ambiguity(path) is not None:
        raise Refusal(Problem.AMBIGUOUS_PATH)
    match found:
        case Matched(route):
            loose = _loosely_read(path, route) if strict else path
            if loose is not path and snapshot.table.match(host, loose, head.method) != found:
                raise Refusal(Problem.AMBIGUOUS_PATH, "another route for a lenient reader")
            return snapshot.plans[route.name]
        case WrongMethod(allow):
            refusal = Refusal(Problem.METHOD_NOT_ALLOWED)
            return problem_reply(refusal.problem, request_id, allow=allow, error=refusal)
        case _:
            raise Refusal(Problem.NO_ROUTE)


def _loosely_read(path: bytes, route: Route) -> bytes:
    """Returns a path as a lenient reader takes it, but for what the route itself matches by: that was meant as written."""
    written = route.match.path_exact or route.match.path_prefix or b""
    if target_rules.loosely_read(written) is written:
        return target_rules.loosely_read(path)
    rest = path[len(written) :]
    loose = target_rules.loosely_read(rest)
    return path if loose is rest else written + loose
