"""No request leaves without the token its route names, and no token that has run out is ever sent."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxy.errors import Problem
from proxy.gateway.access import Peer, Visitor
from proxy.gateway.decide import NeedToken, decide, forward
from proxy.gateway.problem import Reply
from proxy.http1.wire import parse_request_head
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import RunningGateway
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, ok


@on_both_loops
async def test_a_token_that_runs_out_while_its_request_waits_for_a_connection(tmp_path: Path):
    """It is not sent: the request takes a newer one along."""

    async def one_slow_answer(connection: ScriptedConnection) -> None:
        await connection.request()
        await connection.stall()
        connection.send(ok(b"slow"))
        await connection.request()
        connection.send(ok(b"fine"))

    server = ScriptedAuthorizationServer(default=token_reply("lasting"))
    server.script.append(token_reply("brief", expires_in=2))
    async with (
        server,
        ScriptedUpstream(one_slow_answer) as upstream,
        in_front_of(upstream.port, tmp_path, server=server, route="pool: {max_connections: 1}") as gateway,
        connected(gateway.port) as slow,
        connected(gateway.port) as waiting,
    ):
        await slow.send(request())
        await upstream.until(lambda: upstream.stalled == 1)
        pool = gateway.gateway.snapshot.plans["all"].pool
        await waiting.send(request())
        while not pool.pending:
            await asyncio.sleep(0)  # noqa: TID251
        await asyncio.sleep(2.1)  # noqa: TID251  # the token's life
        upstream.go_on()
        assert [b"slow", b"fine"] == [(await client.answer()).body for client in (slow, waiting)]
        assert [b"brief", b"lasting"] == re.findall(rb"Authorization: Bearer (\w+)", b"".join(upstream.received))


async def test_a_request_is_not_made_without_its_token(tmp_path: Path):
    """Whoever asks for it, by whatever mistake."""
    async with (
        ScriptedUpstream(always(ok())) as upstream,
        in_front_of(upstream.port, tmp_path, credential="required: false") as gateway,
    ):
        decision = decided(gateway, request())
        assert isinstance(decision, NeedToken)
        with pytest.raises(AssertionError, match="without its token"):
            forward(decision.admitted, None, b"id")


async def test_a_request_with_two_hosts(tmp_path: Path):
    """The decision itself refuses it, whatever parser was there before."""
    async with ScriptedUpstream(always(ok())) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        reply = decided(gateway, request(b"GET", b"/", b"Host: localhost"))
        assert isinstance(reply, Reply)
        assert Problem.BAD_REQUEST is reply.problem


def decided(gateway: RunningGateway, octets: bytes) -> object:
    """Returns what is decided about a request of a client on this machine."""
    snapshot = gateway.gateway.snapshot
    visitor = Visitor.of(Peer(ip_address("127.0.0.1")), snapshot.access, secure=False)
    return decide(parse_request_head(octets, max_fields=10), visitor, b"id", snapshot, 0.0)
