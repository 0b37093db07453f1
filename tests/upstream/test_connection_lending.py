"""The rest of a body that somebody else reads off the socket, and the connection before and afterwards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.errors import ErrorType
from proxy.units import KIB, MIB
from proxy.upstream import failures
from proxy.upstream.connection import UpstreamConnection
from tests.support.fake_clock import settle
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream
from tests.upstream.recording_sink import GET, RecordingOwner, RecordingSink, connect, exchange, start

BODY = b"0123456789abcdef" * 100
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)


Loan = tuple[UpstreamConnection, RecordingSink, ScriptedUpstream, socket.socket, int]


@asynccontextmanager
async def lent(*, extra: bytes = b"", owner: RecordingOwner | None = None) -> AsyncIterator[Loan]:
    """Begins an answer, of which all but ten octets are lent; they come when the upstream goes on."""

    async def script(upstream: ScriptedConnection) -> None:
        while True:
            await upstream.request()
            upstream.send(HEAD + BODY[:10])
            await upstream.stall()
            upstream.send(BODY[10:] + extra)

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port, owner)
        sink = start(connection)
        await sink.until(lambda: sink.body == BODY[:10])
        loan = connection.lend(len(BODY) - 10)
        assert loan is not None
        source, left = loan
        assert len(BODY) - 10 == left
        yield connection, sink, upstream, source, left
        connection.abort()


async def read(source: socket.socket, octets: int) -> bytes:
    """Reads as the borrower; a descriptor of its own, as it must be."""
    with source.dup() as own:
        data = b""
        while len(data) < octets:
            data += await asyncio.get_running_loop().sock_recv(own, octets - len(data))
        return data


async def test_a_body_that_is_read_by_somebody_else():
    """The sink gets none of it, and its end when all is read; then the connection serves the next exchange."""
    async with lent() as (connection, sink, upstream, source, left):
        upstream.go_on()
        await settle()
        assert BODY[:10] == sink.body
        assert BODY[10:] == await read(source, left)
        connection.take_back(0)
        assert sink.ended
        assert connection.reusable
        upstream.go_on()
        assert BODY == (await exchange(connection)).body


async def test_a_body_that_is_taken_back():
    """The sink gets what the borrower has left."""
    async with lent() as (connection, sink, upstream, source, left):
        upstream.go_on()
        assert BODY[10:100] == await read(source, 90)
        connection.take_back(left - 90)
        await sink.end()
        assert BODY[:10] + BODY[100:] == sink.body
        assert connection.reusable


async def test_more_than_the_body_behind_it():
    """The connection is closed at once: whatever it is, nobody asked for it."""
    async with lent(extra=b"HTTP/1.1 200 OK\r\n\r\n") as (connection, sink, upstream, source, left):
        upstream.go_on()
        await read(source, left)
        while not connection._poll(0):
            await settle()
        connection.take_back(0)
        assert sink.ended
        assert connection.closed


async def test_failed_while_it_is_lent():
    """The sink hears of it, and the socket is let go of."""
    owner = RecordingOwner()
    async with lent(owner=owner) as (connection, sink, upstream, *_):
        connection.fail(failures.cut(None))
        assert sink.error is not None
        assert ErrorType.HTTP_RESPONSE_INCOMPLETE is sink.error.error_type
        await owner.all_gone()
        await upstream.connections[0].gone()


@pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked", b"X: until the end"])
async def test_what_is_not_lent(head: bytes):
    """Less than was asked for, or a body whose length nobody has told."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\na\r\n0123456789\r\n" % head)

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        sink = start(connection)
        assert connection.lend(0) is None  # before the head
        await sink.until(lambda: bool(sink.body))
        assert connection.lend(1000) is None
        connection.abort()
        assert connection.lend(0) is None


async def test_nothing_is_lent_while_the_request_is_not_sent():
    """The rest of it may break the connection, of which the answer is then read as far as it came."""
    body = b"x" * 16 * MIB

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.received_octets(1)
        upstream.stop_reading()
        upstream.send(HEAD + BODY[:10])
        await upstream.stall()
        upstream.read_again()

    async with ScriptedUpstream(script, receive_buffer=64 * KIB) as upstream:
        connection = await connect(upstream.port)
        sink = start(
            connection, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body), body_expected=True
        )
        connection.write(body)
        connection.end_body()
        await sink.until(lambda: sink.body == BODY[:10])
        assert connection.lend(0) is None
        upstream.go_on()
        await sink.until(lambda: sink.writable)
        while connection._transport.get_write_buffer_size():
            await settle()
        assert connection.lend(0) is not None
        connection.abort()


async def test_nothing_is_lent_of_a_connection_that_breaks():
    """What had come before is read to its end, and the failure is that of an answer that is cut."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(HEAD + BODY[:10])
        await upstream.stall()
        upstream.send(BODY[10:500])

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        sink = RecordingSink()
        loans: list[object] = []
        connection.start(GET, method=b"GET", sink=sink, body_expected=False)
        await sink.until(lambda: sink.body == BODY[:10])
        connection.pause_reading()
        upstream.go_on()
        while not connection._poll(0):
            await settle()
        sink.hooks["on_data"] = lambda: loans.append(connection.lend(1))
        connection._transport.inner.abort()
        await sink.end()
        assert [None] == loans
        assert BODY[:500] == sink.body
        assert sink.error is not None
        assert ErrorType.HTTP_RESPONSE_INCOMPLETE is sink.error.error_type
