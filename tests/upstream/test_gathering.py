"""Writes gathered until the end of a turn of the event loop, over real sockets: nothing is lost, and nothing changes places."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.gathering import GatheredTransport, Turn
from proxy.units import KIB
from tests.support.lost import Lost
from tests.support.scripted_upstream import WITHIN_S

_LARGE = 64 * KIB


@asynccontextmanager
async def _link(turn: Turn) -> AsyncIterator[tuple[GatheredTransport, asyncio.StreamReader, Lost]]:
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_connection(Lost, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        async with asyncio.timeout(WITHIN_S):
            yield GatheredTransport(transport, turn), reader, protocol
    finally:
        transport.abort()
        writer.transport.abort()


async def test_small_writes_go_out_at_the_end_of_the_turn_in_order():
    """Until then they are held, and counted as unsent."""
    async with _link(Turn()) as (transport, reader, _):
        transport.write(b"one ")
        transport.write(b"two")
        assert transport.held == b"one two"
        assert transport.get_write_buffer_size() == 7
        assert await reader.readexactly(7) == b"one two"
        assert transport.held == b""
        transport.write(b"three")  # another turn
        assert await reader.readexactly(5) == b"three"


async def test_all_of_a_turn_are_written_even_if_one_has_closed():
    """A transport that is closing holds up no other one."""
    turn = Turn()
    async with _link(turn) as (first, _, _), _link(turn) as (gone, gone_reader, _), _link(turn) as (last, reader, _):
        first.write(b"a")
        gone.write(b"lost")
        last.write(b"b")
        gone.inner.abort()
        assert await reader.readexactly(1) == b"b"
        assert await gone_reader.read() == b""
        assert gone.held == b"lost"  # who held it, can tell that it was not sent


async def test_a_transport_that_fails_in_another_way_is_given_up_and_told_of():
    """asyncio's TLS transports of Python 3.11.2 do that once they have closed. The others are written all the same."""

    class Failing(asyncio.Transport):
        aborted = False

        def write(self, data: bytes) -> None:  # type: ignore[override]
            raise AttributeError

        def is_closing(self) -> bool:
            return False

        def abort(self) -> None:
            self.aborted = True

    turn, failing, told = Turn(), Failing(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with _link(turn) as (transport, reader, _):
        GatheredTransport(failing, turn).write(b"lost")
        transport.write(b"written")
        assert await reader.readexactly(7) == b"written"
    assert failing.aborted
    assert [type(fault) for fault in told] == [AttributeError]


async def test_a_large_write_goes_behind_a_small_one_at_once():
    """It is not copied, and does not overtake."""
    async with _link(Turn()) as (transport, reader, _):
        transport.write(b"small")
        transport.write(b"L" * _LARGE)
        assert transport.held == b""
        assert await reader.readexactly(5 + _LARGE) == b"small" + b"L" * _LARGE


async def test_a_write_that_may_not_wait_goes_behind_what_is_held():
    """And both are with the transport when it returns."""
    async with _link(Turn()) as (transport, reader, _):
        transport.write(b"held ")
        transport.write_now(b"now")
        assert transport.held == b""
        assert await reader.readexactly(8) == b"held now"


async def test_close_comes_behind_what_is_held():
    """The reader gets all of it, and then the end."""
    async with _link(Turn()) as (transport, reader, protocol):
        transport.write(b"last words")
        transport.close()
        assert await reader.read() == b"last words"
        await protocol.lost.wait()


async def test_a_close_waits_for_the_end_of_the_turn():
    """So that the peer is woken once, for the last words and the end; without any, it closes at once."""
    async with _link(Turn()) as (transport, reader, protocol), _link(Turn()) as (silent, silent_reader, _):
        transport.write(b"last words")
        transport.close()
        transport.close()
        assert not transport.is_closing()
        silent.close()
        assert silent.is_closing()
        assert await reader.read() == b"last words"
        assert await silent_reader.read() == b""
        await protocol.lost.wait()


async def test_an_abort_overtakes_a_close():
    """What was to be written before it is not."""
    async with _link(Turn()) as (transport, reader, protocol):
        transport.write(b"last words")
        transport.close()
        transport.abort()
        assert await reader.read() == b""
        await protocol.lost.wait()


async def test_abort_drops_what_is_held():
    """Nothing of it is sent, now or later."""
    async with _link(Turn()) as (transport, reader, protocol):
        transport.write(b"never")
        transport.abort()
        assert transport.held == b""
        assert await reader.read() == b""
        await protocol.lost.wait()


async def test_who_gets_the_transport_finds_all_written():
    """What was held is with it, in front of what its new owner writes."""
    async with _link(Turn()) as (transport, reader, _):
        transport.write(b"ours ")
        transport.released().write(b"theirs")
        assert await reader.readexactly(11) == b"ours theirs"
