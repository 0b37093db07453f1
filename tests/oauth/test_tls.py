"""TLS towards token endpoints: verified always, and files read again when they change."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.errors import ConfigurationError, ErrorType
from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.response import Outcome, TokenRequestError
from proxy.tls import TlsContexts, TlsSettings
from tests.oauth.certificates import self_signed
from tests.oauth.registrations import registration
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.upstream.certificates import Authority, server_context


@pytest.fixture
async def client() -> AsyncIterator[TokenEndpointClient]:
    made = TokenEndpointClient(SystemClock())
    yield made
    await made.close()


async def outcome(client: TokenEndpointClient, url: str, **tls: Any) -> tuple[Outcome, ErrorType | None]:
    """Asks for a token and returns how that ended."""
    try:
        await client.request(registration(url, tls=TlsSettings(**tls) if tls else None))
    except TokenRequestError as error:
        return error.outcome, error.error_type
    return Outcome.OK, None


async def test_a_certificate_of_an_unknown_authority(client, tmp_path):
    """It is refused, unless the configuration names its authority."""
    made = self_signed(tmp_path, "as")
    async with ScriptedAuthorizationServer(tls=made.server_context()) as server:
        assert await outcome(client, server.url) == (Outcome.TLS, ErrorType.TLS_CERTIFICATE_ERROR)
        assert await outcome(client, server.url, ca_file=made.cert_file) == (Outcome.OK, None)
        assert len(server.requests) == 1


async def test_a_certificate_that_has_expired(client, tmp_path):
    """It is refused, though its authority is known and the host is right."""
    authority = Authority(tmp_path)
    for expired, expected in ((True, (Outcome.TLS, ErrorType.TLS_CERTIFICATE_ERROR)), (False, (Outcome.OK, None))):
        context = server_context(authority.pair("127.0.0.1", expired=expired))
        async with ScriptedAuthorizationServer(tls=context) as server:
            assert await outcome(client, server.url, ca_file=authority.file) == expected
            assert len(server.requests) == (0 if expired else 1)


async def test_a_certificate_of_another_host(client, tmp_path):
    """It is refused, unless the configuration names that host."""
    made = self_signed(tmp_path, "as", host="DNS:as.example")
    async with ScriptedAuthorizationServer(tls=made.server_context()) as server:
        assert (await outcome(client, server.url, ca_file=made.cert_file))[0] is Outcome.TLS
        named = {"ca_file": made.cert_file, "server_name": "as.example"}
        assert await outcome(client, server.url, **named) == (Outcome.OK, None)


async def test_a_certificate_that_the_server_asks_for(client, tmp_path):
    """It is shown; without it there is no token."""
    made, ours = self_signed(tmp_path, "as"), self_signed(tmp_path, "client", host="DNS:legacy-app")
    async with ScriptedAuthorizationServer(tls=made.server_context(client_ca=ours.cert_file)) as server:
        shown = {"cert_file": ours.cert_file, "key_file": ours.key_file}
        assert await outcome(client, server.url, ca_file=made.cert_file, **shown) == (Outcome.OK, None)
        assert (await outcome(client, server.url, ca_file=made.cert_file))[0] in {Outcome.TLS, Outcome.CONNECT}


async def test_a_server_of_an_older_version(client, tmp_path):
    """It is refused below `min_version`."""
    made = self_signed(tmp_path, "as")
    context = made.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with ScriptedAuthorizationServer(tls=context) as server:
        refused = await outcome(client, server.url, ca_file=made.cert_file, min_version="1.3")
        assert refused[0] in {Outcome.TLS, Outcome.CONNECT}  # it depends on whether the server says why it hangs up
        assert server.requests == []
        assert (await outcome(client, server.url, ca_file=made.cert_file))[0] is Outcome.OK


async def test_a_server_that_speaks_no_tls(client):
    """There is no step down to plain text."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(3))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    received: list[bytes] = []
    done = asyncio.Event()
    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert (await outcome(client, f"https://127.0.0.1:{port}/token"))[0] is Outcome.TLS
        await done.wait()
    assert received == [b"\x16\x03\x01"]  # a TLS handshake, and nothing before it


async def test_an_authority_that_was_replaced(client, tmp_path):
    """The file is read again; while it holds nothing of use, the former stays in force."""
    old, new = self_signed(tmp_path, "old"), self_signed(tmp_path, "new")
    ca_file = tmp_path / "ca.pem"
    shutil.copy(old.cert_file, ca_file)
    async with ScriptedAuthorizationServer(tls=old.server_context()) as server:
        assert (await outcome(client, server.url, ca_file=ca_file))[0] is Outcome.OK
        ca_file.write_text("half a cert")
        assert (await outcome(client, server.url, ca_file=ca_file))[0] is Outcome.OK
        ca_file.write_bytes(new.cert_file.read_bytes() + b"\n")
        assert (await outcome(client, server.url, ca_file=ca_file))[0] is Outcome.TLS
    async with ScriptedAuthorizationServer(tls=new.server_context()) as server:
        assert (await outcome(client, server.url, ca_file=ca_file))[0] is Outcome.OK


async def test_files_that_never_could_be_used(client, tmp_path):
    """It is an error, not a call without them."""
    made = self_signed(tmp_path, "as")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for tls in (
        {"ca_file": tmp_path / "none.pem"},
        {"ca_file": empty},
        {"cert_file": made.cert_file, "key_file": empty},
        {"cert_file": empty, "key_file": made.key_file},
    ):
        async with ScriptedAuthorizationServer(tls=made.server_context()) as server:
            assert (await outcome(client, server.url, **tls))[0] is Outcome.TLS
            assert server.requests == []


def test_a_context_that_is_asked_for_again(tmp_path):
    """It is the same one until a file changes; equal settings share it."""
    made = self_signed(tmp_path, "as")
    contexts = TlsContexts()
    settings = TlsSettings(ca_file=made.cert_file)

    first = contexts.get(settings)
    assert contexts.get(TlsSettings(ca_file=made.cert_file)) is first
    assert contexts.get(None) is not first
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    made.cert_file.write_bytes(made.cert_file.read_bytes() + b"\n")
    assert contexts.get(settings) is not first


def test_a_file_that_is_half_written(tmp_path, caplog):
    """The former context stays in force, and that is said once for each state of the file."""
    made = self_signed(tmp_path, "as")
    contexts = TlsContexts()
    first = contexts.get(TlsSettings(ca_file=made.cert_file))
    for text in ("", "half"):
        made.cert_file.write_text(text)
        assert all(contexts.get(TlsSettings(ca_file=made.cert_file)) is first for _ in range(3))
    made.cert_file.unlink()
    assert contexts.get(TlsSettings(ca_file=made.cert_file)) is first
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


def test_a_key_behind_a_password(tmp_path):
    """It is refused, and nobody is asked for a password."""
    made = self_signed(tmp_path, "as")
    key = tmp_path / "locked.key"
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match="cert_file"):
        TlsContexts().get(TlsSettings(cert_file=made.cert_file, key_file=key))
