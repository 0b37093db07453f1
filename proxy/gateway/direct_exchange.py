"""An exchange on the direct path: the sink of a kept connection to the upstream, whose answer goes straight to the client.

One object serves all requests of a client's connection, one after the other. It takes the course that nearly every
request takes, and leaves all others to the handler, with what has happened so far (``Begun``).
"""

from __future__ import annotations

from proxy.clock import http_date
from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Retry, Side
from proxy.gateway import answer, relay, rewrite
from proxy.gateway.begun import Answer, Begun
from proxy.gateway.client import Client
from proxy.gateway.decide import Decision, Forward, NeedToken
from proxy.gateway.handler import Handler
from proxy.gateway.record import ClientGone, RequestRecord
from proxy.gateway.settings import Limits
from proxy.http1.framing import LAST_CHUNK, BodyKind, Framing, encode_chunk
from proxy.http1.wire import ResponseHead
from proxy.splicing import LEAST, Splice, splice
from proxy.units import KIB
from proxy.upstream import failures
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.exchange import Exchange

_HTTP_11 = (1, 1)
_ONE_WRITE = 16 * KIB  # octets of a body up to which copying costs less than writing twice


class DirectExchange:
    """The exchange under way, if there is one. A ``Sink``, and the ``Party`` of what is spliced."""

    __slots__ = (
        "_behind", "_chunked", "_client", "_forward", "_handed_on", "_handler", "_head_out", "_lagged_s", "_octets_out",
        "_pieces", "_record", "_sent_again", "_splice", "_stays", "_upstream", "started",
    )  # fmt: skip

    def __init__(self, handler: Handler, client: Client) -> None:
        self._handler = handler
        self._client = client
        self._forward: Forward
        self._record: RequestRecord
        self._upstream: UpstreamConnection | None = None  # while there is an exchange
        self._stays = True  # the client's connection may serve another request
        self._pieces: list[bytes] | None = None  # of the request's body, while it is held as a whole
        self._handed_on = False  # to the handler
        self._sent_again = False  # since its first connection had closed before anything was sent
        self._chunked = False  # the answer is
        self._head_out = b""  # the answer's head, until its first octets can go with it
        self._octets_out = 0
        self._splice: Splice | None = None  # of the rest of the answer
        self._behind = 0  # octets of earlier answers that the client had not taken when this request was sent
        self._lagged_s = 0.0  # that the client was waited for to take its answers
        self.started = False  # the answer has begun

    def begin(self, forward: Forward, record: RequestRecord, *, length: int, stays: bool) -> UpstreamConnection | None:
        """Takes a request that is decided, with a body of so many octets; returns an idle connection, if there is one.

        `stays` says that the client's connection may serve another one.
        """
        self._forward = forward
        self._record = record
        self._stays = stays
        self._pieces = []
        self._octets_out = self._behind = 0
        self._lagged_s = 0.0
        self._handed_on = self._sent_again = self.started = False
        plan = forward.admitted.plan
        record.routed(plan)
        plan.retry_budget.earn()
        self._handler.traffic.begin(self)
        # with a body that may not be held it could go on no other one: then it is asked at once
        held = not length or length <= plan.route.on_unauthorized.max_replay_body
        return plan.pool.take_idle(asked_later=held)

    def start(self, upstream: UpstreamConnection, body: bytes) -> None:
        """Sends the request on a connection, with what has come of its body."""
        forward, client = self._forward, self._client
        self._upstream = upstream
        head = forward.head
        if body:
            self._hold(body)
            head += body
        self._record.sent()
        try:
            upstream.start(head, method=forward.admitted.head.method, sink=self, body_expected=client.body_left > 0)
        except GatewayError as error:
            self.on_error(error)
        else:
            if client.unwritable:  # it has not taken its last answer yet
                self._behind = client.untaken()
                upstream.pause_reading()

    def send(self, body: bytes, *, last: bool) -> None:
        """Sends octets of the request's body."""
        upstream = self._upstream
        assert upstream is not None
        self._hold(body)
        upstream.write(body)
        if last and self._upstream is upstream:  # else writing has ended the exchange
            upstream.end_body()

    def _hold(self, body: bytes) -> None:
        """Counts octets of the body, and holds it while all of it may be held."""
        record = self._record
        record.request_octets += len(body)
        if self._pieces is not None:
            if record.request_octets <= self._forward.admitted.plan.route.on_unauthorized.max_replay_body:
                self._pieces.append(body)
            else:
                self._pieces = None

    # ---- the upstream's answer: the sink's calls

    def on_informational(self, head: ResponseHead) -> None:
        """Passes an interim response on."""
        if rewrite.reflects(head, self._forward.token):
            assert self._upstream is not None
            self._upstream.fail(rewrite.reflection())
        else:
            self._client.send(answer.interim_head(head))

    def on_head(self, head: ResponseHead, framing: Framing) -> None:
        """Passes the answer's head on, together with the octets that came with it."""
        client, record, forward = self._client, self._record, self._forward
        client.active = True
        now_s = record.answered()
        token, admitted, status = forward.token, forward.admitted, head.status
        if client.body_left or (status == 401 and token is not None) or rewrite.reflects(head, token):
            self._adopt(head, framing)
            return
        method = admitted.head.method
        framing = answer.framed(framing, version=_HTTP_11)
        self._chunked = framing.kind is BodyKind.CHUNKED
        self._stays = self._stays and not self._handler.traffic.draining
        try:
            rules = admitted.plan.response_rules
            data = answer.passed_on(head, framing, rules, method=method, keep_alive=self._stays, date=http_date)
        except Exception as fault:  # noqa: BLE001  # as in the handler; a sink's call must not raise
            self.broken(fault)
            return
        record.replied(status, now_s)
        assert self._upstream is not None
        if self._upstream.followed:
            self._head_out = data
        else:
            self.started = True
            client.send(data)

    def on_data(self, data: bytes) -> None:
        """Passes octets of the answer on."""
        client = self._client
        client.active = True
        self._octets_out += len(data)
        if self._chunked:
            data = encode_chunk(data)
        if self._head_out:
            head, self._head_out = self._head_out, b""
            self.started = True
            if len(data) > _ONE_WRITE:
                client.send(head)
            else:
                data = head + data
        client.send(data)
        if len(data) > _ONE_WRITE:  # they come faster than they are taken: more will be there already
            self._splice_rest()

    def on_end(self) -> None:
        """Ends the answer; the client's connection goes on to its next request."""
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        last = self._head_out + LAST_CHUNK if self._chunked else self._head_out
        if last:
            self._head_out = b""
            self._client.send(last)
        pool = self._forward.admitted.plan.pool
        self._finish()
        self._client.ended(stays=self._stays)
        pool.release(upstream)  # the last thing done here: another's request may begin on it

    def on_error(self, error: GatewayError) -> None:
        """Goes on on another connection or in the handler, while the client can still be told."""
        upstream, self._upstream = self._upstream, None
        self._stop_splice()
        self._head_out = b""
        if self.started:
            self._record.failed(error)
            self._finish()
            self._client.cut()
        elif error.retry is Retry.NOTHING_SENT and upstream is not None and upstream.reused and self._may_go_again():
            body, self._pieces = b"".join(self._pieces or ()), []
            self._record.unsent()
            self._client.dispatch(self._forward, body, self._forward.admitted.plan.pool.take_idle())
        else:
            self._go_on(failure=error)

    def _may_go_again(self) -> bool:
        """Tells whether it may go on another connection, since its kept one had closed before: once, if all is held."""
        before, self._sent_again = self._sent_again, True
        return not before and self._pieces is not None

    def on_unwritable(self) -> None:
        """Holds the client back, whose body the upstream does not take."""
        self._client.pause_client()

    def on_writable(self) -> None:
        """Lets the client go on."""
        self._client.active = True
        self._client.resume_client()

    # ---- the rest of a long answer, spliced: the party's calls

    def _splice_rest(self) -> None:
        target, upstream = self._client.bare_socket(), self._upstream
        if target is None or upstream is None or not Splice.available(target):
            return
        lent = upstream.lend(LEAST)
        if lent is not None:
            source, octets = lent
            self._splice = splice(source, target, octets, self)
            if self._splice is None:
                upstream.take_back(octets)

    def on_moved(self, octets: int) -> None:
        """Counts octets of the answer."""
        self._client.active = True
        self._octets_out += octets

    def on_stalled(self) -> None:
        """Waits for the client."""
        self._client.pause_writing()

    def on_flowing(self) -> None:
        """Waits for it no more."""
        self._client.resume_writing()

    def on_spliced(self) -> None:
        """Ends the answer."""
        self._take_back(0)

    def on_refused(self, held: bytes, left: int) -> None:
        """Passes the rest on as usual."""
        if held:
            self._octets_out += len(held)
            self._client.send(held)
        self._take_back(left)
        if self._client.unwritable:
            self.pause()

    def on_source_lost(self, cause: OSError) -> None:
        """Fails within the answer."""
        self._splice = None
        assert self._upstream is not None
        self._upstream.fail(failures.cut(cause))

    def on_target_lost(self) -> None:
        """Ends it, since the client has left."""
        self._splice = None
        self.lost(ClientGone())
        self._client.cut()

    def _take_back(self, left: int) -> None:
        self._splice = None
        assert self._upstream is not None
        self._upstream.take_back(left)

    # ---- what holds it up, and what ends it

    def pause(self) -> None:
        """Holds the upstream back, whose answer the client does not take."""
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume(self) -> None:
        """Lets the upstream go on."""
        if self._upstream is not None and self._splice is None:
            self._upstream.resume_reading()

    def lost(self, gone: ClientGone) -> None:
        """Ends it, since the client has left, or is to be left."""
        self._give_up_upstream()
        self._record.failed(gone)
        self._finish()

    def cancel(self) -> None:
        """Ends it, since the gateway stops."""
        if self._handed_on:
            self._client.cancel()
        else:
            self.end_with(Refusal(Problem.DRAINING, retry_after_s=1.0))

    def end_with(self, failure: GatewayError) -> None:
        """Ends it with a failure: the client gets an answer that tells of it, or sees that the one begun is not whole."""
        self._give_up_upstream()
        self.on_error(failure)

    def look_at_age(self, age_s: float) -> None:
        """Ends it if it has taken too long as a whole."""
        total_s = self._forward.admitted.plan.route.timeouts.total_s
        if total_s and age_s >= total_s:
            self._late(ErrorType.HTTP_RESPONSE_TIMEOUT, "total time is over")

    def lags(self, passed_s: float) -> bool:
        """Tells whether the client takes its answers too slowly while others wait; to be asked while it is waited for."""
        self._lagged_s += passed_s
        taken = self._behind + self._octets_out - self._client.untaken()
        return relay.too_slow(taken, self._lagged_s) and self._crowded()

    def _crowded(self) -> bool:
        """Tells whether other requests wait for a connection like its own."""
        return self._forward.admitted.plan.pool.pending > 0

    def look(self, quiet_s: float, waited_s: float, limits: Limits, *, client_paused: bool) -> None:
        """Ends it if nothing came for too long, from whoever is waited for; `waited_s` counts what is for the body."""
        timeouts = self._forward.admitted.plan.route.timeouts
        if self._client.body_left:
            if client_paused:
                if timeouts.idle_s and quiet_s >= timeouts.idle_s:
                    self._late(ErrorType.CONNECTION_WRITE_TIMEOUT, "the upstream does not read the request")
            elif limits.body_idle_timeout_s and quiet_s >= limits.body_idle_timeout_s:
                self.end_with(Refusal(Problem.REQUEST_TIMEOUT, "the request body stalled"))
            elif relay.too_slow(self._record.request_octets, waited_s) and self._crowded():
                self.end_with(relay.slow())
        elif not self.started:
            if timeouts.first_byte_s and quiet_s >= timeouts.first_byte_s:
                self._late(ErrorType.HTTP_RESPONSE_TIMEOUT, "no response in time")
        elif timeouts.idle_s and quiet_s >= timeouts.idle_s:
            self._late(ErrorType.CONNECTION_READ_TIMEOUT, "the response stalled")

    def broken(self, fault: Exception) -> None:
        """Ends it before the answer has begun: with a failure, or since something of ours has broken."""
        if isinstance(fault, GatewayError):
            self.end_with(fault)
        else:
            self._handed_on = True
            self._give_up_upstream()
            self._client.go_on(fault)

    def _late(self, error_type: ErrorType, detail: str) -> None:
        self.end_with(GatewayError(error_type, Side.UPSTREAM, detail))

    def _give_up_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        self._stop_splice()
        if upstream is not None:
            upstream.abort()

    def _stop_splice(self) -> None:
        if self._splice is not None:
            self._splice.close()
            self._splice = None

    def _finish(self) -> None:
        """Counts and logs the request."""
        self._record.response_octets = self._octets_out
        self._record.finish()
        self._handler.traffic.end(self)

    def _adopt(self, head: ResponseHead, framing: Framing) -> None:
        """Leaves the answer under way to the handler."""
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        forward = self._forward
        exchange = Exchange.adopted(forward.admitted.plan.pool, upstream, head, framing)
        self._go_on(answered=Answer(exchange=exchange, head=head, framing=framing, token=forward.token))

    def expired(self) -> None:
        """Leaves a request to the handler whose token has run out while it waited for its connection."""
        self._go_on(NeedToken(self._forward.admitted))

    def _go_on(
        self,
        decision: Decision | None = None,
        *,
        failure: GatewayError | None = None,
        answered: Answer | None = None,
    ) -> None:
        self._handed_on = True
        begun = Begun(
            decision or self._forward,
            under_way=True,
            pieces=self._pieces,
            body_complete=self._client.body_complete,
            failure=failure,
            answer=answered,
        )
        self._client.go_on(begun)
