"""Whether a connection may serve again: only if nothing is in doubt about what the next octet on it belongs to."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

import pytest

from proxy.errors import ErrorType, GatewayError, Retry, Side
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, answering, early, ok
from tests.upstream.recording_sink import GET, RecordingOwner, RecordingSink, connect, exchange, start

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


async def test_one_exchange_after_the_other():
    """Each response belongs to its request, and `reused` tells that the connection is not fresh."""
    answers = [ok(b"first"), ok(b"second"), ok(b"third")]
    async with ScriptedUpstream(answering(*answers)) as upstream:
        connection = await connect(upstream.port)
        assert not connection.reused
        bodies = []
        for _ in answers:
            bodies.append((await exchange(connection)).body)
            assert connection.reused
            assert connection.quiet()
        connection.abort()

        assert bodies == [b"first", b"second", b"third"]
        assert upstream.received == [GET * 3]


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (ok(b"x"), True),
        (ok(b"x", b"Connection: keep-alive"), True),
        (ok(b"x", b"Connection: close"), False),
        (ok(b"x", b"connection: Foo, CLOSE"), False),
        (ok(b"x", b"Connection: foo", b"Connection: close"), False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive, close\r\n\r\nx", False),
        (ok(b"x", b"WWW-Authenticate: Bearer", status=b"401 Unauthorized"), True),
        (ok(b"x", b"WWW-Authenticate: NTLM", status=b"401 Unauthorized"), False),
        (ok(b"x", b'WWW-Authenticate: Bearer realm="a", negotiate', status=b"401 Unauthorized"), False),
        (ok(b"x", b"WWW-Authenticate: Basic", b"www-authenticate: Negotiate YII=", status=b"200 OK"), False),
    ],
)
async def test_what_the_response_says(answer: bytes, reusable: bool):
    """`close`, HTTP/1.0, and schemes that authenticate a connection rather than a request end it after the response."""
    owner = RecordingOwner()
    async with ScriptedUpstream(answering(answer)) as upstream:
        connection = await connect(upstream.port, owner)
        sink = await exchange(connection)

        assert (sink.body, sink.ended) == (b"x", True)
        assert connection.reusable is reusable
        assert len(owner.closed) == (0 if reusable else 1)
        if not reusable:
            await (await upstream.connection()).ended()
            await owner.all_gone()
        connection.abort()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b"hello") + b"!", id="one octet after a length"),
        pytest.param(ok(b"") + ok(b"poison"), id="a response nobody asked for"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n" + ok(b"poison"), id="after no body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ok(b"poison"), id="after the last chunk"
        ),
    ],
)
async def test_octets_after_a_response(answer: bytes):
    """The response is delivered, the connection closes: what follows is nobody's answer."""
    owner = RecordingOwner()
    async with ScriptedUpstream(answering(answer)) as upstream:
        connection = await connect(upstream.port, owner)
        sink = await exchange(connection)

        assert sink.ended
        assert b"poison" not in sink.body
        assert b"!" not in sink.body
        assert not connection.reusable
        await owner.all_gone()
        with pytest.raises(GatewayError) as caught:
            start(connection)
        assert caught.value.retry is Retry.NOTHING_SENT


@pytest.mark.parametrize("what", ["data", "close", "half_close", "reset"])
async def test_an_idle_connection_that_becomes_readable(what: str):
    """Octets or an end that nobody asked for close it, and its owner is told."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(ok())
        await upstream.stall()
        if what == "data":
            upstream.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        else:
            getattr(upstream, what)()

    owner = RecordingOwner()
    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port, owner)
        await exchange(connection)
        assert connection.reusable
        upstream.go_on()
        await owner.all_gone()

        assert owner.closed == [connection]
        assert (connection.reusable, connection.closed, connection.quiet()) == (False, True, False)


@pytest.mark.parametrize("what", ["data", "close"])
async def test_an_idle_connection_that_became_readable_unseen(what: str):
    """What lies in the socket and the event loop has not looked at yet counts: else it would pass for the next answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await connect(server.getsockname()[1])
        accepted, _ = server.accept()
        with accepted:
            sink = start(connection)
            await asyncio.to_thread(accepted.recv, 1000)
            accepted.sendall(ok())
            await sink.end()
            assert connection.quiet()

            # from here on the event loop does not run
            if what == "data":
                accepted.sendall(ok(b"poison"))
            else:
                accepted.shutdown(socket.SHUT_WR)
            deadline = time.perf_counter() + 10
            while connection.quiet() and time.perf_counter() < deadline:
                pass
            assert connection.reusable
            assert not connection.quiet()
            connection.abort()


async def test_an_answer_that_comes_before_the_request_is_sent():
    """Nobody asked for it: it is not taken for the answer, and the request may be sent again, whatever its method."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await connect(server.getsockname()[1])
        accepted, _ = server.accept()
        with accepted:
            sink = start(connection)  # sent at the end of this turn
            connection.data_received(ok(b"poison"))
            await sink.end()
            assert sink.error is not None
            assert sink.error.retry is Retry.NOTHING_SENT
            assert connection.closed
            assert await asyncio.to_thread(accepted.recv, 1000) == b""


@pytest.mark.parametrize("what", ["data", "close"])
async def test_what_comes_while_a_request_waits_to_be_sent(what: str):
    """After the connection was found quiet, and before the end of the turn: the event loop has not read it by then.

    It is not taken for the answer, nothing is sent, and the request may be sent again, whatever its method.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await connect(server.getsockname()[1])
        accepted, _ = server.accept()
        with accepted:
            sink = start(connection)
            await asyncio.to_thread(accepted.recv, 1000)
            accepted.sendall(ok())
            await sink.end()
            assert connection.quiet()

            # from here on the event loop does not run
            sink = start(connection, POST)
            if what == "data":
                accepted.sendall(ok(b"poison", status=b"408 Request Timeout"))
            else:
                accepted.shutdown(socket.SHUT_WR)
            deadline = time.perf_counter() + 10
            while not connection._poll(0) and time.perf_counter() < deadline:
                pass

            await sink.end()
            assert sink.head is None
            assert sink.error is not None
            assert sink.error.retry is Retry.NOTHING_SENT
            assert connection.closed
            accepted.settimeout(10)
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(accepted.recv, 1000) == b""


async def test_an_answer_before_the_request_is_whole():
    """It is delivered at once; the rest of the request is not sent, and the connection never serves again."""
    owner = RecordingOwner()
    async with ScriptedUpstream(early(ok(b"no", status=b"413 Content Too Large"))) as upstream:
        connection = await connect(upstream.port, owner)
        sink = start(connection, POST, body_expected=True)
        connection.write(b"01234")
        await sink.end()
        connection.write(b"56789")
        connection.end_body()

        assert sink.head is not None
        assert (sink.head.status, sink.body) == (413, b"no")
        assert (connection.reusable, connection.closed) == (False, True)
        await owner.all_gone()
        await upstream.connections[0].gone()
        assert b"56789" not in upstream.received[0]


async def test_an_answer_that_begins_before_the_request_is_whole():
    """If the request ends before the response does, the connection is in order."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.head()
        upstream.send(ok(b"hello")[:-1])
        await upstream.request()
        upstream.send(b"o")

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        sink = start(connection, POST, body_expected=True)
        await sink.until(lambda: sink.body == b"hell")
        connection.write(b"0123456789")
        connection.end_body()
        await sink.end()

        assert (sink.ended, connection.reusable) == (True, True)
        connection.abort()


async def test_an_answer_while_the_request_lies_in_our_buffer():
    """A request that the upstream did not take is not over, even if it was written as a whole: it would go on later."""
    size = 32 * 1024 * 1024
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.received_octets(1)
        upstream.stop_reading()
        upstream.send(ok(b"early"))

    async with ScriptedUpstream(script, receive_buffer=4096) as upstream:
        connection = await connect(upstream.port)
        sink = start(connection, head, body_expected=True)
        connection.write(bytes(size))
        connection.end_body()
        await sink.end()

        assert (sink.body, connection.reusable) == (b"early", False)


async def test_an_early_answer_and_a_reset():
    """An upstream that answers early and closes resets the connection; an answer that had arrived is delivered.

    The event loop meets the reset first, when it writes, while the answer lies unread in the socket.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await connect(server.getsockname()[1])
        accepted, _ = server.accept()
        sink = start(connection, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", body_expected=True)
        connection.write(b"x" * 1000)
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, in which all is sent
        # from here on the event loop does not run: it cannot read the answer before it writes again
        accepted.sendall(ok(b"too much", b"Connection: close", status=b"413 Content Too Large"))
        accepted.close()  # with octets unread, so a RST goes out behind the answer
        for _ in range(20):
            connection.write(b"x" * 1000)
        await sink.end()

        assert sink.head is not None, sink.error
        assert (sink.head.status, sink.body, sink.ended) == (413, b"too much", True)
        assert connection.closed


async def test_a_sink_that_starts_the_next_exchange_from_on_end():
    """It may: nothing of the former exchange is touched afterwards."""
    async with ScriptedUpstream(answering(ok(b"first"), ok(b"second"))) as upstream:
        connection = await connect(upstream.port)
        second = RecordingSink()
        first = RecordingSink()
        first.hooks["on_end"] = lambda: connection.start(GET, method=b"GET", sink=second, body_expected=False)
        connection.start(GET, method=b"GET", sink=first, body_expected=False)
        await second.end()

        assert (first.body, second.body) == (b"first", b"second")
        connection.abort()


@pytest.mark.parametrize("hook", ["on_informational", "on_head", "on_data"])
@pytest.mark.parametrize(
    "answer", [ok(b"body"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"]
)
async def test_a_sink_that_aborts(hook: str, answer: bytes):
    """From any call: it hears nothing more, and the connection is gone."""
    owner = RecordingOwner()
    async with ScriptedUpstream(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer)) as upstream:
        connection = await connect(upstream.port, owner)
        sink = RecordingSink()
        sink.hooks[hook] = connection.abort
        connection.start(GET, method=b"GET", sink=sink, body_expected=False)
        await owner.all_gone()

        assert sink.calls[-1] == hook
        assert not sink.over
        await upstream.connections[0].gone()


async def test_an_exchange_failed_by_its_caller():
    """`fail` is how a deadline ends it: the sink gets that failure, once, and the connection closes."""
    owner = RecordingOwner()
    async with ScriptedUpstream() as upstream:
        connection = await connect(upstream.port, owner)
        sink = start(connection)
        late = GatewayError(ErrorType.HTTP_RESPONSE_TIMEOUT, Side.UPSTREAM)
        connection.fail(late)
        connection.fail(late)
        await owner.all_gone()

        assert sink.error is late
        assert sink.calls == ["on_error"]
