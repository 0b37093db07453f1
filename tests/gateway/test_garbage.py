"""What a request leaves behind: nothing that only the garbage collector could free, held octets of its body least of all."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest

from proxy.gateway.admission import Place
from proxy.gateway.direct import DirectConnection
from proxy.gateway.direct_exchange import DirectExchange
from proxy.gateway.front import FrontProtocol
from proxy.gateway.record import RequestRecord
from proxy.gateway.relay import ClientStream, RequestBody
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import until
from tests.support.fronting import connected, in_front_of, request
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, ok

OF_A_REQUEST = (RequestRecord, ClientStream, RequestBody, DirectConnection, DirectExchange, FrontProtocol, Place)


async def obliging(connection: ScriptedConnection) -> None:
    while True:
        await connection.request()
        connection.send(ok(b"done"))


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, OF_A_REQUEST))


@pytest.mark.parametrize("body", [pytest.param(b"", id="GET"), pytest.param(b"x" * 10_000, id="POST")])
@on_both_loops
async def test_requests_that_were_answered(tmp_path: Path, body: bytes):
    """Without a run of the collector, at most the last one of a connection is still there."""
    async with (
        ScriptedUpstream(obliging) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        gc.collect()
        before = alive()
        gc.disable()
        try:
            for _ in range(20):
                await client.send(request(b"POST" if body else b"GET", body=body))
                assert (await client.answer()).body == b"done"
            left = alive() - before
        finally:
            gc.enable()

    assert all(count <= 1 for count in left.values()), left


@on_both_loops
async def test_connections_that_served_a_request(tmp_path: Path):
    """Nothing of a connection that has closed waits for the collector, whoever closed it."""
    async with ScriptedUpstream(obliging) as upstream, in_front_of(upstream.port, tmp_path) as gateway:

        async def served(*fields: bytes) -> None:
            async with connected(gateway.port) as client:
                await client.send(request(b"GET", b"/", *fields))
                assert (await client.answer()).body == b"done"

        await served()
        await until(lambda: gateway.gateway.server.open_connections == 0)
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await served(b"Connection: close")
                await served()
            await until(lambda: gateway.gateway.server.open_connections == 0)
            left = alive()
        finally:
            gc.enable()

    assert not left
