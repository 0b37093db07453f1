"""What becomes of a request, decided in one synchronous, pure function.

Grammar, access, route, token and outbound head: all that needs no waiting. The executors (``handler`` now, others
behind the same decision) carry it out and have no rules of their own. ``NeedToken`` asks the executor to await the
token and then to call ``forward``, so that nothing is admitted twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import Problem, Refusal
from proxy.gateway import rewrite
from proxy.gateway.access import Peer
from proxy.gateway.problem import Reply, problem_reply
from proxy.gateway.snapshot import RoutePlan, Snapshot
from proxy.http1 import framing as framing_rules
from proxy.http1 import target as target_rules
from proxy.http1.fields import Field, binds_connection, list_members, values
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.target import Form, RequestTarget
from proxy.http1.wire import METHODS, RequestHead, request_head
from proxy.routing import ClientAuthorization, Matched, PathPolicy, Route, WrongMethod
from proxy.tokens.access_token import AccessToken

_MAX_REQUEST_ID = 128  # octets
_MAX_SHOWN = 100  # octets of a refused Host in the log
_SUPPORTED_VERSIONS = frozenset({(1, 0), (1, 1)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the executor knows of a request beside its head."""

    peer: Peer
    secure: bool  # the client spoke TLS
    request_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every rule; only its token may be missing."""

    plan: RoutePlan
    head: RequestHead
    target: bytes  # the request target for the upstream
    fields: tuple[Field, ...]  # everything but the token
    framing: Framing
    expects_continue: bool
    body_limit: int  # octets, 0 = unlimited
    binds_connection: bool  # it may make the upstream take the connection for one client's: nobody else gets it


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A request ready to be sent: `head` is the whole outbound head, token included."""

    admitted: Admitted
    head: bytes = field(repr=False)
    token: AccessToken | None


@dataclass(frozen=True, slots=True)
class NeedToken:
    """The route's credential has no usable token at this moment."""

    admitted: Admitted


def decide(head: RequestHead, facts: Facts, snapshot: Snapshot, now: float) -> Forward | NeedToken | Reply:
    """Returns what to do with a request. No I/O, no await; `now` is Clock.now() in seconds."""
    try:
        admitted = _admit(head, facts, snapshot, now)
        if isinstance(admitted, Reply):
            return admitted
        source = admitted.plan.source
        if source is None:
            return forward(admitted, None)
        token = source.current()
        return NeedToken(admitted) if token is None else forward(admitted, token)
    except Refusal as refusal:
        return refused(refusal, facts.request_id)


def refused(refusal: Refusal, request_id: bytes) -> Reply:
    """Returns the reply to a refusal."""
    return problem_reply(refusal.problem, request_id, retry_after_s=refusal.retry_after_s, error=refusal)


def forward(admitted: Admitted, token: AccessToken | None) -> Forward:
    """Returns the request to send, with this token. Fails closed: a route with a credential never goes without one."""
    plan = admitted.plan
    if plan.source is not None and token is None:
        raise AssertionError("a route with a credential was about to be forwarded without its token")
    fields = admitted.fields
    if plan.source is not None and token is not None:
        fields = (*fields, (plan.route.header_name, token.field_value))
    return Forward(admitted=admitted, head=request_head(admitted.head.method, admitted.target, fields), token=token)


def request_id(head_fields: tuple[Field, ...], made: bytes) -> bytes:
    """Returns the client's X-Request-Id if there is exactly one and it is 1 to 128 visible ASCII octets, else `made`."""
    given = values(head_fields, b"x-request-id")
    if len(given) == 1 and 0 < len(given[0]) <= _MAX_REQUEST_ID and all(0x21 <= octet <= 0x7E for octet in given[0]):
        return given[0]
    return made


def _admit(head: RequestHead, facts: Facts, snapshot: Snapshot, now: float) -> Admitted | Reply:
    """Applies the rules in the order in which they protect: who asks, what it says, where it may go."""
    if (problem := snapshot.access.client_refused(facts.peer)) is not None:
        raise Refusal(problem)
    _check_size(head, snapshot)
    if head.version not in _SUPPORTED_VERSIONS:
        raise Refusal(Problem.VERSION_NOT_SUPPORTED)
    if head.method not in METHODS:
        raise Refusal(Problem.NOT_IMPLEMENTED, "method")
    target = target_rules.parse_target(head.target, head.method)
    framing = framing_rules.request_framing(head.version, head.fields)
    authority = _authority(head, target)
    host = None if authority is None else target_rules.parse_host(authority)
    host_name = None if host is None else host.name
    if (problem := snapshot.access.host_refused(host_name)) is not None:
        shown = (host_name or b"")[:_MAX_SHOWN].decode("latin-1")  # for the log: the commonest thing to mend
        raise Refusal(problem, f"access.allowed_hosts does not list {shown}")
    lower_authority = None if authority is None else authority.lower()
    if (problem := snapshot.access.request_refused(head.fields, lower_authority)) is not None:
        raise Refusal(problem)
    if head.method == b"OPTIONS" and (target.form is Form.ASTERISK or _last_hop(head)):
        return Reply(status=204, reason=b"No Content", close=framing.kind is not BodyKind.NONE)
    plan = _routed(head, target, host_name, snapshot, facts)
    if isinstance(plan, Reply):
        return plan
    if plan.access is not None:
        problem = (
            plan.access.client_refused(facts.peer)
            or plan.access.host_refused(host_name)
            or plan.access.request_refused(head.fields, lower_authority)
        )
        if problem is not None:
            raise Refusal(problem)
    if plan.route.client_authorization is ClientAuthorization.REFUSE and values(head.fields, b"authorization"):
        raise Refusal(Problem.AUTHORIZATION_REFUSED)
    expectations = list_members(head.fields, b"expect")
    if expectations and expectations != [b"100-continue"]:
        raise Refusal(Problem.EXPECTATION_FAILED)
    if plan.body_limit and framing.kind is BodyKind.LENGTH and framing.length > plan.body_limit:
        raise Refusal(Problem.BODY_TOO_LARGE)
    onward = rewrite.outbound_target(plan.route, target.path, target.query)
    if onward.startswith(b"//") and plan.route.path_policy is PathPolicy.STRICT:
        raise Refusal(Problem.AMBIGUOUS_PATH, "without the prefix the path would begin with //")
    sender = rewrite.Sender(
        address=None if facts.peer.address is None else str(facts.peer.address).encode("ascii"),
        secure=facts.secure,
        trusted=facts.peer.inside(snapshot.access.rules.trusted_proxies),
        host=authority,
        version=head.version,
        request_id=facts.request_id,
    )
    fields = rewrite.outbound_fields(head, plan.request_rules, sender, framing)
    if plan.bucket is not None and (wait_s := plan.bucket.take(now)) > 0:
        raise Refusal(Problem.RATE_LIMITED, retry_after_s=wait_s)
    return Admitted(
        plan=plan,
        head=head,
        target=onward,
        fields=tuple(fields),
        framing=framing,
        expects_continue=bool(expectations) and head.version == (1, 1) and framing.kind is not BodyKind.NONE,
        body_limit=plan.body_limit,
        binds_connection=plan.route.client_authorization is ClientAuthorization.PASS and binds_connection(head.fields),
    )


def _check_size(head: RequestHead, snapshot: Snapshot) -> None:
    limits = snapshot.limits
    if len(head.fields) > limits.field_count:
        raise Refusal(Problem.HEAD_TOO_LARGE, "too many fields")
    line = len(head.method) + len(head.target) + len(b"  HTTP/1.1\r\n")
    if line > limits.head_bytes:
        raise Refusal(Problem.TARGET_TOO_LONG)
    if line + sum(len(name) + len(value) + len(b": \r\n") for name, value in head.fields) > limits.head_bytes:
        raise Refusal(Problem.HEAD_TOO_LARGE)


def _authority(head: RequestHead, target: RequestTarget) -> bytes | None:
    """Returns the request's authority: the target's where it has one (RFC 9112 §3.2.2), else Host's."""
    hosts = values(head.fields, b"host")
    if len(hosts) > 1 or (not hosts and head.version == (1, 1)):
        raise Refusal(Problem.BAD_REQUEST, "a request has exactly one Host")
    if hosts:
        target_rules.parse_host(hosts[0])
    if target.authority is not None:
        return target.authority
    return hosts[0] if hosts else None


def _last_hop(head: RequestHead) -> bool:
    """Tells whether Max-Forwards says that this OPTIONS request goes no further (RFC 9110 §7.6.2)."""
    return values(head.fields, b"max-forwards") == [b"0"]


def _routed(
    head: RequestHead, target: RequestTarget, host: bytes | None, snapshot: Snapshot, facts: Facts
) -> RoutePlan | Reply:
    """Finds the route by the path's own bytes. An ambiguous path is refused unless the route asked for it raw.

    So is one that a lenient reader would find another route for (`/%61dmin`, `/admin;x`, `/a//dmin`): the upstream of
    this route may be such a reader, and would get the token of this route for the path of that one.
    """
    path = target.path
    found = snapshot.table.match(host, path, head.method)
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
            return problem_reply(refusal.problem, facts.request_id, allow=allow, error=refusal)
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
