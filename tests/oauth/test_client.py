"""One call of a token endpoint, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from proxy.clock import SystemClock
from proxy.errors import ErrorType
from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.client_auth import basic, hidden_texts
from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.oauth.response import Outcome, TokenRequestError
from proxy.oauth.transport import MAX_REPLY_OCTETS
from proxy.secret import Secret, SecretFile
from tests.oauth.registrations import SECRET, registration
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    json_reply,
    token_reply,
)

BOMB = gzip.compress(b" " * (20 * MAX_REPLY_OCTETS))  # a few kilobytes


@pytest.fixture
async def server() -> AsyncIterator[ScriptedAuthorizationServer]:
    async with ScriptedAuthorizationServer() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[TokenEndpointClient]:
    made = TokenEndpointClient(SystemClock())
    yield made
    await made.close()


async def failure(client: TokenEndpointClient, asked: Registration) -> TokenRequestError:
    """Makes a request that brings no token; whatever hangs on the error holds no secret."""
    with pytest.raises(TokenRequestError) as caught:
        await client.request(asked)
    link: BaseException | None = caught.value
    while link is not None:
        shown = repr(link) + str(link)
        assert not any(text in shown for text in hidden_texts(asked, Secret(SECRET)))
        link = link.__cause__ or link.__context__
    return caught.value


async def test_the_request_by_client_secret_basic(server, client):
    """What RFC 6749 §4.4.2 and §2.3.1 ask for goes out, once each, and nothing else of note."""
    asked = registration(server.url, scope="a b", token_request_headers=(("X-Tenant", "t1"),))
    grant = await client.request(asked)

    (request,) = server.requests
    assert grant.access_token.reveal() == "at-1"
    assert grant.expires_in == 3600
    assert request.line == b"POST /token HTTP/1.1"
    assert request.form == [("grant_type", "client_credentials"), ("scope", "a b")]
    assert request.values("authorization") == [basic(asked, Secret(SECRET))]
    assert request.values("content-type") == ["application/x-www-form-urlencoded"]
    assert request.values("accept") == ["application/json"]
    assert request.values("accept-encoding") == ["identity"]
    assert request.values("user-agent") == ["bearer-proxy"]
    assert request.values("x-tenant") == ["t1"]
    assert request.values("connection") == ["close"]
    assert request.values("host") == [f"127.0.0.1:{server.port}"]
    assert request.values("cookie") == request.values("transfer-encoding") == []


async def test_the_request_by_client_secret_post(server, client):
    """The credentials stand in the body, and in nothing else."""
    await client.request(registration(server.url, method=ClientAuthMethod.CLIENT_SECRET_POST))

    (request,) = server.requests
    assert request.form[1:] == [("client_id", "legacy-app"), ("client_secret", SECRET)]
    assert request.values("authorization") == []
    assert SECRET.encode() not in request.head


async def test_a_user_agent_of_the_operator_s_own(server, client):
    """It replaces ours."""
    await client.request(registration(server.url, token_request_headers=(("user-agent", "orders/2"),)))
    assert server.requests[0].values("user-agent") == ["orders/2"]


async def test_an_endpoint_with_a_query(server, client):
    """RFC 6749 §3.2: it is kept, octet by octet."""
    await client.request(registration(f"{server.url}//x%2fy?tenant=a%2Fb+c&x"))
    assert server.requests[0].line == b"POST /token//x%2fy?tenant=a%2Fb+c&x HTTP/1.1"


async def test_a_redirect(server, client):
    """It is not followed: the secret reaches nobody else."""
    async with ScriptedAuthorizationServer() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            server.script.append(Reply(status=status, fields=(("Location", elsewhere.url),)))
            error = await failure(client, registration(server.url))
            assert (error.outcome, error.status) == (Outcome.MALFORMED, status)
            assert "never followed" in (error.hint or "")
    assert elsewhere.requests == []


async def test_a_cookie(server, client):
    """It is not kept."""
    server.script.append(json_reply(access_token="at-1", token_type="Bearer", fields=(("Set-Cookie", "a=b"),)))
    await client.request(registration(server.url))
    await client.request(registration(server.url))
    assert server.requests[1].values("cookie") == []


async def test_proxy_variables_of_the_environment(server, client, monkeypatch):
    """They are not heeded: only the configuration says where secrets go."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await client.request(registration(server.url))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(body=b"x" * (5 * MAX_REPLY_OCTETS)), "longer than"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * (2 * MAX_REPLY_OCTETS)), "longer than"),
        (Reply(body=b"\x1f\x8b\x08\x00", fields=(("Content-Encoding", "gzip"),)), "compressed"),
        (Reply(body=BOMB, fields=(("Content-Encoding", "gzip"),)), "compressed"),
        (Reply(raw=b"SSH-2.0-OpenSSH\r\n\r\n"), "not HTTP"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), "not HTTP"),
    ],
    ids=["5 MiB", "2 MiB without length", "gzip", "gzip bomb", "not HTTP", "long field"],
)
async def test_replies_that_are_too_much(server, client, reply, reason):
    """They are malformed, no more of them is read than the bound, and nothing is inflated."""
    server.script.append(reply)
    error = await failure(client, registration(server.url))
    assert error.outcome is Outcome.MALFORMED
    assert reason in error.detail


@pytest.mark.parametrize(
    "reply",
    [Reply(raw=b""), Reply(raw=b"HTTP/1.1 200 OK\r\nCont"), Reply(body=b'{"access_token": "a"', announced=500)],
    ids=["closed at once", "cut in the head", "cut in the body"],
)
async def test_replies_that_break_off(server, client, reply):
    """They are failures of the network."""
    server.script.append(reply)
    assert (await failure(client, registration(server.url))).outcome is Outcome.CONNECT


async def test_a_server_that_does_not_answer(server, client):
    """The call ends with its timeout."""
    server.default = token_reply(gate=asyncio.Event())
    error = await failure(client, registration(server.url, timeout_s=0.2))
    assert (error.outcome, error.error_type) == (Outcome.TIMEOUT, ErrorType.HTTP_RESPONSE_TIMEOUT)


async def test_a_server_that_stops_in_its_reply(client):
    """The timeout bounds the whole call, not each part of it."""

    hung_up = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.01)  # noqa: TID251  # the drip itself
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        error = await failure(client, registration(f"http://127.0.0.1:{port}/token", timeout_s=0.3))
        await hung_up.wait()
    assert error.outcome is Outcome.TIMEOUT


async def test_a_server_that_is_down(client):
    """The reason is told in one word."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        error = await failure(client, registration(f"http://127.0.0.1:{reserved.getsockname()[1]}/token"))
    assert (error.outcome, error.error_type) == (Outcome.CONNECT, ErrorType.CONNECTION_REFUSED)


async def test_a_host_name_that_cannot_be_one(client):
    """Whatever the resolver makes of it, it is a failed token request."""
    error = await failure(client, registration(f"http://{'x' * 64}.localhost/token"))
    assert error.outcome in {Outcome.CONNECT, Outcome.MALFORMED}


async def test_a_server_that_was_restarted(server, client):
    """No stale connection stands in the way: each call has its own."""
    await client.request(registration(server.url))
    await server.stop()
    assert (await failure(client, registration(server.url))).outcome is Outcome.CONNECT
    await server.start()
    await client.request(registration(server.url))
    assert len(server.requests) == 2


async def test_a_call_that_is_cancelled(server, client):
    """Its connection is closed."""
    server.default = token_reply(gate=asyncio.Event())
    call = asyncio.create_task(client.request(registration(server.url)))  # noqa: TID251  # a caller of our own
    await until(lambda: len(server.requests) == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    await client.close()


async def test_a_client_that_was_closed(server, client):
    """It may be used again; closing twice does no harm."""
    await client.request(registration(server.url))
    await client.close()
    await client.close()
    await client.request(registration(server.url))


async def test_a_secret_that_was_rotated(server, client, tmp_path):
    """Each call reads the file anew."""
    file = tmp_path / "secret"
    file.write_text("first\n")
    asked = registration(server.url, client_secret=SecretFile(file), method=ClientAuthMethod.CLIENT_SECRET_POST)
    await client.request(asked)
    file.write_text("the second\n")
    await client.request(asked)
    assert [request.form[-1][1] for request in server.requests] == ["first", "the second"]


async def test_a_signing_key_that_was_rotated(server, client, tmp_path):
    """Each attempt has an assertion of its own, a failed one's successor too, by the key that the file holds then."""
    file = tmp_path / "key.pem"
    asked = registration(server.url, method=ClientAuthMethod.PRIVATE_KEY_JWT, private_key=SecretFile(file))
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    file.write_bytes(keys[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server.script.append(error_reply("server_error", 503))
    await failure(client, asked)
    await client.request(asked)
    file.write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    await client.request(asked)

    assertions = [dict(request.form)["client_assertion"] for request in server.requests]
    signers = (keys[0], keys[0], keys[1])
    shown = [jwt.decode(text, ECKey.import_key(key)) for text, key in zip(assertions, signers, strict=True)]
    assert 3 == len({token.claims["jti"] for token in shown})


async def test_a_secret_file_that_is_missing(server, client, tmp_path):
    """Nothing is sent, and the error names the file."""
    error = await failure(client, registration(server.url, client_secret=SecretFile(tmp_path / "none")))
    assert error.outcome is Outcome.INVALID_CLIENT
    assert "none" in error.detail
    assert server.requests == []


async def test_a_header_from_a_file_that_was_rotated(server, client, tmp_path):
    """As with a secret; what no header can hold is told, and nothing is sent."""
    file = tmp_path / "key"
    with pytest.raises(TokenRequestError, match="No such file"):
        await client.request(registration(server.url, token_request_headers=(("X-Key", SecretFile(file)),)))

    file.write_text("first\n")
    asked = registration(server.url, token_request_headers=(("X-Key", SecretFile(file)), ("X-Tenant", "t1")))
    await client.request(asked)
    file.write_text("the second\n")
    await client.request(asked)
    file.write_text("a third\nwith a line break\n")
    error = await failure(client, asked)

    assert [["first"], ["the second"]] == [request.values("x-key") for request in server.requests]
    assert [["t1"], ["t1"]] == [request.values("x-tenant") for request in server.requests]
    assert "X-Key" in error.detail
    assert "third" not in error.explained() + repr(error)


@pytest.mark.parametrize(("secret", "hint"), [("p+w d", "basic_form_encoding"), ("plain", "client_secret_post")])
async def test_invalid_client(server, client, secret, hint):
    """The error says what to look at; a description that quotes the secret is withheld."""
    server.default = error_reply("invalid_client", 401, error_description=f"secret {secret} is wrong")
    with pytest.raises(TokenRequestError) as caught:
        await client.request(registration(server.url, secret=secret))
    error = caught.value
    assert (error.outcome, error.error_code) == (Outcome.INVALID_CLIENT, "invalid_client")
    assert hint in (error.hint or "")
    assert secret not in error.explained() + repr(error)


@pytest.mark.parametrize("method", [method for method in ClientAuthMethod if not method.by_certificate])
async def test_what_is_logged(server, client, method, caplog):
    """No secret and no token, at any level, by us or by what we use."""
    caplog.set_level(logging.DEBUG)
    asked = registration(server.url, method=method, token_request_headers=(("X-Key", "subscription-key-1"),))
    await client.request(asked)
    server.script.extend([error_reply("invalid_client", 401), Reply(raw=b"nonsense\r\n\r\n"), Reply(status=302)])
    for _ in range(3):
        await failure(client, asked)
    server.default = token_reply(gate=asyncio.Event())
    await failure(client, replace(asked, timeout_s=0.1))
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert not any(text in logged for text in [*hidden_texts(asked, Secret(SECRET)), "at-1"])
