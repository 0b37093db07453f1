"""RFC 8414 and OpenID Connect Discovery: where metadata lies and what of it is believed; statements 28 to 32 and 34."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.discovery import REFRESHED_AFTER_S, RETRIED_AFTER_S
from proxy.oauth.metadata import locations, parse
from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.oauth.response import Outcome, TokenRequestError
from tests.config.written import MINIMAL, faults
from tests.oauth.registrations import registration
from tests.support import program
from tests.support.fake_clock import FakeClock, until
from tests.support.scripted_authorization_server import Reply, ScriptedAuthorizationServer, error_reply, json_reply
from tests.tokens.kept import WAIT_S, kept, settings


class Published:
    """An authorization server with an issuer, and a client whose time the test moves."""

    def __init__(self, server: ScriptedAuthorizationServer) -> None:
        self.server = server
        self.clock = FakeClock()
        self.client = TokenEndpointClient(self.clock)
        self.issuer = server.url.removesuffix("/token")

    @property
    def asked(self) -> Registration:
        return registration(None, issuer=self.issuer)

    def document(self, **members: Any) -> Reply:
        return json_reply(200, **{"issuer": self.issuer, "token_endpoint": self.server.url, **members})

    @property
    def paths(self) -> list[str]:
        """Method and target of each request since the last look."""
        lines = [" ".join(request.line.decode().split()[:2]) for request in self.server.requests]
        self.server.requests.clear()
        return lines


@pytest.fixture
async def published(server: ScriptedAuthorizationServer) -> AsyncIterator[Published]:
    made = Published(server)
    yield made
    await made.client.close()


INSERTED = "GET /.well-known/oauth-authorization-server"
APPENDED = "GET /.well-known/openid-configuration"
TOKEN = "POST /token"


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("https://h", ("https://h/.well-known/oauth-authorization-server", "https://h/.well-known/openid-configuration")),
        ("https://h/", ("https://h/.well-known/oauth-authorization-server", "https://h/.well-known/openid-configuration")),
        ("https://h/t1", ("https://h/.well-known/oauth-authorization-server/t1", "https://h/t1/.well-known/openid-configuration")),
        ("https://h:8/a/b/", ("https://h:8/.well-known/oauth-authorization-server/a/b", "https://h:8/a/b/.well-known/openid-configuration")),
    ],
    ids=["P28-host", "P28-slash", "P28-path", "P28-port and slash"],
)  # fmt: skip
def test_where_a_document_lies(issuer, expected):
    """§3: inserted between host and path, or appended as OpenID Connect has it."""
    assert locations(issuer) == expected


async def test_P28_both_places_in_a_fixed_order(published):
    """RFC 8414's first; the other only where there is nothing of use."""
    published.server.script.extend([published.document()])
    await published.client.request(published.asked)
    assert published.paths == [INSERTED, TOKEN]

    other = replace(published.asked, allow_plain_http=True)  # another key: nothing is in hand for it
    published.server.script.extend([Reply(status=404), published.document()])
    await published.client.request(other)
    assert published.paths == [INSERTED, APPENDED, TOKEN]


@pytest.mark.parametrize(
    "change",
    [lambda issuer: issuer + "/", str.upper, lambda _: "https://evil.example", lambda _: None, lambda issuer: [issuer]],
    ids=["P29-slash", "P29-case", "P29-another", "P29-none", "P29-a list"],
)
async def test_a_document_of_another_issuer(published, change):
    """§3.3: compared by every character, and not used: the secret goes nowhere."""
    published.server.default = published.document(issuer=change(published.issuer))
    with pytest.raises(TokenRequestError) as caught:
        await published.client.request(published.asked)
    assert caught.value.outcome is Outcome.MALFORMED
    assert "another issuer's" in caught.value.detail
    assert published.paths == [INSERTED, APPENDED]


@pytest.mark.parametrize(
    ("issuer", "fault"),
    [
        ("http://as.example", "plain http"),
        ("https://as.example?x", "no query"),
        ("https://as.example#x", "no fragment"),
        ("https://u:p@as.example", "no user information"),
    ],
    ids=["P30-plain", "P30-query", "P30-fragment", "P30-user"],
)
def test_what_is_no_issuer(issuer, fault):
    """§2: https, no query, no fragment; plain http is for loopback."""
    text = MINIMAL.replace("token_endpoint: https://as.example/token", f"issuer: {issuer}")
    assert fault in faults(text)[0]
    assert faults(text.replace(issuer, "http://127.0.0.1:1/t")) == []


async def test_P30_a_document_that_names_no_methods(published):
    """§2: it means client_secret_basic."""
    for method in (ClientAuthMethod.CLIENT_SECRET_BASIC, ClientAuthMethod.CLIENT_SECRET_POST):
        asked = registration(None, issuer=published.issuer, method=method)
        published.server.script.append(published.document())
        grant = await published.client.request(asked)
        assert (grant.doubt is None) is (method is ClientAuthMethod.CLIENT_SECRET_BASIC)
        published.client._discovery._kept.clear()


async def test_P31_a_method_that_is_not_listed(published, caplog):
    """A warning, once, and the method is used as configured: nothing is changed in silence."""
    published.server.script.append(published.document(token_endpoint_auth_methods_supported=["private_key_jwt"]))
    credential = replace(settings(published.server), registration=published.asked)
    with caplog.at_level(logging.WARNING, "proxy.tokens"):
        async with kept(published.server, credential) as running:
            await running.source.obtain(WAIT_S)
            await running.clock.advance(3600)
            await until(lambda: running.text() == "at-2")
    (record,) = caplog.records
    assert "does not list client_secret_basic, but: private_key_jwt" in record.fields["warning"]
    assert all(request.values("authorization") for request in published.server.requests[1:])


async def test_P31_a_method_that_is_not_listed_and_refused(published):
    """The hint says so too."""
    document = published.document(token_endpoint_auth_methods_supported=["private_key_jwt"])
    published.server.script.extend([document, error_reply("invalid_client", 401)])
    with pytest.raises(TokenRequestError) as caught:
        await published.client.request(published.asked)
    assert "does not list client_secret_basic" in (caught.value.hint or "")


async def test_P31_a_warning_of_check(published, tmp_path):
    """`check --live` and `token` tell it."""
    for command in (("check", "--live"), ("token",)):
        document = published.document(token_endpoint_auth_methods_supported=["private_key_jwt"])
        published.server.script.append(document)
        text = f"""\
credentials:
  orders: {{issuer: "{published.issuer}", client_id: a, client_secret: s}}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "{published.issuer}", credential: orders}}
"""
        (tmp_path / "proxy.yaml").write_text(text)
        ended = await program.run(command[0], "-c", "proxy.yaml", *command[1:], cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert "warning: the authorization server does not list client_secret_basic" in ended.out + ended.err


@pytest.mark.parametrize(
    "endpoint",
    ["http://as.example/token", "https://as.example/token#x", "https://u:p@as.example/token", "ftp://a/b", "/token", 7, None],
    ids=lambda endpoint: f"P31-{endpoint}",
)  # fmt: skip
async def test_an_endpoint_that_must_not_be_asked(published, endpoint):
    """It must be https, as a configured one; without one the document is of no use."""
    published.server.default = published.document(token_endpoint=endpoint)
    with pytest.raises(TokenRequestError, match="no token_endpoint that may be used"):
        await published.client.request(published.asked)
    assert TOKEN not in published.paths


def test_P31_an_endpoint_on_another_host():
    """It is the issuer's to say where."""
    asked = registration(None, issuer="https://as.example")
    body = b'{"issuer": "https://as.example", "token_endpoint": "https://tokens.other.example/t?x=1"}'
    assert parse(200, body, asked).endpoint_for(asked) == "https://tokens.other.example/t?x=1"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=503), Reply(status=302, fields=(("Location", "http://127.0.0.1:9/"),)), Reply(body=b"<html>"),
        Reply(body=b"[]"), Reply(body=b" " * (1024 * 1024 + 1)), Reply(raw=b"nonsense\r\n\r\n"), Reply(raw=b""),
    ],
    ids=["P32-503", "P32-redirect", "P32-HTML", "P32-list", "P32-too long", "P32-not HTTP", "P32-cut off"],
)  # fmt: skip
async def test_no_document_at_all(server, reply):
    """The failure is the token request's own, with its back-off; once the document is there, so is the token."""
    server.default = reply
    issuer = server.url.removesuffix("/token")
    credential = replace(settings(server), registration=registration(None, issuer=issuer))
    async with kept(server, credential) as running:
        with pytest.raises(Exception, match="token request failed"):
            await running.source.obtain(WAIT_S)
        tries = len(server.requests)
        assert running.status.consecutive_failures == 1
        assert running.text() is None
        assert len(server.requests) == tries, "it waits"
        server.default = None
        server.script.append(json_reply(200, issuer=issuer, token_endpoint=server.url))
        await running.clock.advance(60)
        assert (await running.source.obtain(WAIT_S)).field_value == b"Bearer at-1"


async def test_P32_the_last_good_document(published, caplog):
    """It stays in use while no newer one can be had; a newer one is asked for each day, and after failures."""
    published.server.script.append(published.document())
    await published.client.request(published.asked)
    await published.client.request(published.asked)
    assert published.paths == [INSERTED, TOKEN, TOKEN]

    published.clock.suspend(REFRESHED_AFTER_S)
    published.server.script.extend([Reply(status=503), Reply(status=503)])
    with caplog.at_level(logging.WARNING, "proxy.oauth.discovery"):
        await published.client.request(published.asked)
    assert published.paths == [INSERTED, APPENDED, TOKEN]
    assert "the former stays in use" in caplog.text
    await published.client.request(published.asked)
    assert published.paths == [TOKEN], "not again at once"
    published.clock.suspend(RETRIED_AFTER_S)
    published.server.script.append(published.document())
    await published.client.request(published.asked)
    assert published.paths == [INSERTED, TOKEN]


async def test_P32_an_endpoint_that_moved(published):
    """After a failure that a move would explain the document is asked for anew; after a refusal it is not."""
    published.server.script.extend([published.document(), error_reply("invalid_client", 401)])
    with pytest.raises(TokenRequestError):
        await published.client.request(published.asked)
    published.clock.suspend(RETRIED_AFTER_S)
    published.server.script.append(Reply(status=404))
    with pytest.raises(TokenRequestError):
        await published.client.request(published.asked)
    assert published.paths == [INSERTED, TOKEN, TOKEN]

    published.clock.suspend(RETRIED_AFTER_S)
    moved = published.server.url.replace("/token", "/moved")
    published.server.script.append(published.document(token_endpoint=moved))
    await published.client.request(published.asked)
    assert published.paths == [INSERTED, "POST /moved"]


async def test_P32_a_server_that_hangs_with_a_document_in_hand(published):
    """The search for a newer one takes a part of the time only: the token is asked for within the timeout."""
    published.server.script.append(published.document())
    asked = replace(published.asked, timeout_s=2.0)
    await published.client.request(asked)
    published.clock.suspend(REFRESHED_AFTER_S)
    published.server.script.append(Reply(gate=asyncio.Event()))
    await published.client.request(asked)
    assert published.paths[-1] == TOKEN
