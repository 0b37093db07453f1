"""What asyncio's transports leave to their users, on real sockets of both event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.transports import abort, send_last
from proxy.units import MIB
from tests.support.both_loops import on_both_loops
from tests.support.lost import Lost
from tests.support.scripted_upstream import WITHIN_S

FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


@asynccontextmanager
async def linked(
    family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.Transport, socket.socket, Lost]]:
    """A transport over TCP, the socket at its other end, and the transport's protocol."""
    with socket.create_server((host, 0), family=family) as server:
        ours = socket.create_connection(server.getsockname()[:2])
        theirs, _ = server.accept()
    theirs.settimeout(WITHIN_S)
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(Lost, sock=ours)
        async with asyncio.timeout(WITHIN_S):
            try:
                yield transport, theirs, protocol
            finally:
                abort(transport)
                await protocol.lost.wait()


def everything(theirs: socket.socket) -> bytes:
    with theirs.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize(("family", "host"), FAMILIES.values(), ids=FAMILIES)
@on_both_loops
async def test_the_last_octets_go_with_the_end(family: socket.AddressFamily, host: str):
    """The peer has read its end before the transport is closed; a close comes behind as ever, and says nothing new."""
    async with linked(family, host) as (transport, theirs, protocol):
        assert send_last(transport, b"the last") == b""
        assert await asyncio.to_thread(everything, theirs) == b"the last"
        assert not transport.is_closing()
        transport.close()
        await protocol.lost.wait()


@on_both_loops
async def test_they_are_one_segment():
    """Linux counts the segments that came: a write and a close by themselves are one more."""
    came = {}
    for way in ("as one", "apart"):
        async with linked() as (transport, theirs, protocol):
            before = segments(theirs)
            if way == "as one":
                assert send_last(transport, b"x" * 1000) == b""
            else:
                transport.write(b"x" * 1000)
            transport.close()
            await protocol.lost.wait()
            with theirs.makefile("rb") as stream:
                assert len(stream.read()) == 1000
            came[way] = segments(theirs) - before
    assert came == {"as one": 1, "apart": 2}


def segments(end: socket.socket) -> int:
    """Returns how many segments have come on a connection (struct tcp_info, tcpi_segs_in)."""
    return int.from_bytes(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)[140:144], "little")


@on_both_loops
async def test_more_than_the_system_takes_at_once():
    """The rest is the transport's to send; nothing is lost or comes twice, and the end comes behind it."""
    async with linked() as (transport, theirs, _):
        data = bytes(range(251)) * (64 * MIB // 251)
        rest = send_last(transport, data)
        assert 0 < len(rest) < len(data)
        transport.write(rest)
        transport.close()
        assert await asyncio.to_thread(everything, theirs) == data


@on_both_loops
async def test_behind_what_waits():
    """Octets that the transport still holds come first: it sends all of it."""
    async with linked() as (transport, theirs, _):
        data = b"x" * (64 * MIB)
        transport.write(data)
        assert send_last(transport, b"the last") == b"the last"
        transport.write(b"the last")
        transport.close()
        assert await asyncio.to_thread(everything, theirs) == data + b"the last"


@on_both_loops
async def test_a_unix_socket():
    """It has no segments."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(Lost, sock=ours)
        assert send_last(transport, b"the last") == b"the last"
        transport.close()
        await protocol.lost.wait()


@on_both_loops
async def test_a_transport_that_has_closed():
    """Its descriptor may be another connection's by now: nothing is written to it."""
    async with linked() as (transport, theirs, protocol):
        transport.close()
        assert send_last(transport, b"the last") == b"the last"
        await protocol.lost.wait()
        assert everything(theirs) == b""
        async with linked() as (_, others, _):  # takes the number that was freed
            assert send_last(transport, b"the last") == b"the last"
            others.setblocking(False)
            with pytest.raises(BlockingIOError):
                others.recv(1)


@on_both_loops
async def test_octets_that_cannot_be_sent():
    """Whatever is raised, the descriptor stays the transport's: it serves on, and closes it."""
    async with linked() as (transport, theirs, _):
        with pytest.raises(TypeError):
            send_last(transport, None)  # type: ignore[arg-type]
        transport.write(b"the last")
        transport.close()
        assert await asyncio.to_thread(everything, theirs) == b"the last"


@on_both_loops
async def test_a_peer_that_is_gone():
    """The transport finds it out, as after any write."""
    async with linked() as (transport, theirs, _):
        transport.pause_reading()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        theirs.close()
        rest = send_last(transport, b"the last")
        assert rest == b"the last"
        transport.write(rest)
