"""A request's whole story, top to bottom, whoever holds the client's connection.

match, token, rewrite (all in ``decide``), exchange, rescue, relay or tunnel. Helpers stand below their caller in order of use.
Every failure is a ``GatewayError`` that ``rescue`` turns into one reply; ``RequestRecord`` counts and logs once.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy.clock import Clock
from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway import rescue, rewrite
from proxy.gateway.access import Peer, Visitor
from proxy.gateway.begun import Answer, Begun
from proxy.gateway.decide import Forward, NeedToken, decide, forward, request_id
from proxy.gateway.problem import Reply
from proxy.gateway.record import ClientGone, RequestRecord
from proxy.gateway.relay import ClientStream, RequestBody
from proxy.gateway.settings import LogSettings
from proxy.gateway.snapshot import RoutePlan, Snapshot
from proxy.gateway.traffic import Traffic
from proxy.gateway.tunnel import Tunnel
from proxy.http1.framing import Framing
from proxy.http1.wire import RequestHead, ResponseHead
from proxy.log import RateLimited
from proxy.tasks import Tasks
from proxy.tokens.access_token import AccessToken
from proxy.tokens.source import Replacement
from proxy.units import SECONDS
from proxy.upstream.exchange import Exchange

_limited = RateLimited(logging.getLogger("proxy.gateway"), burst=20)
_RETRY_PAUSE_S = 0.05 * SECONDS  # doubled for each further try to connect
_SOON_S = 0.001 * SECONDS  # for a bound: 0 would be none
_MAX_EXPIRED = 2  # tokens that may run out while a request waits for its connection


class Handler:
    """Serves one request after the other; the snapshot may be replaced between two."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        clock: Clock,
        tasks: Tasks,
        new_request_id: Callable[[], bytes],
        log: LogSettings,
    ) -> None:
        self.snapshot = snapshot
        self.traffic = Traffic()
        self._clock = clock
        self._tasks = tasks
        self._new_request_id = new_request_id
        self._log_settings = log

    def begin(self, head: RequestHead, visitor: Visitor, snapshot: Snapshot) -> RequestRecord:
        """Returns the record of a request whose head is there."""
        return RequestRecord(
            snapshot,
            self._clock,
            method=head.method,
            target=head.target,
            peer=visitor.name,
            request_id=request_id(head, self._new_request_id),
            settings=self._log_settings,
        )

    async def serve(self, client: ClientStream, *, peer: Peer, secure: bool) -> None:
        """Serves a request, with whatever outcome; `secure` says that the client spoke TLS."""
        snapshot = self.snapshot
        visitor = snapshot.visitor(peer, secure=secure)
        record = self.begin(client.head, visitor, snapshot)
        await self._ended_well(client, record, self._decided(client, visitor, record, snapshot))

    async def go_on(self, client: ClientStream, record: RequestRecord, begun: Begun) -> None:
        """Serves a request that was decided, and perhaps tried, elsewhere: from where it stands, with whatever outcome."""
        await self._ended_well(client, record, self._carried_out(begun, client, record))

    async def tell_of(self, client: ClientStream, record: RequestRecord, fault: Exception) -> None:
        """Ends a request at which something of ours has broken elsewhere: a plain answer, one line in the log."""
        await self._ended_well(client, record, _raised(fault))

    async def _ended_well(self, client: ClientStream, record: RequestRecord, story: Coroutine[Any, Any, None]) -> None:
        """Sees to it that the client is told of whatever fails, and that the request is counted and logged."""
        task = asyncio.current_task()
        assert task is not None
        self.traffic.begin(task)
        try:
            await story
        except GatewayError as error:
            await self._fail(client, record, error)
        except asyncio.CancelledError:
            if not self.traffic.cut_off or client.started:
                client.abort()
                record.failed(ClientGone() if not self.traffic.cut_off else Refusal(Problem.DRAINING))
                raise
            await self._fail(client, record, Refusal(Problem.DRAINING, retry_after_s=1.0))
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets a plain answer
            # the type and the place alone: the text may quote what a peer sent
            fields = {"request_id": record.request_id.decode("ascii")}
            _limited.log(logging.ERROR, "internal error", fields, exc_info=sys.exc_info())
            internal = GatewayError(ErrorType.PROXY_INTERNAL_ERROR, Side.GATEWAY, type(error).__name__)
            await self._fail(client, record, internal)
        finally:
            record.response_octets = client.octets_out
            record.finish()
            self.traffic.end(task)

    async def _decided(self, client: ClientStream, visitor: Visitor, record: RequestRecord, snapshot: Snapshot) -> None:
        """The request from its beginning."""
        decision = decide(client.head, visitor, record.request_id, snapshot, self._clock.now())
        await self._carried_out(Begun(decision), client, record)

    async def _carried_out(self, begun: Begun, client: ClientStream, record: RequestRecord) -> None:
        """The request, from decision to last byte."""
        decision = begun.decision
        if not begun.under_way and not isinstance(decision, Reply):
            record.routed(decision.admitted.plan)
        if isinstance(decision, NeedToken):
            decision = forward(decision.admitted, await _obtained(decision.admitted.plan), record.request_id)
        if isinstance(decision, Reply):
            await self._reply(client, record, decision)
            return
        route = decision.admitted.plan.route
        body = RequestBody(
            client,
            decision.admitted.framing,
            hold_octets=route.on_unauthorized.max_replay_body,
            limit_octets=decision.admitted.plan.body_limit,
            on_read=lambda octets: _count_request_octets(record, octets),
            crowded=lambda: decision.admitted.plan.pool.pending > 0,
        )
        total_s = route.timeouts.total_s
        if begun.under_way:
            body.resume(begun.pieces, record.request_octets, complete=begun.body_complete)
            total_s = total_s and max(_SOON_S, record.started_s + total_s - self._clock.now())
        else:
            decision.admitted.plan.retry_budget.earn()
        try:
            async with asyncio.timeout(total_s or None) as total:
                answer = await self._answered(decision, body, client, record, begun)
                try:
                    rewrite.refuse_reflection(answer.head, answer.token)
                    if answer.head.status == 101:
                        total.reschedule(None)
                        await self._switch(answer, client, record)
                    else:
                        await self._relay(answer, client, record)
                finally:
                    answer.exchange.close()
                    await body.stop()
        except TimeoutError:
            raise GatewayError(ErrorType.HTTP_RESPONSE_TIMEOUT, Side.UPSTREAM, "total time is over") from None

    async def _answered(
        self, decision: Forward, body: RequestBody, client: ClientStream, record: RequestRecord, begun: Begun
    ) -> Answer:
        """Sends the request until there is an answer to relay: once, or again where ``rescue`` allows it."""
        plan = decision.admitted.plan
        answer = begun.answer or await self._tried(decision, body, client, record, failure=begun.failure)
        if begun.answer is not None and not body.complete:  # it came early, and the upstream may still read
            body.start(answer.exchange, self._tasks, write_timeout_s=plan.route.timeouts.idle_s, rest=True)
        if answer.token is None or plan.source is None or not rescue.token_rejected(answer.head):
            return answer
        try:
            renewed = await self._renewed(answer.token, plan, body, record)
            if renewed is None:
                return answer
            await body.stop()
            answer.exchange.close()
        except BaseException:
            answer.exchange.close()
            raise
        try:
            answer = await self._tried(forward(decision.admitted, renewed, record.request_id), body, client, record)
        except GatewayError:
            record.replayed("failed")
            raise
        record.replayed("still_unauthorized" if rescue.token_rejected(answer.head) else "ok")
        return answer

    async def _tried(
        self,
        decision: Forward,
        body: RequestBody,
        client: ClientStream,
        record: RequestRecord,
        *,
        failure: GatewayError | None = None,
    ) -> Answer:
        """Sends the request; sends it again while nothing of it can have been processed and the budget lasts.

        `failure` is what became of a first try.
        """
        admitted, plan = decision.admitted, decision.admitted.plan
        tries = expired = 0
        fresh = False
        while True:
            interim = partial(_relay_interim, client, decision.token)
            exchange = Exchange(plan.pool, on_informational=interim, alone=admitted.binds_connection)
            try:
                earlier, failure = failure, None
                await _raised(earlier)
                response, framing = await self._attempt(exchange, decision, body, client, record, fresh=fresh)
            except TokenExpiredOnTheWayError:
                exchange.close()
                expired += 1
                if expired > _MAX_EXPIRED:
                    raise _token_too_short() from None
                decision = forward(admitted, await _obtained(plan), record.request_id)
            except GatewayError as error:
                exchange.close()
                await body.stop()
                tries += 1
                again = rescue.may_send_again(error, method=admitted.head.method, body_held=body.held)
                if not again or tries > plan.route.retries.connect or not plan.retry_budget.spend():
                    raise
                record.failed(error)
                fresh = True  # a second idle connection may be as stale as the first
                if error.error_type is ErrorType.CONNECTION_REFUSED:
                    await self._clock.sleep(_RETRY_PAUSE_S * 2 ** (tries - 1))
            except BaseException:
                exchange.close()
                await body.stop()
                raise
            else:
                return Answer(exchange=exchange, head=response, framing=framing, token=decision.token)

    async def _attempt(
        self,
        exchange: Exchange,
        decision: Forward,
        body: RequestBody,
        client: ClientStream,
        record: RequestRecord,
        *,
        fresh: bool,
    ) -> tuple[ResponseHead, Framing]:
        """One exchange up to the response's head. The token is looked at again once a connection is held."""
        admitted = decision.admitted
        timeouts = admitted.plan.route.timeouts
        await exchange.open(connect_timeout_s=timeouts.connect_s, fresh=fresh)
        if decision.token is not None and not decision.token.usable(self._clock.now()):
            raise TokenExpiredOnTheWayError
        if admitted.expects_continue:
            await client.send_continue()
        record.sent()
        exchange.start(decision.head, method=admitted.head.method, body_expected=body.exists, upgrade=admitted.upgrade)
        if not body.exists:
            response = await exchange.response(timeouts.first_byte_s)
        else:
            response = await self._response_during(body, exchange, timeouts.first_byte_s, timeouts.idle_s)
        record.answered()
        return response

    async def _response_during(
        self, body: RequestBody, exchange: Exchange, first_byte_s: float, idle_s: float
    ) -> tuple[ResponseHead, Framing]:
        """Awaits the response's head while the body goes out; the time to first byte counts from the body's end."""
        pumping = body.start(exchange, self._tasks, write_timeout_s=idle_s)
        waiting = self._tasks.start(exchange.response(None), name="response head")
        try:
            await asyncio.wait({pumping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            failure = pumping.exception()
            if failure is not None and not (
                isinstance(failure, GatewayError)
                and failure.side is Side.UPSTREAM
                and failure.error_type is not ErrorType.CONNECTION_WRITE_TIMEOUT
            ):
                raise failure  # the client's, or ours; an upstream that reads no more may still answer
            try:
                async with asyncio.timeout(first_byte_s or None):
                    return await waiting
            except TimeoutError:
                raise GatewayError(ErrorType.HTTP_RESPONSE_TIMEOUT, Side.UPSTREAM, "no response in time") from None
        finally:
            waiting.cancel()

    async def _renewed(
        self, rejected: AccessToken, plan: RoutePlan, body: RequestBody, record: RequestRecord
    ) -> AccessToken | None:
        """Answers the upstream's refusal of a token: a newer token to send once more, or None to relay the 401."""
        assert plan.source is not None
        if plan.source.replace(rejected) is Replacement.SUPPRESSED:
            record.replayed("suppressed")
            return None
        if not (plan.route.on_unauthorized.replay and body.held and body.complete):
            record.replayed("not_replayable")
            return None
        try:
            return await _obtained(plan)
        except GatewayError as error:
            record.replayed("failed")
            record.failed(error)
            return None

    async def _relay(self, answer: Answer, client: ClientStream, record: RequestRecord) -> None:
        """Passes the response on as it comes. Once its head is out, a failure can only be shown by cutting it off."""
        plan = record.plan
        assert plan is not None
        head = answer.head
        lines = rewrite.inbound_lines(head, plan.response_rules, method=client.head.method)
        record.replied(head.status)
        unread = not client.body_complete  # the rest of an unread body would be read as the next request
        close, dated = self.traffic.draining or unread, plan.response_rules.dated(head)
        await client.begin(head.status, head.reason, lines, answer.framing, dated=dated, close=close)
        client.hurry(lambda: answer.exchange.holds_connection and plan.pool.pending > 0)
        try:
            while (data := await answer.exchange.read(plan.route.timeouts.idle_s)) is not None:
                await client.send(data)
        except GatewayError as error:
            record.failed(error)
            client.abort()
            return
        await client.end()
        answer.exchange.finish()

    async def _switch(self, answer: Answer, client: ClientStream, record: RequestRecord) -> None:
        """Passes the 101 on; from there octets of another protocol flow both ways. It outlives its token."""
        plan = record.plan
        assert plan is not None
        assert client.switched is not None, "only such a connection lets its request ask"
        record.replied(101)
        await client.switch(answer.head.reason, rewrite.switched_lines(answer.head, plan.response_rules))
        tunnel = Tunnel(
            client.switched,
            answer.exchange.give_away(),
            clock=self._clock,
            idle_s=plan.route.timeouts.tunnel_idle_s,
            patience_s=client.limits.write_idle_timeout_s,
        )
        try:
            await tunnel.run()
        except GatewayError as error:
            record.failed(error)
        finally:
            record.request_octets = tunnel.client.octets
            client.octets_out = tunnel.upstream.octets

    async def _fail(self, client: ClientStream, record: RequestRecord, error: GatewayError) -> None:
        """Tells the client of a failure, if it can still be told."""
        if isinstance(error, ClientGone) or client.started:
            record.failed(error)
            client.abort()
        else:
            await self._reply(client, record, rescue.reply_to(error, record.request_id))

    async def _reply(self, client: ClientStream, record: RequestRecord, reply: Reply) -> None:
        record.refused(reply)
        record.replied(reply.status)
        try:
            await client.reply(reply, close=self.traffic.draining or not client.body_complete)
        except ClientGone as gone:
            record.failed(gone)


class TokenExpiredOnTheWayError(Exception):
    """The token stopped being usable while the request waited for a connection; nothing was sent."""


async def _obtained(plan: RoutePlan) -> AccessToken:
    """Waits for the route's token, within the route's bound. Raises TokenUnavailable (503, Retry-After)."""
    assert plan.source is not None
    return await plan.source.obtain(plan.route.timeouts.token_s)


async def _raised(fault: Exception | None) -> None:
    if fault is not None:
        raise fault


def _token_too_short() -> GatewayError:
    return GatewayError(
        ErrorType.PROXY_INTERNAL_ERROR,
        Side.AUTHORIZATION_SERVER,
        "tokens live shorter than it takes to connect to the upstream",
        retry_after_s=1 * SECONDS,
    )


async def _relay_interim(client: ClientStream, token: AccessToken | None, head: ResponseHead) -> None:
    """Passes an interim response on, under the same guard as a final one."""
    rewrite.refuse_reflection(head, token)
    await client.informational(head)


def _count_request_octets(record: RequestRecord, octets: int) -> None:
    record.request_octets += octets
