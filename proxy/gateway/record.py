"""One request's record: timings, octets, outcome; the one place that counts and logs a request, once, on every path.

An executor makes a record when a request's head is there, notes what happens, and calls ``finish``. Log lines hold the
path and the names of query parameters, never a query's values, a field's value or a token. Every request is counted; of
those refused here, so that nothing of them cost anybody anything, only so many are logged.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.clock import Clock
from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway import rescue
from proxy.gateway.access import Peer
from proxy.gateway.problem import Reply
from proxy.gateway.settings import LogSettings
from proxy.gateway.snapshot import RoutePlan, Snapshot
from proxy.log import access_line, redact_query, served_line
from proxy.metrics import GatewayMetrics, RouteMetrics
from proxy.served_lines import milliseconds

CLIENT_LEFT = 499  # as nginx counts a client that closed before its answer was whole


class ClientGone(GatewayError):
    """The client closed its connection before its answer was whole."""

    def __init__(self, detail: str = "the client closed the connection") -> None:
        super().__init__(ErrorType.CONNECTION_TERMINATED, Side.CLIENT, detail)


class RequestRecord:
    """What is known of one request so far."""

    __slots__ = (
        "_clock",
        "_finished",
        "_metrics",
        "_refused_as",
        "_settings",
        "_snapshot",
        "error",
        "first_byte_s",
        "method",
        "peer",
        "plan",
        "problem",
        "replay",
        "request_id",
        "request_octets",
        "response_octets",
        "sent_s",
        "started_s",
        "status",
        "target",
        "tries",
        "upstream_s",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        clock: Clock,
        *,
        method: bytes,
        target: bytes,
        peer: str,
        request_id: bytes,
        settings: LogSettings,
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._settings = settings
        self._metrics: RouteMetrics | None = None
        self._refused_as: str | None = None
        self._finished = False
        self.method = method
        self.target = target
        self.peer = peer
        self.request_id = request_id
        self.plan: RoutePlan | None = None
        self.status = 0  # of the answer; 0 while nothing was sent
        self.error: GatewayError | None = None
        self.problem: Problem | None = None  # of the reply, where the gateway made it
        self.request_octets = 0
        self.response_octets = 0
        self.tries = 0
        self.replay: str | None = None
        self.started_s = clock.now()
        self.sent_s: float | None = None  # when the request went to the upstream (the last try)
        self.upstream_s: float | None = None  # from there to the response's head, seconds
        self.first_byte_s: float | None = None  # from the request's head to the first octet for the client, seconds

    def routed(self, plan: RoutePlan) -> None:
        """Notes the route; its requests in flight count from here."""
        self.plan = plan
        self._metrics = plan.metrics
        plan.metrics.in_flight += 1

    def sent(self) -> None:
        """Notes that a try goes to the upstream now."""
        self.tries += 1
        self.sent_s = self._clock.now()

    def unsent(self) -> None:
        """Takes back that a try went: nothing of it was sent, and it goes on another connection."""
        self.tries -= 1
        self.sent_s = None
        self.request_octets = 0

    def answered(self) -> float:
        """Notes that the upstream's response head is there; returns when, on the clock."""
        now_s = self._clock.now()
        if self.sent_s is not None:
            self.upstream_s = now_s - self.sent_s
            if self._metrics is not None:
                self._metrics.upstream_durations.observe(self.upstream_s)
        return now_s

    def replied(self, status: int, now_s: float | None = None) -> None:
        """Notes the status that the client gets."""
        self.status = status
        self.first_byte_s = (self._clock.now() if now_s is None else now_s) - self.started_s

    def refused(self, reply: Reply) -> None:
        """Notes a reply of the gateway's own."""
        self.problem = reply.problem
        if reply.problem is not None:
            self._snapshot.metrics.count_refused(reply.problem)
            if reply.error is None or isinstance(reply.error, Refusal):
                self._refused_as = reply.problem.suffix
        if reply.error is not None:
            self.failed(reply.error)

    def failed(self, error: GatewayError) -> None:
        """Notes a failure; one of the upstream is counted by its type."""
        self.error = error
        if error.side is Side.UPSTREAM and self._metrics is not None:
            self._metrics.count_upstream_error(error.error_type)

    def replayed(self, result: str) -> None:
        """Notes what came of a token that the upstream refused."""
        self.replay = result
        if self._metrics is not None:
            self._metrics.count_replay(result)

    def finish(self) -> None:
        """Counts and logs the request. Idempotent."""
        if self._finished:
            return
        self._finished = True
        duration_s = self._clock.now() - self.started_s
        metrics = self._metrics
        if metrics is None:
            metrics = self._snapshot.metrics.unmatched
        else:
            metrics.in_flight -= 1
        if not self.status or isinstance(self.error, ClientGone):
            self.status = CLIENT_LEFT
        metrics.count_request(self.method, self.status)
        metrics.durations.observe(duration_s)
        metrics.request_body_bytes += self.request_octets
        metrics.response_body_bytes += self.response_octets
        if self._settings.access:
            self._log(duration_s)

    def _log(self, duration_s: float) -> None:
        target, plan = self.target, self.plan
        shown = redact_query(target) if self._settings.redact_query else target.decode("latin-1")
        if plan is not None and self.error is None and self.replay is None and self.problem is None:
            route = plan.route
            if served_line(self, duration_s, shown, (route.name, route.credential or "none")):
                return
        access_line(self._line(duration_s, shown), self._refused_as)

    def _line(self, duration_s: float, target: str) -> dict[str, object]:
        line: dict[str, object] = {
            "request_id": self.request_id.decode("latin-1"),
            "client": self.peer,
            "method": self.method.decode("latin-1"),
            "target": target,
            "status": self.status,
            "duration_ms": milliseconds(duration_s),
            "request_bytes": self.request_octets,
            "response_bytes": self.response_octets,
        }
        if self.plan is not None:
            line["route"] = self.plan.route.name
            line["credential"] = self.plan.route.credential or "none"
            line["tries"] = self.tries
        if self.sent_s is not None:
            line["before_upstream_ms"] = milliseconds(self.sent_s - self.started_s)
        if self.upstream_s is not None:
            line["upstream_ms"] = milliseconds(self.upstream_s)
        if self.first_byte_s is not None:
            line["first_byte_ms"] = milliseconds(self.first_byte_s)
        if self.replay is not None:
            line["replay"] = self.replay
        if self.error is not None:
            line["failed"] = str(self.error.side)
            line["error"] = str(self.error.error_type)
            line["detail"] = self.error.detail
        if self.problem is not None:
            line["problem"] = self.problem.suffix
        return line


class RefusalRecorder:
    """Makes, counts and logs the replies to what never became a request: malformed or late heads, one too many."""

    __slots__ = ("_metrics", "_new_request_id", "_settings")

    def __init__(self, metrics: GatewayMetrics, settings: LogSettings, new_request_id: Callable[[], bytes]) -> None:
        self._metrics = metrics
        self._settings = settings
        self._new_request_id = new_request_id

    def reply(self, refusal: GatewayError, peer: Peer | None) -> Reply:
        """Returns the reply; at most one line in the log, nothing of what the client sent."""
        request_id = self._new_request_id()
        reply = rescue.reply_to(refusal, request_id)
        if reply.problem is not None:
            self._metrics.count_refused(reply.problem)
        self._metrics.unmatched.count_request(b"", reply.status)
        if self._settings.access:
            line = {
                "request_id": request_id.decode("ascii"),
                "client": "unix" if peer is None or peer.address is None else str(peer.address),
                "status": reply.status,
                "failed": str(refusal.side),
                "error": str(refusal.error_type),
                "detail": refusal.detail,
            }
            if reply.problem is not None:
                line["problem"] = reply.problem.suffix
            access_line(line, str(reply.status) if reply.problem is None else reply.problem.suffix)
        return reply
