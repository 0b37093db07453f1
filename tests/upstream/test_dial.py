"""Opening connections: what fails, in which words, and that nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest

from proxy.errors import ErrorType, GatewayError, Retry, Side
from proxy.tasks import Tasks
from proxy.tls import TlsSettings
from proxy.upstream.dial import _new_socket
from proxy.upstream.origin import Origin
from proxy.upstream.resolver import Resolver
from tests.support.fake_clock import settle, until
from tests.support.full_listener import full_listener
from tests.support.scripted_upstream import WITHIN_S, ScriptedUpstream, always, ok
from tests.upstream.certificates import Authority, server_context
from tests.upstream.recording_sink import NameServer, RecordingOwner, connect, dialer, exchange


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def refused(port: int, *, host: str = "127.0.0.1", timeout_s: float = WITHIN_S, tls: TlsSettings | None = None):
    with pytest.raises(GatewayError) as caught:
        await dialer(port, host=host, tls=tls).dial(RecordingOwner(), timeout_s)
    assert caught.value.retry is Retry.NOTHING_SENT
    assert caught.value.side is Side.UPSTREAM
    return caught.value.error_type


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_an_address_or_a_name(host: str):
    """Either family, and a name, lead there; what is sent is not delayed to be sent together."""
    async with ScriptedUpstream(always(ok(b"x")), host="::1" if host == "::1" else "127.0.0.1") as upstream:
        connection = await connect(upstream.port, host=host)
        assert (await exchange(connection)).body == b"x"
        assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        connection.abort()


async def test_nobody_listens():
    """A refused connection is one."""
    assert await refused(unused_port()) is ErrorType.CONNECTION_REFUSED
    assert await refused(unused_port(), host="localhost") is ErrorType.CONNECTION_REFUSED


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b"])
async def test_a_name_that_does_not_resolve(host: str):
    """It is a DNS error, also where the name could not even be asked for."""
    assert await refused(80, host=host) is ErrorType.DNS_ERROR


async def test_an_address_that_leads_nowhere():
    """The bound covers connecting."""
    with full_listener() as port:
        assert await refused(port, timeout_s=0.2) is ErrorType.CONNECTION_TIMEOUT


async def test_an_upstream_that_never_shakes_hands(tmp_path: Path):
    """The bound covers TLS."""
    async with ScriptedUpstream() as upstream:
        tls = TlsSettings(ca_file=Authority(tmp_path).file)
        assert await refused(upstream.port, timeout_s=0.2, tls=tls) is ErrorType.CONNECTION_TIMEOUT
        await (await upstream.connection()).ended()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_closes_within_the_handshake(tmp_path: Path, how: str):
    """The connection was terminated; TLS has not failed."""

    async def script(connection):
        await connection.received_octets(1)
        getattr(connection, how)()

    async with ScriptedUpstream(script) as upstream:
        tls = TlsSettings(ca_file=Authority(tmp_path).file)
        assert await refused(upstream.port, tls=tls) is ErrorType.CONNECTION_TERMINATED


async def test_an_address_that_swallows_packets():
    """Before one that works it costs a quarter of a second, not the whole bound."""
    with full_listener() as black_hole:
        async with ScriptedUpstream(always(ok(b"x"))) as upstream:
            opening = dialer(80, host="api.example", resolver=NameServer(black_hole, upstream.port))
            connection = await opening.dial(RecordingOwner(), 5)
            assert (await exchange(connection)).body == b"x"
            connection.abort()


async def test_many_who_ask_for_one_name():
    """They share one look-up, and whoever gives up leaves it to the others."""
    tasks = Tasks()
    resolver = Resolver(tasks)
    origin = Origin("http", "localhost", 80)
    asking = [tasks.start(resolver.addresses(origin, socket.AF_INET), name="asks") for _ in range(50)]
    await asyncio.sleep(0)  # noqa: TID251  # all have asked
    assert len(resolver._running) == 1
    asking[0].cancel()
    found = await asyncio.gather(*asking[1:])

    assert {address for answer in found for *_, address in answer} == {("127.0.0.1", 80)}
    assert not resolver._running


async def test_no_descriptor_left():
    """It is the gateway that is overloaded, not the upstream that failed."""
    async with ScriptedUpstream() as upstream:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        ready = dialer(upstream.port)
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 20, hard))
        taken = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            with pytest.raises(GatewayError) as caught:
                await ready.dial(RecordingOwner(), WITHIN_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)

    assert (caught.value.error_type, caught.value.side) == (ErrorType.CONNECTION_LIMIT_REACHED, Side.GATEWAY)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("turns", range(12))
async def test_a_dial_that_is_cancelled(tmp_path: Path, secure: bool, turns: int):
    """At whatever point, it leaves no socket behind, on either side."""
    authority = Authority(tmp_path)
    tls = TlsSettings(ca_file=authority.file) if secure else None
    context = server_context(authority.pair("127.0.0.1")) if secure else None
    tasks = Tasks()
    owner = RecordingOwner()
    async with ScriptedUpstream(ssl=context) as upstream:
        ready = dialer(upstream.port, tls=tls)
        await settle()
        before = open_descriptors()
        dialling = tasks.start(ready.dial(owner, WITHIN_S), name="dials")
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
        dialling.cancel()
        await asyncio.wait([dialling])
        if not dialling.cancelled():
            dialling.result().abort()
        await upstream.until(lambda: upstream.open == 0)
        async with asyncio.timeout(WITHIN_S):
            while open_descriptors() > before:
                await asyncio.sleep(0.001)  # noqa: TID251  # lets sockets close


@pytest.mark.parametrize("turns", range(8))
async def test_the_descriptor_of_a_dial_that_is_cancelled(turns: int, monkeypatch: pytest.MonkeyPatch):
    """It is closed once: closed again, later, it could be another connection's by then."""
    made: list[socket.socket] = []

    def new_socket(address):
        made.append(_new_socket(address))
        return made[-1]

    monkeypatch.setattr("proxy.upstream.dial._new_socket", new_socket)
    owner = RecordingOwner()
    async with ScriptedUpstream() as upstream:
        dialling = Tasks().start(dialer(upstream.port).dial(owner, WITHIN_S), name="dials")
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
        dialling.cancel()
        await asyncio.wait([dialling])
        if not dialling.cancelled():
            dialling.result().abort()
            await owner.all_gone()
        await until(lambda: all(one.fileno() == -1 for one in made), within_s=5)
