"""TLS towards upstreams: who is believed, what is shown, and files that change while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError, ErrorType, GatewayError, Retry, Side
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import MIB
from tests.support.fake_clock import settle
from tests.support.scripted_upstream import WITHIN_S, ScriptedConnection, ScriptedUpstream, always, answering, ok
from tests.upstream.certificates import Authority, alerting_server, server_context
from tests.upstream.recording_sink import (
    GET,
    NameServer,
    RecordingOwner,
    RecordingSink,
    connect,
    dialer,
    exchange,
    start,
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(authority: Authority, **more: object) -> TlsSettings:
    return TlsSettings(ca_file=authority.file, **more)  # type: ignore[arg-type]


async def refused(upstream: ScriptedUpstream, tls: TlsSettings, host: str = "127.0.0.1") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await connect(upstream.port, tls=tls, host=host)
    assert upstream.received == [b""] * len(upstream.connections)
    assert (caught.value.side, caught.value.retry) == (Side.UPSTREAM, Retry.NOTHING_SENT)
    return caught.value


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_upstream_that_proves_who_it_is(authority: Authority, version: ssl.TLSVersion):
    """Requests are answered one after the other over one connection, which speaks http/1.1 by ALPN."""
    context = server_context(authority.pair("127.0.0.1"), version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    owner = RecordingOwner()
    async with ScriptedUpstream(always(ok(b"body")), ssl=context) as upstream:
        connection = await connect(upstream.port, owner, tls=trusting(authority))
        for _ in range(3):
            sink = await exchange(connection)
            assert (sink.body, connection.reusable, connection.quiet()) == (b"body", True, True)
        tls = upstream.connections[0].transport.get_extra_info("ssl_object")
        assert (tls.version(), tls.selected_alpn_protocol()) == (version.name.replace("_", "."), "http/1.1")
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}

        connection.close()
        await owner.all_gone()


async def test_a_certificate_for_another_host(authority: Authority):
    """It is not believed, though its authority is."""
    async with ScriptedUpstream(ssl=server_context(authority.pair("other.example"))) as upstream:
        error = await refused(upstream, trusting(authority))
    assert error.error_type is ErrorType.TLS_CERTIFICATE_ERROR


async def test_a_certificate_of_an_unknown_authority(authority: Authority, tmp_path: Path):
    """It is not believed, neither with an authority of our own nor with the system's."""
    stranger = Authority(tmp_path, "stranger")
    async with ScriptedUpstream(ssl=server_context(stranger.pair("127.0.0.1"))) as upstream:
        assert (await refused(upstream, trusting(authority))).error_type is ErrorType.TLS_CERTIFICATE_ERROR
        assert (await refused(upstream, TlsSettings())).error_type is ErrorType.TLS_CERTIFICATE_ERROR


async def test_a_certificate_that_has_expired(authority: Authority):
    """It is not believed."""
    async with ScriptedUpstream(ssl=server_context(authority.pair("127.0.0.1", expired=True))) as upstream:
        assert (await refused(upstream, trusting(authority))).error_type is ErrorType.TLS_CERTIFICATE_ERROR


async def test_a_server_name_of_its_own(authority: Authority):
    """It is asked for and verified in place of the host, which would not match."""
    context = server_context(authority.pair("api.example"))
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with ScriptedUpstream(always(ok()), ssl=context) as upstream:
        connection = await connect(upstream.port, tls=trusting(authority, server_name="api.example"))
        await exchange(connection)
        connection.abort()
        assert asked == ["api.example"]
    async with ScriptedUpstream(ssl=context) as upstream:
        error = await refused(upstream, trusting(authority, server_name="api2.example"))
        assert error.error_type is ErrorType.TLS_CERTIFICATE_ERROR


async def test_a_name_with_a_dot_at_its_end(authority: Authority):
    """The dot says that a name is whole; certificates do not have it."""
    async with ScriptedUpstream(ssl=server_context(authority.pair("api.example"))) as upstream:
        opening = dialer(443, host="api.example.", tls=trusting(authority), resolver=NameServer(upstream.port))
        (await opening.dial(RecordingOwner(), WITHIN_S)).abort()


async def test_an_upstream_that_speaks_too_old_a_version(authority: Authority):
    """`min_version` 1.3 refuses 1.2."""
    context = server_context(authority.pair("127.0.0.1"), version=ssl.TLSVersion.TLSv1_2)
    with alerting_server(context) as port:
        with pytest.raises(GatewayError) as caught:
            await connect(port, tls=trusting(authority, min_version="1.3"))
        assert caught.value.error_type is ErrorType.TLS_ALERT_RECEIVED
        assert caught.value.retry is Retry.NOTHING_SENT
        owner = RecordingOwner()
        (await connect(port, owner, tls=trusting(authority))).abort()
        await owner.all_gone()


async def test_versions_before_1_2_are_never_spoken(authority: Authority):
    """Whatever the system's defaults are."""
    context = TlsContexts().get(trusting(authority))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_an_upstream_that_speaks_no_tls(authority: Authority):
    """Plain HTTP where TLS is due is a protocol error, and the request is not sent in the clear."""
    async with ScriptedUpstream(always(ok())) as upstream:
        with pytest.raises(GatewayError) as caught:
            await dialer(upstream.port, tls=trusting(authority)).dial(RecordingOwner(), 0.5)
        assert caught.value.error_type in {ErrorType.TLS_PROTOCOL_ERROR, ErrorType.CONNECTION_TIMEOUT}
        assert b"HTTP" not in b"".join(upstream.received)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_upstream_that_demands_a_certificate(authority: Authority, version: ssl.TLSVersion):
    """With ours it answers; without, TLS is what failed, also where 1.3 tells it only after the handshake."""
    ours = authority.pair("gateway", file="ours")
    context = server_context(authority.pair("127.0.0.1"), clients_of=authority, version=version)
    async with ScriptedUpstream(always(ok(b"welcome")), ssl=context) as upstream:
        tls = trusting(authority, cert_file=ours.cert, key_file=ours.key)
        connection = await connect(upstream.port, tls=tls)
        assert (await exchange(connection)).body == b"welcome"
        connection.abort()

    with alerting_server(context) as port:
        try:
            error = (await exchange(await connect(port, tls=trusting(authority)))).error
        except GatewayError as caught:
            error = caught
        assert error is not None
        assert error.error_type is ErrorType.TLS_ALERT_RECEIVED
        if version == ssl.TLSVersion.TLSv1_2 or error.retry is not Retry.NEVER:  # 1.3: before or after the request went
            assert error.retry is Retry.NOTHING_SENT


async def test_a_certificate_and_key_in_one_file(authority: Authority, tmp_path: Path):
    """`key_file` may be left out then."""
    pair = authority.pair("gateway", file="ours")
    both = tmp_path / "both.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    assert TlsContexts().get(TlsSettings(cert_file=both))


# ---- files that change


def test_files_that_stay_as_they_are(authority: Authority):
    """One context serves all settings that differ in the server's name alone."""
    contexts = TlsContexts()
    first = contexts.get(trusting(authority))
    assert contexts.get(trusting(authority)) is first
    assert contexts.get(trusting(authority, server_name="a")) is first
    assert contexts.get(trusting(authority, min_version="1.3")) is not first


async def test_an_authority_that_is_replaced(tmp_path: Path):
    """A changed ca_file is read again: the new upstream is believed, the old one no longer."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.file.read_bytes())
    tls = TlsSettings(ca_file=trusted)
    contexts = TlsContexts()
    async with (
        ScriptedUpstream(ssl=server_context(old.pair("127.0.0.1", file="a"))) as old_upstream,
        ScriptedUpstream(ssl=server_context(new.pair("127.0.0.1", file="b"))) as new_upstream,
    ):
        (await dialer(old_upstream.port, tls=tls, contexts=contexts).dial(RecordingOwner(), WITHIN_S)).abort()

        replacement = tmp_path / "replacement.pem"
        replacement.write_bytes(new.file.read_bytes())
        os.replace(replacement, trusted)  # noqa: PTH105

        (await dialer(new_upstream.port, tls=tls, contexts=contexts).dial(RecordingOwner(), WITHIN_S)).abort()
        with pytest.raises(GatewayError):
            await dialer(old_upstream.port, tls=tls, contexts=contexts).dial(RecordingOwner(), WITHIN_S)


def test_a_symbolic_link_that_is_swapped(tmp_path: Path):
    """As a mounted Kubernetes secret is replaced."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    link = tmp_path / "ca.pem"
    link.symlink_to(old.file)
    contexts = TlsContexts()
    first = contexts.get(TlsSettings(ca_file=link))
    link.unlink()
    link.symlink_to(new.file)
    assert contexts.get(TlsSettings(ca_file=link)) is not first


@pytest.mark.parametrize("fault", ["not PEM", "empty", "gone", "of another key"])
def test_a_new_file_that_cannot_be_used(
    authority: Authority, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
):
    """The former stays in force, with one line in the log however often it is asked for; then a good one is taken."""
    pair = authority.pair("gateway", file="ours")
    tls = trusting(authority, cert_file=pair.cert, key_file=pair.key)
    contexts = TlsContexts()
    first = contexts.get(tls)
    caplog.set_level(logging.WARNING, "proxy.tls")

    match fault:
        case "not PEM":
            pair.key.write_bytes(b"hello")
        case "empty":
            pair.cert.write_bytes(b"")
        case "gone":
            pair.cert.unlink()
        case _:
            pair.key.write_bytes(authority.pair("other", file="other").key.read_bytes() + b"\n")
    assert all(contexts.get(tls) is first for _ in range(3))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(pair.cert) in caplog.text
    assert "PRIVATE KEY" not in caplog.text

    authority.pair("gateway", "renewed", file="ours")
    assert contexts.get(tls) is not first
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ca_file": "missing.pem"}, "No such file"),
        ({"ca_file": "text.pem"}, "tls.ca_file"),
        ({"cert_file": "text.pem"}, "tls.cert_file"),
        ({"cert_file": "ours.pem", "key_file": "text.pem"}, "tls.key_file"),
        ({"cert_file": "ours.pem", "key_file": "other.key"}, "KEY_VALUES_MISMATCH"),
        ({"cert_file": "locked.pem", "key_file": "locked.key"}, "tls.key_file"),
        ({"key_file": "ours.key"}, "without tls.cert_file"),
    ],
)
def test_files_that_cannot_be_used_at_first(authority: Authority, tmp_path: Path, settings: dict[str, str], text: str):
    """They are an error of the configuration that names the file; a locked key never asks at the terminal."""
    authority.pair("gateway", file="ours")
    authority.pair("gateway", file="other")
    (tmp_path / "text.pem").write_text("hello")
    authority.pair("gateway", file="locked", passphrase=b"open sesame")

    with pytest.raises(ConfigurationError, match=text):
        TlsContexts().get(TlsSettings(**{key: tmp_path / name for key, name in settings.items()}))  # type: ignore[arg-type]


# ---- the end of a TLS connection


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_body_until_close_over_tls(authority: Authority, goodbye: bool):
    """With TLS's goodbye it is whole; without, anyone on the way may have cut it (RFC 9112 §9.8)."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nbody")
        await upstream.stall()
        upstream.close() if goodbye else upstream.cut()

    owner = RecordingOwner()
    async with ScriptedUpstream(script, ssl=server_context(authority.pair("127.0.0.1"))) as upstream:
        sink = start(await connect(upstream.port, owner, tls=trusting(authority)))
        await sink.until(lambda: sink.body == b"body")
        upstream.go_on()
        await sink.end()
        await owner.all_gone()

    if goodbye:
        assert sink.ended
    else:
        assert sink.error is not None
        assert sink.error.error_type is ErrorType.HTTP_RESPONSE_INCOMPLETE


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n", b""])
async def test_a_slow_sink_and_an_upstream_that_has_said_goodbye(authority: Authority, framing: bytes):
    """All of the body arrives, though the connection ended while the TLS layer still held some of it back."""
    size = 150_000
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + (framing % size if framing else b"") + b"\r\n"

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(head)
        await upstream.stall()
        upstream.send(b"x" * size)
        upstream.close()

    owner = RecordingOwner()
    async with ScriptedUpstream(script, ssl=server_context(authority.pair("127.0.0.1"))) as upstream:
        connection = await connect(upstream.port, owner, tls=trusting(authority))
        sink = RecordingSink()
        sink.hooks["on_head"] = connection.pause_reading
        connection.start(GET, method=b"GET", sink=sink, body_expected=False)
        await sink.until(lambda: sink.head is not None)
        upstream.go_on()
        server_side = upstream.connections[0]
        async with asyncio.timeout(WITHIN_S):
            while not (server_side.lost or sink.over):  # until all octets lie on our side
                await asyncio.sleep(0.001)  # noqa: TID251  # lets sockets work
                if server_side.transport.is_closing():
                    break
        await settle()
        connection.resume_reading()
        await sink.end()
        await owner.all_gone()

    assert sink.error is None
    assert len(sink.body) == size


async def test_a_half_read_response_that_is_given_up(authority: Authority):
    """The connection is cut at once, not drained until the upstream has sent it all."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not upstream.lost:
            await upstream.send_flowing(b"x" * MIB)

    owner = RecordingOwner()
    async with ScriptedUpstream(script, ssl=server_context(authority.pair("127.0.0.1"))) as upstream:
        connection = await connect(upstream.port, owner, tls=trusting(authority))
        sink = start(connection)
        await sink.until(lambda: bool(sink.pieces))
        connection.abort()
        seen = len(sink.body)
        await owner.all_gone()
        await upstream.connections[0].gone()

        assert len(sink.body) == seen
        assert not sink.over


async def test_an_idle_tls_connection_whose_upstream_leaves(authority: Authority):
    """The goodbye closes it, and its owner is told."""
    owner = RecordingOwner()
    async with ScriptedUpstream(answering(ok()), ssl=server_context(authority.pair("127.0.0.1"))) as upstream:
        connection = await connect(upstream.port, owner, tls=trusting(authority))
        await exchange(connection)
        upstream.connections[0].close()
        await owner.all_gone()
        assert connection.closed
