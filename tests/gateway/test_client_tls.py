"""TLS and mutual TLS towards clients, with real TLS clients, under both event loops."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from proxy.tasks import Tasks
from proxy.transports import abort
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, request
from tests.support.gateway import RunningGateway, running_gateway, simple_configuration
from tests.support.raw_client import RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always
from tests.upstream.certificates import Authority, Pair

CLOCK = SystemClock()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving_tls(
    folder: Path, upstream: ScriptedUpstream | int, *, clients: bool = False, limits: str = "", listen: str = ""
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway that speaks TLS with `server.pem`; with `clients`, to those who show a certificate of `ca.pem`."""
    demanded = f", client_ca_file: {folder}/ca.pem" if clients else ""
    top = f"tls: {{cert_file: {folder}/server.pem, key_file: {folder}/server.key{demanded}}}\n{limits}"
    port = upstream if isinstance(upstream, int) else upstream.port
    async with ScriptedAuthorizationServer() as server:
        text = simple_configuration(server.url, f"http://127.0.0.1:{port}", top=top)
        if listen:
            text = text.replace("listen: 127.0.0.1:0", f"listen: {listen}")
        async with running_gateway(text, folder, environ={"CLIENT_SECRET": "s"}) as gateway:
            yield gateway


def trusting(authority: Authority, pair: Pair | None = None, alpn: list[str] | None = None) -> ssl.SSLContext:
    """Returns a client's context that trusts the authority and shows the certificate."""
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


@asynccontextmanager
async def secured(port: int, context: ssl.SSLContext) -> AsyncIterator[RawClient]:
    """Opens a TLS connection to the gateway."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    try:
        yield client
    finally:
        abort(client.writer.transport)


def peer_certificate(client: RawClient) -> bytes:
    found: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return found


async def refused(port: int, context: ssl.SSLContext) -> bool:
    """Tells whether a request over TLS gets no answer at all."""
    try:
        async with secured(port, context) as client:
            await client.send(request())
            return await client.closed()
    except (ssl.SSLError, ConnectionError):
        return True


async def none_open(gateway: RunningGateway) -> None:
    """Waits until every place is free again."""
    while gateway.gateway.server.open_connections:
        await CLOCK.sleep(0.01)


@on_both_loops
async def test_requests_over_tls(tmp_path: Path, authority: Authority):
    """Several on one connection; the upstream is told `https`, and no newer or older protocol is agreed on."""
    authority.pair("127.0.0.1")
    async with ScriptedUpstream(always(OK)) as upstream, serving_tls(tmp_path, upstream) as gateway:
        async with secured(gateway.port, trusting(authority, alpn=["h2", "http/1.1"])) as client:
            assert "http/1.1" == client.writer.get_extra_info("ssl_object").selected_alpn_protocol()
            for _ in range(3):
                await client.send(request())
                answer = await client.answer()
                assert (200, b"ok") == (answer.status, answer.body)
            assert 1 == gateway.gateway.server.open_connections
        await none_open(gateway)
        assert b"X-Forwarded-Proto: https\r\n" in upstream.connections[0].received


@on_both_loops
async def test_what_was_pipelined_behind_the_handshake(tmp_path: Path, authority: Authority):
    """Requests that come in the same segment as the client's last handshake message are served in their order."""
    authority.pair("127.0.0.1")
    async with ScriptedUpstream(always(OK)) as upstream, serving_tls(tmp_path, upstream) as gateway:
        for _ in range(20):
            async with secured(gateway.port, trusting(authority)) as client:
                await client.send(request() * 2 + request(b"GET", b"/x", b"Origin: https://evil.example"))
                assert [200, 200, 403] == [(await client.answer()).status for _ in range(3)]


@on_both_loops
async def test_big_bodies_over_tls(tmp_path: Path, authority: Authority):
    """Sixteen mebibytes there and back, octet for octet."""
    body = os.urandom(1 << 20) * 16

    async def echo(connection: ScriptedConnection) -> None:
        got = (await connection.request()).partition(b"\r\n\r\n")[2]
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(got) + got)

    authority.pair("127.0.0.1")
    async with (
        ScriptedUpstream(echo) as upstream,
        serving_tls(tmp_path, upstream) as gateway,
        secured(gateway.port, trusting(authority)) as client,
    ):
        await client.send(request(b"POST", body=body))
        assert body == (await client.answer()).body


@on_both_loops
async def test_a_client_certificate(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture):
    """Who shows one of the named authority is served; none, or one of another authority, gets not a word of HTTP."""
    authority.pair("127.0.0.1")
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others", "strangers").pair("legacy-app", file="stranger")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        serving_tls(tmp_path, upstream, clients=True) as gateway,
    ):
        with caplog.at_level(logging.INFO):
            assert await refused(gateway.port, trusting(authority))
            assert await refused(gateway.port, trusting(authority, stranger))
        async with secured(gateway.port, trusting(authority, authority.pair("legacy-app", file="client"))) as client:
            await client.send(request())
            assert 200 == (await client.answer()).status
        assert 1 == len(upstream.connections[0].requests)
        told = [record.fields["reason"] for record in caplog.records if "handshake" in record.message]  # type: ignore[attr-defined]
        assert told == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]  # at most one such line a second


@on_both_loops
async def test_an_old_version(tmp_path: Path, authority: Authority):
    """Below TLS 1.2 nothing is agreed on."""
    authority.pair("127.0.0.1")
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving_tls(tmp_path, 1) as gateway:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with secured(gateway.port, context):
                pass


@on_both_loops
async def test_plain_http_where_tls_is_spoken(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture):
    """The connection is closed without harm and without an error in the log; others are served as before."""
    authority.pair("127.0.0.1")
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    async with ScriptedUpstream(always(OK)) as upstream, serving_tls(tmp_path, upstream) as gateway:
        for octets in (request(), b"\x16\x03\x01\x00\x05hello", b"\x00" * 5000, b""):
            async with connected(gateway.port) as client:
                await client.send(octets)
                if not octets:
                    client.writer.write_eof()
                await client.reader.read()  # an alert perhaps, and the end
        await none_open(gateway)
        async with secured(gateway.port, trusting(authority)) as client:
            await client.send(request())
            assert 200 == (await client.answer()).status
    assert [] == failures
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


@on_both_loops
async def test_files_that_change(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture):
    """The next connection has the new certificate; a broken file leaves the old one in force, told once."""
    first = authority.pair("127.0.0.1")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        serving_tls(tmp_path, upstream) as gateway,
        secured(gateway.port, trusting(authority)) as old,
    ):
        before = peer_certificate(old)
        authority.pair("127.0.0.1", "localhost")
        async with secured(gateway.port, trusting(authority)) as new:
            after = peer_certificate(new)
            assert before != after
        first.key.write_text("half")
        for _ in range(3):
            async with secured(gateway.port, trusting(authority)) as new:
                assert after == peer_certificate(new)
        await old.send(request())  # what is open goes on
        assert 200 == (await old.answer()).status
    assert ["WARNING"] == [record.levelname for record in caplog.records if record.name == "proxy.tls"]


@on_both_loops
async def test_authorities_that_change(tmp_path: Path, authority: Authority):
    """Who may come is asked of the new file; a session of the old one does not pass by it."""
    authority.pair("127.0.0.1")
    mine = authority.pair("legacy-app", file="client")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        serving_tls(tmp_path, upstream, clients=True) as gateway,
    ):
        context = trusting(authority, mine)
        async with secured(gateway.port, context) as client:
            await client.send(request())
            assert 200 == (await client.answer()).status
        Authority(tmp_path)  # another one of the same name
        assert await refused(gateway.port, context)


@on_both_loops
async def test_a_client_that_never_says_hello(tmp_path: Path, authority: Authority):
    """It counts from the moment it connects, and holds its place no longer than a head may take."""
    authority.pair("127.0.0.1")
    limits = "limits: {head_timeout: 500ms, connections_per_client: 2}"
    async with ScriptedUpstream(always(OK)) as upstream, serving_tls(tmp_path, upstream, limits=limits) as gateway:
        async with connected(gateway.port) as silent, connected(gateway.port) as stalled:
            await stalled.send(b"\x16\x03\x01")
            while gateway.gateway.server.open_connections < 2:
                await CLOCK.sleep(0.01)
            assert await refused(gateway.port, trusting(authority))  # one too many of this client
            assert await silent.closed()
            assert await stalled.closed()
        await none_open(gateway)
        async with secured(gateway.port, trusting(authority)) as client:
            await client.send(request())
            assert 200 == (await client.answer()).status
        assert 1 == await gateway.sample("bearer_proxy_requests_refused_total", reason="overloaded")


@on_both_loops
async def test_a_secured_client_that_sends_nothing(tmp_path: Path, authority: Authority):
    """Its first head has a deadline as in plain; a stalled one is answered 408."""
    authority.pair("127.0.0.1")
    async with serving_tls(tmp_path, 1, limits="limits: {head_timeout: 500ms}") as gateway:
        async with secured(gateway.port, trusting(authority)) as client:
            assert await client.closed()
        async with secured(gateway.port, trusting(authority)) as client:
            await client.send(b"GET / HT")
            assert 408 == (await client.answer()).status


@on_both_loops
async def test_a_client_that_leaves_in_the_middle(tmp_path: Path, authority: Authority):
    """Whether with goodbye or without, its place is free again."""
    authority.pair("127.0.0.1")

    async def stalling(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with ScriptedUpstream(stalling) as upstream, serving_tls(tmp_path, upstream) as gateway:
        for orderly in (True, False):
            async with secured(gateway.port, trusting(authority)) as client:
                await client.send(request())
                await client.reader.readuntil(b"half")
                if orderly:
                    client.writer.close()
            await none_open(gateway)


@on_both_loops
async def test_draining_over_tls(tmp_path: Path, authority: Authority):
    """A request under way is answered, idle and silent connections close, and nothing is left open."""
    authority.pair("127.0.0.1")
    async with DemoServers(clock=CLOCK) as servers:
        settings = servers.settings()
        top = f"tls: {{cert_file: {tmp_path}/server.pem, key_file: {tmp_path}/server.key}}"
        text = simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"], top=top)
        async with (
            running_gateway(text, tmp_path, environ=settings) as gateway,
            secured(gateway.port, trusting(authority)) as busy,
            secured(gateway.port, trusting(authority)) as idle,
            connected(gateway.port) as silent,
        ):
            await busy.send(request(b"GET", b"/slow?seconds=1"))
            await servers.protected_api.until_requests(1)
            tasks = Tasks()
            stopping = tasks.start(gateway.gateway.server.drain(20), name="drain")
            answer = await busy.answer()
            assert (200, b"close") == (answer.status, answer.field(b"Connection"))
            busy.writer.close()
            assert await idle.closed()
            assert await silent.closed()
            assert await stopping


@on_both_loops
async def test_a_unix_socket_speaks_tls_too(tmp_path: Path, authority: Authority):
    """`tls` is for every address of `listen`: none of them is plain beside it."""
    authority.pair("localhost")
    path = tmp_path / "gateway.sock"
    async with ScriptedUpstream(always(OK)) as upstream, serving_tls(tmp_path, upstream, listen=f"unix:{path}"):
        streams = await asyncio.open_unix_connection(str(path), ssl=trusting(authority), server_hostname="localhost")
        client = RawClient(*streams)
        await client.send(request())
        assert 200 == (await client.answer()).status
        abort(client.writer.transport)


@on_both_loops
async def test_a_tunnel_over_tls(tmp_path: Path, authority: Authority):
    """Octets both ways, early ones too; the end of either side ends both, and a cut connection is no end."""
    authority.pair("127.0.0.1")
    asked = request(b"GET", b"/", b"Connection: Upgrade", b"Upgrade: chess")
    large = bytes(range(256)) * 4000

    async def granting(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chess\r\n\r\nwelcome")
        await upstream.until(lambda: upstream.received.endswith((b"bye", b"wait")) or upstream.eof or upstream.lost)
        if upstream.received.endswith(b"bye"):
            upstream.send(large)
            upstream.half_close()

    async with ScriptedUpstream(granting) as upstream, serving_tls(tmp_path, upstream) as gateway:
        context = trusting(authority)
        async with secured(gateway.port, context) as client:
            await client.send(asked + b"early")
            assert 101 == (await client.answer(head_only=True)).status
            assert b"welcome" == await client.reader.readexactly(7)
            await client.send(b"bye")
            assert large == await client.reader.read()
            assert upstream.connections[0].received.endswith(b"earlybye")
            assert b"X-Forwarded-Proto: https\r\n" in upstream.connections[0].received
        async with secured(gateway.port, context) as client:
            await client.send(asked)
            assert 101 == (await client.answer(head_only=True)).status
            client.writer.close()  # in order, with TLS's own end
            await upstream.connections[1].gone()
            assert upstream.connections[1].loss is None
        async with secured(gateway.port, context) as client:
            await client.send(asked + b"wait")
            assert 101 == (await client.answer(head_only=True)).status
            abort(client.writer.transport)
            await upstream.connections[2].until(lambda: upstream.connections[2].lost)
            assert isinstance(upstream.connections[2].loss, ConnectionResetError)
        async with secured(gateway.port, context) as client:
            await client.send(asked.replace(b"chess", b"go") + b"early")  # which is not what will be granted
            answer = await client.answer()
            assert (502, b"close") == (answer.status, answer.field(b"Connection"))
        await none_open(gateway)
