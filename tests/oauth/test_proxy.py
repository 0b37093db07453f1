"""The way through an HTTP proxy, and no other: the environment's proxies and passwords are not heeded."""

from __future__ import annotations

import logging
import socket
from base64 import b64encode
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config.network import proxy_url
from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.registration import ClientAuthMethod, HttpProxy
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from proxy.tls import TlsSettings
from tests.oauth.certificates import self_signed
from tests.oauth.registrations import registration
from tests.support.gateway import running_gateway, simple_configuration
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, json_reply
from tests.support.scripted_upstream import ScriptedUpstream, always, ok
from tests.support.tunnelling_proxy import TunnellingProxy

USER_AND_PASSWORD = "Basic " + b64encode(b"gate way:c4nary:pw").decode()
SHOWN = "gate%20way:c4nary%3Apw@"


@pytest.fixture
async def client():
    made = TokenEndpointClient(SystemClock())
    yield made
    await made.close()


def through(proxy: TunnellingProxy, user_info: str = "") -> HttpProxy:
    return proxy_url(f"http://{user_info}127.0.0.1:{proxy.port}")


async def failure(client, asked) -> TokenRequestError:
    with pytest.raises(TokenRequestError) as caught:
        await client.request(asked)
    shown = (
        caught.value.explained() + repr(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
    )
    assert "c4nary" not in shown
    assert USER_AND_PASSWORD.removeprefix("Basic ") not in shown
    return caught.value


async def test_an_endpoint_by_https(client, tmp_path):
    """A tunnel by CONNECT: the proxy learns host and port, its own credentials, and nothing of the request."""
    made = self_signed(tmp_path, "as")
    async with (
        ScriptedAuthorizationServer(tls=made.server_context()) as server,
        TunnellingProxy(USER_AND_PASSWORD) as proxy,
    ):
        asked = registration(server.url, proxy=through(proxy, SHOWN), tls=TlsSettings(ca_file=made.cert_file))
        grant = await client.request(asked)
    assert grant.access_token.reveal() == "at-1"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"\r\nAuthorization:" not in head
    assert server.requests[0].values("proxy-authorization") == []


async def test_a_certificate_through_a_tunnel(client, tmp_path):
    """It is verified, and ours is shown, end to end: the proxy sees neither."""
    made, ours = self_signed(tmp_path, "as"), self_signed(tmp_path, "legacy", host="DNS:legacy.example")
    context = made.server_context(client_ca=ours.cert_file)
    async with ScriptedAuthorizationServer(tls=context) as server, TunnellingProxy() as proxy:
        tls = TlsSettings(ca_file=made.cert_file, cert_file=ours.cert_file, key_file=ours.key_file)
        asked = registration(server.url, proxy=through(proxy), tls=tls, method=ClientAuthMethod.TLS_CLIENT_AUTH)
        await client.request(asked)
        assert len(server.requests) == 1
        stranger = registration(server.url, proxy=through(proxy))
        error = await failure(client, stranger)
    assert (error.outcome, error.stage) == (Outcome.TLS, Stage.TLS)


async def test_an_endpoint_by_http(client):
    """Absolute-form to the proxy, whose credentials go no further."""
    async with ScriptedAuthorizationServer() as server, TunnellingProxy(USER_AND_PASSWORD) as proxy:
        await client.request(registration(server.url, proxy=through(proxy, SHOWN)))
    assert proxy.heads[0].startswith(f"POST {server.url} HTTP/1.1\r\n".encode())
    assert server.requests[0].values("proxy-authorization") == []


async def test_discovery_through_a_proxy(client):
    """The issuer is reached in the same way as its endpoint."""
    async with ScriptedAuthorizationServer() as server, TunnellingProxy() as proxy:
        issuer = server.url.removesuffix("/token")
        server.script.append(json_reply(200, issuer=issuer, token_endpoint=server.url))
        await client.request(registration(None, issuer=issuer, proxy=through(proxy)))
    assert [head.split(b" ")[0] for head in proxy.heads] == [b"GET", b"POST"]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_wrong_credentials(client, tmp_path, secure):
    """The proxy's 407 is told as the proxy's, by its name."""
    made = self_signed(tmp_path, "as")
    tls = TlsSettings(ca_file=made.cert_file)
    async with (
        ScriptedAuthorizationServer(tls=made.server_context() if secure else None) as server,
        TunnellingProxy("Basic b3RoZXI=") as proxy,
    ):
        error = await failure(client, registration(server.url, proxy=through(proxy, SHOWN), tls=tls))
    assert error.stage is Stage.PROXY
    assert "proxy_url" in (error.hint or "")
    assert server.requests == []


async def test_a_proxy_that_is_down(client):
    """Nothing goes by another way."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        proxy = HttpProxy(url=f"http://127.0.0.1:{reserved.getsockname()[1]}")
        async with ScriptedAuthorizationServer() as server:
            error = await failure(client, registration(server.url, proxy=proxy))
    assert (error.outcome, error.stage) == (Outcome.CONNECT, Stage.PROXY)
    assert server.requests == []


async def test_a_proxy_whose_name_is_unknown(client):
    """It is the proxy's name that is wrong, not the server's."""
    error = await failure(
        client, registration("http://127.0.0.1:1/token", proxy=HttpProxy(url="http://x.invalid:3128"))
    )
    assert error.detail == "the host name of the proxy has no address"


async def test_a_proxy_that_answers_nonsense(client):
    """It is an explained failure, and nothing was sent."""
    async with TunnellingProxy(refusal=b"HTTP/1.1 200 OK\r\nX: y") as proxy:
        asked = registration("https://127.0.0.1:1/token", proxy=through(proxy), timeout_s=0.3)
        error = await failure(client, asked)
    assert error.outcome in {Outcome.TIMEOUT, Outcome.CONNECT}


async def test_the_environment(client, tmp_path, monkeypatch):
    """Neither its proxies nor the passwords of a .netrc are used, with and without a proxy of ours."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("default login netrc-user password netrc-password\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with ScriptedAuthorizationServer() as server, TunnellingProxy() as proxy:
        post = ClientAuthMethod.CLIENT_SECRET_POST
        await client.request(registration(server.url, method=post))
        await client.request(registration(server.url, method=post, proxy=through(proxy)))
    assert [request.values("authorization") for request in server.requests] == [[], []]
    assert len(proxy.heads) == 1
    assert b"proxy-authorization" not in proxy.heads[0].lower()


async def test_a_whole_gateway(tmp_path: Path, caplog):
    """Its token comes through the proxy, its requests do not go there, and no log line tells the password."""
    caplog.set_level(logging.DEBUG)
    async with (
        ScriptedAuthorizationServer() as server,
        TunnellingProxy(USER_AND_PASSWORD) as proxy,
        ScriptedUpstream(always(ok())) as upstream,
    ):
        line = f"proxy_url: http://gate%20way:${{PASSWORD}}@127.0.0.1:{proxy.port}"
        text = simple_configuration(server.url, f"http://127.0.0.1:{upstream.port}", credential=line)
        environ = {"CLIENT_SECRET": "s", "PASSWORD": "c4nary%3Apw"}
        async with running_gateway(text, tmp_path, environ=environ) as gateway:
            answer = await ask(gateway.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.status == 200
    assert len(proxy.heads) == 1
    assert "c4nary" not in caplog.text
