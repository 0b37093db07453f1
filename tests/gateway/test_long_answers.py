"""Long answers, of which the rest goes from socket to socket within the system: the same octets, counted and ended alike."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from proxy.gateway import direct_exchange
from proxy.splicing import LEAST, Splice, splice
from proxy.tasks import Tasks
from proxy.units import KIB, MIB
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import settle, until
from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.gateway import RunningGateway
from tests.support.raw_client import RawClient
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, ok
from tests.upstream.certificates import Authority, server_context

SIZE = 3 * MIB + 5
HALF = SIZE // 2


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The octets of each splice that was begun; none is left over, nor a descriptor."""
    found: list[int] = []

    def noted(source: socket.socket, target: socket.socket, octets: int, party: Any) -> Splice | None:
        made = splice(source, target, octets, party)
        if made is not None:
            found.append(octets)
        return made

    monkeypatch.setattr(direct_exchange, "splice", noted)
    monkeypatch.setattr(Splice, "possible", Splice.possible)  # whatever is said of it here is forgotten
    uvloop.new_event_loop().close()  # the first one opens descriptors for all that follow
    before = sockets_and_pipes()
    yield found
    assert (before, 0) == (sockets_and_pipes(), Splice.under_way)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own; and the direct path alone, since only there is anything spliced."""
    return tmp_path_factory.mktemp("long")


def sockets_and_pipes() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of what listed them
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith(("socket", "pipe"))}


def text(name: str, size: int = SIZE) -> bytes:
    """Returns what the upstream answers to `GET /NAME`."""
    return Random(name).randbytes(size)


def get(name: str, method: bytes = b"GET", *fields: bytes) -> bytes:
    return request(method, b"/" + name.encode(), *fields)


async def halves(connection: ScriptedConnection) -> None:
    """An upstream that sends each long answer in two halves, the second one when it is let go on."""
    while True:
        head = await connection.request()
        body = text(head.split(b" ")[1][1:].decode())
        status = b"206 Partial Content" if b"Range:" in head else b"200 OK"
        whole = ok(body, status=status)
        if head.startswith(b"HEAD"):
            connection.send(whole[: -len(body)])
            continue
        await connection.send_flowing(whole[:-HALF])
        await connection.stall()
        await connection.send_flowing(whole[-HALF:])


async def wholes(connection: ScriptedConnection) -> None:
    """An upstream that sends each answer at once: `GET /NAME-OCTETS`, or a long one."""
    while True:
        name = (await connection.request()).split(b" ")[1][1:].decode()
        size = int(name.rpartition("-")[2]) if "-" in name else SIZE
        await connection.send_flowing(ok(text(name, size)))


@asynccontextmanager
async def fronted(upstream: int | str, folder: Path, **options: str) -> AsyncIterator[RunningGateway]:
    """Runs a gateway that has its token: a request that waits for one is the handler's."""
    async with in_front_of(upstream, folder, **options) as gateway:  # type: ignore[arg-type]
        while not await gateway.sample("bearer_proxy_token_state", credential="main", state="fresh"):
            pass
        yield gateway


async def under_way(count: int = 1) -> None:
    """Waits until so many answers are being spliced."""
    await until(lambda: Splice.under_way == count)


async def half_read(client: RawClient) -> bytes:
    """Asks for `it`, and reads until its second half is to come and is spliced; returns the first one."""
    await client.send(get("it"))
    await client.answer(head_only=True)
    body = await client.reader.readexactly(SIZE - HALF)
    await under_way()
    return body


async def untaken(connection: ScriptedConnection) -> int:
    """Returns how much of what an upstream sends is not taken, once that does not change any more."""
    before = -1
    while before != (now := connection.transport.get_write_buffer_size()):
        before = now
        await asyncio.sleep(0.1)  # noqa: TID251  # between two looks
    return before


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "proxy.access"]


async def line_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Waits for the one line of the access log."""
    await until(lambda: bool(lines(caplog)))
    (line,) = lines(caplog)
    return line


async def errors(gateway: RunningGateway) -> dict[str, float]:
    """Returns the upstream's errors that were counted, by their words."""
    samples = await gateway.samples()
    counted = [(dict(labels), value) for (name, labels), value in samples.items() if "upstream_errors_total" in name]
    return {labels["error"]: value for labels, value in counted if value}


async def expect_next(client: RawClient, upstream: ScriptedUpstream, name: str = "next") -> None:
    """Checks that the same connections serve the next request, by either upstream that is used here."""
    connections = len(upstream.connections)
    await client.send(get(name))
    upstream.go_on()
    assert text(name) == (await client.answer()).body
    assert connections == len(upstream.connections)


# ---- answers that are whole


@on_both_loops
async def test_the_same_octets(folder: Path, begun: list[int], caplog: pytest.LogCaptureFixture):
    """In order, on a connection that serves the next request; counted and logged as ever."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(get("one"))
        await under_way()
        upstream.go_on()
        assert text("one") == (await client.answer()).body
        assert (200, SIZE) == ((await line_of(caplog))["status"], lines(caplog)[0]["response_bytes"])
        assert SIZE == await gateway.sample("bearer_proxy_response_body_bytes_total", route="all")
        assert {} == await errors(gateway)
        await expect_next(client, upstream)
        assert 2 == len(begun)
        assert all(LEAST <= octets < SIZE for octets in begun)


@on_both_loops
async def test_answers_of_any_length(folder: Path, begun: list[int]):
    """Whether or not the rest is long enough."""
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        for size in (0, 1, 16 * KIB, LEAST - 1, LEAST):
            await client.send(get(f"x-{size}"))
            assert text(f"x-{size}", size) == (await client.answer()).body
        assert [] == begun
        for size in (LEAST + 1, LEAST + 16 * KIB, LEAST + 64 * KIB + 1, LEAST + 256 * KIB, 2 * MIB, 8 * MIB):
            await client.send(get(f"x-{size}"))
            assert text(f"x-{size}", size) == (await client.answer()).body
        assert begun
        assert 1 == len(upstream.connections)


@on_both_loops
async def test_several_at_the_same_time(folder: Path):
    """Nobody gets another's."""
    names = [f"client_{number}" for number in range(6)]
    tasks = Tasks()
    async with ScriptedUpstream(halves) as upstream, fronted(upstream.port, folder) as gateway:
        clients = [await RawClient.connect(gateway.port) for _ in names]
        for turn in ("a", "b"):
            for client, name in zip(clients, names, strict=True):
                await client.send(get(turn + name))
            reading = [tasks.start(client.answer(), name="client") for client in clients]
            await under_way(len(names))
            upstream.go_on(len(names))
            for name, answer in zip(names, await asyncio.gather(*reading), strict=True):
                assert text(turn + name) == answer.body
        assert len(names) == len(upstream.connections)
        for client in clients:
            await client.close()


@on_both_loops
async def test_requests_behind_each_other(folder: Path, begun: list[int]):
    """Pipelined ones are answered in their order."""
    names = ["first", "second", "third"]
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(b"".join(map(get, names)))
        for name in names:
            assert text(name) == (await client.answer()).body
        assert 3 == len(begun)


@on_both_loops
async def test_a_client_that_reads_as_it_likes(folder: Path, begun: list[int]):
    """It holds the upstream back, and gets all."""
    random = Random(1)
    name = f"slow-{24 * MIB}"
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(get(name))
        await client.answer(head_only=True)
        body = bytearray()
        while len(body) < 24 * MIB:
            if random.random() < 0.02:
                await asyncio.sleep(0.02)  # noqa: TID251  # slowness
            body += await client.reader.readexactly(min(random.choice((100, 40_000, 500_000)), 24 * MIB - len(body)))
        assert text(name, 24 * MIB) == body
        await expect_next(client, upstream)
        assert 2 == len(begun)


@on_both_loops
async def test_what_waits_to_be_written_goes_first(folder: Path, begun: list[int]):
    """Nothing is spliced past octets that the system has not taken yet, few as they are."""

    async def small_first(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(ok())
        await connection.request()
        whole = ok(text("it"))
        connection.send(whole[:40_000])
        await connection.stall()
        await connection.send_flowing(whole[40_000:])

    async with ScriptedUpstream(small_first) as upstream, fronted(upstream.port, folder) as gateway:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", gateway.port))
        client = RawClient(*await asyncio.open_connection(sock=narrow))
        await client.send(get("small"))
        await client.answer()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (link,) = gateway.gateway.server._direct.connections
        assert link.transport is not None
        with socket.socket(fileno=os.dup(link.transport.get_extra_info("socket").fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await client.send(get("it"))
            await until(lambda: link.transport.get_write_buffer_size() > 0)
            await settle()
            assert (False, []) == (link.unwritable, begun)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        upstream.go_on()
        assert text("it") == (await client.answer()).body
        assert 1 == len(begun)
        await client.close()


@pytest.mark.parametrize("method", ["HEAD", "range", "POST", "half-closed", "last"])
@on_both_loops
async def test_other_ways_to_ask(folder: Path, method: str, begun: list[int]):
    """HEAD has no body; a range, a POST and a client that asks for the last time have theirs."""
    asked = {
        "HEAD": get("it", b"HEAD"),
        "range": get("it", b"GET", b"Range: bytes=0-"),
        "POST": request(b"POST", b"/it", body=b"x" * 100_000),
        "half-closed": get("it"),
        "last": get("it", b"GET", b"Connection: close"),
    }[method]
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(asked)
        if method == "half-closed":
            await upstream.until(lambda: bool(upstream.connections and upstream.connections[0].requests))
            client.writer.write_eof()
        upstream.go_on()
        answer = await client.answer(head_only=method == "HEAD")
        assert (206 if method == "range" else 200) == answer.status
        assert b"%d" % SIZE == answer.field(b"Content-Length")
        assert (b"" if method == "HEAD" else text("it")) == answer.body
        if method in {"half-closed", "last"}:
            assert await client.closed()
        elif method == "HEAD":
            assert [] == begun
            await expect_next(client, upstream)
        assert 1 == len(begun)


@pytest.mark.parametrize("way", ["TLS in front", "TLS behind", "unix"])
@on_both_loops
async def test_what_is_not_spliced(folder: Path, way: str, begun: list[int]):
    """The same octets, the usual way."""
    authority = Authority(folder)
    pair = authority.pair("localhost", "127.0.0.1")
    path = folder / "gateway.sock"
    behind = server_context(pair) if way == "TLS behind" else None
    top = f"tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}" if way == "TLS in front" else ""
    route = f"tls: {{ca_file: {authority.file}}}" if behind else ""
    async with ScriptedUpstream(wholes, ssl=behind) as upstream:
        url = f"http{'s' if behind else ''}://127.0.0.1:{upstream.port}"
        listen = f"unix:{path}" if way == "unix" else ""
        async with fronted(url, folder, top=top, route=route, listen=listen) as gateway:
            if way == "unix":
                streams = await asyncio.open_unix_connection(str(path))
            else:
                trusting = ssl.create_default_context(cafile=authority.file) if top else None
                streams = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
            client = RawClient(*streams)
            for name in ("one", "two"):
                await client.send(get(name))
                assert text(name) == (await client.answer()).body
            await client.close()
    assert [] == begun


# ---- what the system does not do


@pytest.mark.parametrize("nth", [0, 1, 2, 5])
@on_both_loops
async def test_a_system_that_refuses_it(folder: Path, nth: int, begun: list[int], monkeypatch: pytest.MonkeyPatch):
    """At whichever step: all arrives, this answer's rest and the next one the usual way."""
    calls = 0
    system = os.splice

    def refusing(*arguments: Any, **options: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > nth:
            raise OSError(errno.EINVAL, "refused")
        return system(*arguments, **options)

    monkeypatch.setattr(os, "splice", refusing)
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(get(f"it-{8 * MIB}"))
        assert text(f"it-{8 * MIB}", 8 * MIB) == (await client.answer()).body
        await expect_next(client, upstream)
        assert 1 == len(begun)
        assert 8 * MIB + SIZE == await gateway.sample("bearer_proxy_response_body_bytes_total", route="all")


@on_both_loops
async def test_a_client_that_takes_nothing_when_the_system_refuses(
    folder: Path, begun: list[int], monkeypatch: pytest.MonkeyPatch
):
    """The upstream is held back as ever, and the client gets what was in the pipe before the rest."""
    system = os.splice

    def refusing(source: int, *arguments: Any, **options: Any) -> int:
        try:
            return system(source, *arguments, **options)
        except BlockingIOError:
            if stat.S_ISFIFO(os.fstat(source).st_mode):  # the client takes nothing
                raise OSError(errno.EINVAL, "refused") from None
            raise

    monkeypatch.setattr(os, "splice", refusing)
    name = f"it-{64 * MIB}"
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(get(name))
        await until(lambda: not Splice.possible)
        assert 30 * MIB < await untaken(await upstream.connection())
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert text(name, 64 * MIB) == (await client.answer()).body
        assert 1 == len(begun)


@on_both_loops
async def test_urgent_data_within_an_answer(folder: Path, begun: list[int]):
    """It is left out, as ever, and nothing else is."""

    async def urgent(connection: ScriptedConnection) -> None:
        await connection.request()
        await connection.send_flowing(ok(text("it"))[:-HALF])
        await connection.stall()
        with socket.socket(fileno=os.dup(connection.transport.get_extra_info("socket").fileno())) as own:
            own.send(b"!", socket.MSG_OOB)
        await connection.send_flowing(text("it")[-HALF:])

    async with (
        ScriptedUpstream(urgent) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        body = await half_read(client)
        upstream.go_on()
        assert text("it") == body + await client.reader.readexactly(HALF)
        assert begun


# ---- ends that leave


@pytest.mark.parametrize("still", [False, True])
@on_both_loops
async def test_a_client_that_leaves(folder: Path, still: bool, caplog: pytest.LogCaptureFixture):
    """Whether it took all that there was or nothing any more: 499, and the upstream's connection is closed at once."""
    caplog.set_level(logging.INFO, "proxy.access")
    size = 64 * MIB if still else SIZE
    async with (
        ScriptedUpstream(wholes if still else halves) as upstream,
        fronted(upstream.port, folder) as gateway,
    ):
        async with connected(gateway.port) as client:
            await client.send(get(f"it-{size}" if still else "it"))
            await client.answer(head_only=True)
            await client.reader.readexactly(SIZE - HALF)
            if still:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                assert await untaken(await upstream.connection())
            await under_way()
        await upstream.connections[0].gone()
        line = await line_of(caplog)
        assert (499, "client") == (line["status"], line["failed"])
        assert SIZE - HALF <= line["response_bytes"] < size
        assert line["response_bytes"] == await gateway.sample("bearer_proxy_response_body_bytes_total", route="all")
        assert {} == await errors(gateway)
        await until(lambda: gateway.gateway.server.open_connections == 0)


@pytest.mark.parametrize("leave", [ScriptedConnection.half_close, ScriptedConnection.reset])
@on_both_loops
async def test_an_upstream_that_leaves(
    folder: Path, leave: Callable[[ScriptedConnection], None], caplog: pytest.LogCaptureFixture
):
    """The client gets what there was, and sees that it is not all; it counts as the upstream's fault."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder, route=ONE_TRY) as gateway,
        connected(gateway.port) as client,
    ):
        body = await half_read(client)
        leave(upstream.connections[0])
        with suppress(ConnectionError):
            assert b"" == await client.reader.read(100)
        assert text("it").startswith(body)
        line = await line_of(caplog)
        assert ("upstream", SIZE - HALF) == (line["failed"], line["response_bytes"])
        assert {"http_response_incomplete": 1} == await errors(gateway)
        await upstream.connections[0].gone()


@on_both_loops
async def test_an_upstream_that_says_more(folder: Path, begun: list[int]):
    """The answer is whole; what came behind it is nobody's, least of all the next request's answer."""

    async def too_much(connection: ScriptedConnection) -> None:
        name = (await connection.request()).split(b" ")[1][1:].decode()
        await connection.send_flowing(ok(text(name)) + ok(b"nobody's"))
        await connection.request()
        connection.send(ok(b"wrong"))

    async with (
        ScriptedUpstream(too_much, wholes) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(get("one") + get("two"))
        assert text("one") == (await client.answer()).body
        assert text("two") == (await client.answer()).body
        assert begun
        assert {} == await errors(gateway)


# ---- deadlines, and the gateway's end


@pytest.mark.parametrize(
    ("route", "error"),
    [("timeouts: {idle: 300ms}", "connection_read_timeout"), ("timeouts: {total: 500ms}", "http_response_timeout")],
)
@on_both_loops
async def test_an_upstream_that_stalls(folder: Path, route: str, error: str, caplog: pytest.LogCaptureFixture):
    """Its time ends as ever: the client sees that the answer is not whole."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        await half_read(client)
        with suppress(ConnectionError):
            assert b"" == await client.reader.read(100)
        assert "upstream" == (await line_of(caplog))["failed"]
        assert {error: 1} == await errors(gateway)
        await upstream.connections[0].gone()


@on_both_loops
async def test_a_client_that_takes_nothing(folder: Path, begun: list[int], caplog: pytest.LogCaptureFixture):
    """It is cut after its time, and the upstream let go."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with (
        ScriptedUpstream(wholes) as upstream,
        fronted(upstream.port, folder, top="limits: {write_idle_timeout: 400ms}") as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(get(f"it-{64 * MIB}"))
        await (await upstream.connection()).gone()
        line = await line_of(caplog)
        assert ("client", "the client does not read its answer") == (line["failed"], line["detail"])
        assert begun


@on_both_loops
async def test_draining_waits_for_it(folder: Path):
    """The answer under way is finished, then the connection closes."""
    tasks = Tasks()
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        body = await half_read(client)
        stopping = tasks.start(gateway.gateway.server.drain(20), name="drain")
        await until(lambda: gateway.gateway.server._handler.traffic.draining)
        upstream.go_on()
        assert text("it") == body + await client.reader.readexactly(HALF)
        assert await client.closed()
        assert await stopping


@pytest.mark.parametrize("end", ["drain", "pools"])
@on_both_loops
async def test_the_gateway_ends_within_it(folder: Path, end: str):
    """Both sides see their connections cut at once."""
    async with (
        ScriptedUpstream(halves) as upstream,
        fronted(upstream.port, folder) as gateway,
        connected(gateway.port) as client,
    ):
        await half_read(client)
        ending: Awaitable[object] = (
            gateway.gateway.server.drain(0) if end == "drain" else gateway.gateway._pools.close()
        )
        await ending
        with suppress(ConnectionError):
            assert b"" == await client.reader.read(100)
        await upstream.connections[0].gone()
        assert 0 == Splice.under_way
