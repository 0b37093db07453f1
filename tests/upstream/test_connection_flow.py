"""Neither side of a connection is read faster, or sent more, than it can take."""

from __future__ import annotations

import pytest

from proxy.errors import ErrorType, GatewayError, Side
from proxy.units import KIB, MIB
from tests.support.fake_clock import settle
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, ok
from tests.upstream.recording_sink import GET, RecordingOwner, RecordingSink, connect, exchange, start


async def test_a_sink_that_cannot_take_more():
    """While it is paused nearly nothing comes, so the upstream is held back; resumed, all of it comes."""
    size = 32 * MIB
    written: list[bool] = []

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            await upstream.send_flowing(b"x" * MIB)
        written.append(True)

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        sink = RecordingSink()
        sink.hooks["on_data"] = connection.pause_reading
        connection.start(GET, method=b"GET", sink=sink, body_expected=False)
        await sink.until(lambda: bool(sink.pieces))
        await settle()
        paused_at = len(sink.body)
        assert not written
        await settle()
        assert len(sink.body) == paused_at < 2 * MIB

        sink.hooks.clear()
        connection.resume_reading()
        await sink.end()
        assert len(sink.body) == size
        assert connection.reusable
        connection.abort()


async def test_a_connection_paused_by_the_last_octet():
    """It is reading again when the exchange is over: paused, it would never answer, nor be heard closing."""
    owner = RecordingOwner()
    async with ScriptedUpstream(always(ok(b"body"))) as upstream:
        connection = await connect(upstream.port, owner)
        sink = RecordingSink()
        sink.hooks["on_data"] = connection.pause_reading
        connection.start(GET, method=b"GET", sink=sink, body_expected=False)
        await sink.end()

        assert connection.reusable
        assert (await exchange(connection)).body == b"body"
        upstream.connections[0].close()
        await owner.all_gone()


async def test_an_upstream_that_does_not_read():
    """The sink is told to hold the request body back, and when to go on; all of it arrives."""
    body = b"0123456789abcdef" * (32 * KIB)
    pieces = 16  # 8 MiB in all, more than the system buffers
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(body) * pieces)

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.received_octets(1)
        upstream.stop_reading()
        await upstream.stall()
        upstream.read_again()
        await upstream.request()
        upstream.send(ok(b"thanks"))

    async with ScriptedUpstream(script, receive_buffer=64 * KIB) as upstream:
        connection = await connect(upstream.port)
        sink = start(connection, head, body_expected=True)
        await upstream.until(lambda: upstream.stalled == 1)
        for _ in range(pieces):
            connection.write(body)
        assert sink.calls == ["on_unwritable"]
        upstream.go_on()
        await sink.until(lambda: sink.writable)
        connection.end_body()
        await sink.end()

        assert sink.calls[:2] == ["on_unwritable", "on_writable"]
        assert (sink.body, connection.reusable) == (b"thanks", True)
        assert upstream.received == [head + body * pieces]
        connection.abort()


async def test_a_request_that_is_given_up():
    """What was begun is never completed: the upstream sees the connection cut, not the end of a body."""
    owner = RecordingOwner()
    async with ScriptedUpstream() as upstream:
        connection = await connect(upstream.port, owner)
        sink = start(
            connection, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", body_expected=True
        )
        connection.write(b"5\r\nhello\r\n")
        server_side = await upstream.connection()
        await server_side.until(lambda: server_side.received.endswith(b"hello\r\n"))
        connection.abort()
        await server_side.ended()
        await owner.all_gone()

        assert not sink.calls
        assert bytes(server_side.received).endswith(b"5\r\nhello\r\n")


async def test_writing_outside_an_exchange():
    """It is ignored: whatever it is, it must not become the beginning of the next request."""
    async with ScriptedUpstream(always(ok())) as upstream:
        connection = await connect(upstream.port)
        await exchange(connection)
        connection.write(b"leftover")
        await exchange(connection)
        connection.abort()
        connection.write(b"leftover")
        connection.pause_reading()
        connection.resume_reading()

        assert upstream.received == [GET * 2]


@pytest.mark.parametrize("method", ["write", "start", "pause_reading"])
async def test_a_transport_that_closed_meanwhile(method: str):
    """uvloop raises RuntimeError where asyncio warns; either way it is a connection that has closed."""
    owner = RecordingOwner()
    async with ScriptedUpstream() as upstream:
        connection = await connect(upstream.port, owner)
        sink = RecordingSink()
        if method != "start":
            connection.start(GET, method=b"GET", sink=sink, body_expected=True)
        connection._transport.abort()
        match method:
            case "start":
                with pytest.raises(GatewayError):
                    start(connection)
            case "write":
                connection.write(b"x")
                await sink.end()
            case "pause_reading":
                connection.pause_reading()
                await sink.end()
        await owner.all_gone()

        if method != "start":
            assert sink.error is not None
            assert (sink.error.error_type, sink.error.side) == (ErrorType.CONNECTION_TERMINATED, Side.UPSTREAM)
