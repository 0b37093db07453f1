"""What `token` and `check --live` say of a failed token request: the stage, what is known of it, what to look at."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.oauth.registration import ClientAuthMethod, HttpProxy, Registration
from proxy.oauth.response import TokenRequestError
from proxy.process import diagnosis, grant
from proxy.secret import FixedSecret, OverlappingSecrets, Secret
from proxy.tls import TlsSettings
from proxy.tokens.access_token import CredentialName
from proxy.tokens.source import CredentialSettings
from tests.oauth.registrations import SECRET, registration
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    json_reply,
    token_reply,
)
from tests.upstream.certificates import Authority, alerting_server, server_context

HTML = Reply(404, b"<html><h1>Not here</h1></html>", (("Content-Type", "text/html"),))


async def told(given: Registration) -> list[str]:
    """Returns what is said of the failure; it holds no secret."""
    with pytest.raises(TokenRequestError) as caught:
        await grant.granted(CredentialSettings(name=CredentialName("orders"), registration=given), SystemClock())
    lines = await diagnosis.told(given, caught.value)
    assert SECRET not in "\n".join(lines)
    assert all(line and line.isprintable() for line in lines)
    return lines


async def answered(*replies: Reply, **members: object) -> list[str]:
    """Returns what is said when a server answers so."""
    async with ScriptedAuthorizationServer() as server:
        server.script.extend(replies)
        return await told(registration(server.url, **members))


def stage(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("stage: ")).removeprefix("stage: ")


def hint(lines: list[str]) -> str:
    return next((line for line in lines if line.startswith("hint: ")), "").removeprefix("hint: ")


# --- before there is a connection ------------------------------------------------------------------------------------


async def test_a_name_that_no_name_server_knows():
    """DNS."""
    lines = await told(registration("https://no-such-host.invalid/token", timeout_s=20.0))
    assert lines[0] == "the host name of the token endpoint has no address"
    assert stage(lines) == "DNS"
    assert "no-such-host.invalid: " in lines[2]
    assert "name servers" in hint(lines)


@on_both_loops
async def test_a_closed_port():
    """TCP: refused."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        lines = await told(registration(f"http://127.0.0.1:{port}/token"))
    assert lines == [
        "no connection to the token endpoint: connection refused",
        "stage: TCP",
        f"127.0.0.1:{port}: connection refused",
        "hint: nothing listens there: check host and port, and that the server runs",
    ]


async def test_a_name_with_addresses():
    """They are told: it may be another machine than the one that is meant."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        lines = await told(registration(f"http://localhost:{reserved.getsockname()[1]}/token"))
    assert stage(lines) == "TCP"
    assert lines[2].startswith("localhost: ")
    assert "127.0.0.1" in lines[2]


@contextmanager
def black_hole() -> Iterator[int]:
    """Yields a port that lets no further connection in and says nothing of it, as a firewall that drops."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = [socket.socket() for _ in range(4)]
        try:
            for one in queued:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for one in queued:
                one.close()


@on_both_loops
async def test_a_port_that_says_nothing():
    """TCP: no answer, as from a firewall."""
    with black_hole() as port:
        lines = await told(registration(f"https://127.0.0.1:{port}/token", timeout_s=0.4))
    assert lines[0] == "no whole reply within the timeout of 0.4 s"
    assert stage(lines) == "TCP"
    assert f"127.0.0.1:{port}: no answer to a connection within 0.4 s" in lines
    assert "firewall" in hint(lines)


@on_both_loops
async def test_a_server_that_accepts_and_says_nothing():
    """HTTP: the way is free, the answer does not come."""
    lines = await answered(token_reply(gate=asyncio.Event()), timeout_s=0.4)
    assert stage(lines) == "HTTP"
    assert any(line.endswith(": accepts connections") for line in lines)
    assert "raise timeout" in hint(lines)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def secured(
    authority: Authority, *names: str, expired: bool = False
) -> AsyncIterator[ScriptedAuthorizationServer]:
    pair = authority.pair(*names, expired=expired)
    async with ScriptedAuthorizationServer(tls=server_context(pair)) as server:
        yield server
        assert server.requests == []


@on_both_loops
async def test_an_expired_certificate(authority):
    """When it ended, and who issued it."""
    async with secured(authority, "127.0.0.1", expired=True) as server:
        lines = await told(registration(server.url, tls=TlsSettings(ca_file=authority.file)))
    assert lines[0] == (
        "the certificate of the token endpoint is not accepted: certificate has expired (verified for 127.0.0.1)"
    )
    assert stage(lines) == "TLS"
    assert "its certificate is for 127.0.0.1" in lines
    assert any(re.fullmatch(r"issued by CN=Test authority ca, valid from 20.* UTC to 20.* UTC", line) for line in lines)
    assert "new certificate" in hint(lines)


@on_both_loops
async def test_a_certificate_of_another_host(authority):
    """Which names it has, and how to tell that one is right."""
    async with secured(authority, "as.internal", "as2.internal") as server:
        lines = await told(registration(server.url, tls=TlsSettings(ca_file=authority.file)))
    assert "IP address mismatch" in lines[0]
    assert "its certificate is for as.internal, as2.internal" in lines
    assert "tls.server_name" in hint(lines)


async def test_a_name_that_was_told_wrong(authority):
    """The name that was verified is the configured one."""
    async with secured(authority, "as.internal") as server:
        lines = await told(registration(server.url, tls=TlsSettings(ca_file=authority.file, server_name="as.example")))
    assert "verified for as.example" in lines[0]
    assert stage(lines) == "TLS"


@on_both_loops
async def test_an_unknown_authority(authority):
    """Who issued it, and where its certificate is named."""
    async with secured(authority, "127.0.0.1") as server:
        lines = await told(registration(server.url))
    assert "unable to get local issuer certificate" in lines[0]
    assert any(line.startswith("issued by CN=Test authority ca, valid") for line in lines)
    assert "tls.ca_file" in hint(lines)


async def test_a_self_signed_certificate(tmp_path):
    """It says so."""
    from tests.oauth.certificates import self_signed

    made = self_signed(tmp_path, "as")
    async with ScriptedAuthorizationServer(tls=made.server_context()) as server:
        lines = await told(registration(server.url))
    assert "self-signed certificate" in lines[0]
    assert any(line.startswith("issued by CN=as (itself: self-signed), valid") for line in lines)
    assert "tls.ca_file" in hint(lines)


@on_both_loops
async def test_plain_http_at_an_https_address():
    """The port does not speak TLS."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listener:
        lines = await told(registration(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/token"))
    assert stage(lines) == "TLS"
    assert "scheme and port" in hint(lines)


@on_both_loops
async def test_a_server_that_wants_a_certificate(authority):
    """Its alert is told, and where the certificate is named."""
    context = server_context(authority.pair("127.0.0.1"), clients_of=authority)
    with alerting_server(context) as port:
        lines = await told(registration(f"https://127.0.0.1:{port}/token", tls=TlsSettings(ca_file=authority.file)))
    assert stage(lines) == "TLS"
    assert "certificate required" in "\n".join(lines[:-1])  # at the latest when the way is gone once more
    assert "tls.cert_file" in hint(lines)


@on_both_loops
async def test_a_server_with_old_tls_only(authority):
    """The version is what it is about, whether it says so in an alert or only hangs up."""
    context = server_context(authority.pair("127.0.0.1"), version=ssl.TLSVersion.TLSv1_2)
    tls = TlsSettings(ca_file=authority.file, min_version="1.3")
    async with ScriptedAuthorizationServer(tls=context) as server:
        lines = await told(registration(server.url, tls=tls))
    assert stage(lines) == "TLS"
    assert "tls.min_version" in hint(lines)
    with alerting_server(context) as port:
        lines = await told(registration(f"https://127.0.0.1:{port}/token", tls=tls))
    assert stage(lines) == "TLS"
    assert "protocol version" in lines[0]
    assert "tls.min_version" in hint(lines)


async def test_a_certificate_whose_names_are_made_up(authority):
    """What the server writes is cut; many names are counted."""
    names = ["as.example", *(f"host{number}.{'x' * 60}.{'y' * 60}.example" for number in range(8))]
    async with secured(authority, *names) as server:
        lines = await told(registration(server.url))
    (line,) = (line for line in lines if line.startswith("its certificate is for"))
    assert line.endswith("and 4 more")
    assert len(line) < 700


async def test_tls_files_that_cannot_be_used(tmp_path):
    """Nothing was sent, and nothing is tried."""
    lines = await told(registration("https://127.0.0.1:1/token", tls=TlsSettings(ca_file=tmp_path / "none.pem")))
    assert stage(lines) == "configuration"
    assert "tls section" in hint(lines)


# --- a proxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_demands_authentication(scheme):
    """407, to CONNECT as to a request."""
    async with ScriptedAuthorizationServer(
        default=Reply(raw=b"HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n")
    ) as proxy:
        lines = await told(
            registration(f"{scheme}://as.invalid/token", proxy=HttpProxy(url=f"http://127.0.0.1:{proxy.port}"))
        )
    assert "the proxy demands authentication" in lines[0]
    assert stage(lines) == "proxy"
    assert "proxy_url" in hint(lines)


@on_both_loops
async def test_a_proxy_that_refuses():
    """403 to CONNECT; the proxy's own credentials are not shown."""
    async with ScriptedAuthorizationServer(default=Reply(raw=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        through = HttpProxy(url=f"http://127.0.0.1:{proxy.port}", authorization=Secret("Basic cHJveHktc2VjcmV0"))
        lines = await told(registration("https://as.invalid/token", proxy=through))
    assert lines[0] == "the proxy refuses to connect to the token endpoint (HTTP 403 to CONNECT)"
    assert stage(lines) == "proxy"
    assert "cHJveHktc2VjcmV0" not in "\n".join(lines)


@on_both_loops
async def test_a_proxy_that_is_down():
    """The proxy, and not the server behind it, cannot be reached."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        proxy = HttpProxy(url=f"http://127.0.0.1:{reserved.getsockname()[1]}")
        lines = await told(registration("https://as.invalid/token", proxy=proxy))
    assert lines[0] == "no connection to the proxy: connection refused"
    assert stage(lines) == "proxy"


# --- HTTP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "reason", "said"),
    [
        (Reply(302, fields=(("Location", "https://elsewhere.example/login"),)), "redirects (HTTP 302)", "final URL"),
        (HTML, "not a token endpoint's reply (HTTP 404)", "path"),
        (Reply(200, b"<!doctype html>", (("Content-Type", "text/html"),)), "not a JSON object (HTTP 200)", "web page"),
        (Reply(502, b"<html>", (("Content-Type", "text/html"),)), "the server failed (HTTP 502)", ""),
        (Reply(raw=b"SSH-2.0-OpenSSH_9\r\n\r\n"), "not HTTP", "scheme and port"),
        (Reply(raw=b""), "closed before the reply", ""),
        (json_reply(429), "too many token requests (HTTP 429)", ""),
    ],
    ids=["redirect", "404 HTML", "200 HTML", "502", "not HTTP", "nothing", "429"],
)
async def test_a_reply_that_is_no_token_endpoint_s(reply, reason, said):
    """HTTP: where the request went is not where tokens come from, or not now."""
    lines = await answered(reply)
    assert reason in lines[0]
    assert stage(lines) == "HTTP"
    assert said in hint(lines)
    assert "elsewhere.example" not in "\n".join(lines)


# --- OAuth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "members", "said"),
    [
        (error_reply("invalid_client", 401), {"secret": "plain"}, "client_secret_post"),
        (error_reply("invalid_client", 401), {"secret": "a+b%c"}, "basic_form_encoding: false"),
        (error_reply("invalid_client", 401), {"secret": "a+b", "basic_form_encoding": False}, "most servers want it true"),
        (error_reply("invalid_client", 401), {"method": ClientAuthMethod.CLIENT_SECRET_POST}, "client_secret_basic"),
        (Reply(401), {"secret": "a+b"}, "basic_form_encoding"),
        (error_reply("invalid_request"), {"secret": "a+b", "basic_form_encoding": False}, "basic_form_encoding"),
        (error_reply("invalid_request"), {"secret": "plain"}, "a parameter is missing"),
        (error_reply("invalid_scope"), {"scope": "a.read"}, "misspelt"),
        (error_reply("invalid_scope"), {}, "set scopes"),
        (error_reply("unauthorized_client"), {}, "allow it the client_credentials grant"),
        (error_reply("unsupported_grant_type"), {}, "check token_endpoint"),
        (error_reply("invalid_target"), {}, "resource and audience"),
        (error_reply("access_denied", 403), {}, "policy"),
        (Reply(403), {"secret": "plain"}, "wrong secret or scope"),
        (Reply(403), {"secret": "a+b"}, "basic_form_encoding"),
    ],
    ids=[
        "invalid_client", "invalid_client, reserved characters", "invalid_client, not encoded", "invalid_client, post",
        "401 without a word", "invalid_request, not encoded", "invalid_request", "P20-invalid_scope", "invalid_scope, none asked",
        "P20-unauthorized_client", "P20-unsupported_grant_type", "P49-invalid_target", "access_denied", "403 without a word",
        "403, reserved characters",
    ],
)  # fmt: skip
async def test_a_refusal(reply, members, said):
    """OAuth: each has a hint of its own."""
    lines = await answered(reply, **members)
    assert stage(lines) == "OAuth"
    assert said in hint(lines)


async def test_what_the_server_says():
    """It is shown, cleaned; a secret in it is not."""
    lines = await answered(error_reply("invalid_client", 401, error_description="no \x1b[31mclient\r\nhere"))
    assert "the authorization server says: no [31mclient here" in lines
    lines = await answered(error_reply("invalid_client", 401, error_description=f"{SECRET} is wrong"))
    assert "the authorization server says: (withheld: it quotes a secret)" in lines


# --- what is odd and used --------------------------------------------------------------------------------------------


async def test_a_token_with_oddities():
    """A narrowed scope, an unreadable life, a clock that is wrong: each is a warning."""
    given = registration("https://as.example/token", scope="orders.read orders.write")
    async with ScriptedAuthorizationServer() as server:
        server.default = json_reply(
            access_token="token-of-the-tests",
            scope="orders.read",
            expires_in="soon",
            fields=(("Date", "Fri, 01 Jan 2010 00:00:00 GMT"),),
        )
        got = await grant.granted(
            CredentialSettings(
                name=CredentialName("orders"), registration=registration(server.url, scope="orders.read orders.write")
            ),
            SystemClock(),
        )
    scope, life, clock = grant.warnings(got, given)
    assert scope == "warning: asked for and not granted: orders.write"
    assert life == "warning: expires_in is a text that is no number; default_lifetime counts"
    assert re.fullmatch(r"warning: the authorization server's clock is \d+ s behind ours", clock)
    assert grant.summary(got, given)[-3:] == [scope, life, clock]


@pytest.mark.parametrize("refusals", [1, 2])
async def test_two_secrets(refusals):
    """The second is tried where the first is refused, as the gateway does; it is said which one works."""
    secrets = OverlappingSecrets((FixedSecret(Secret("current-secret")), FixedSecret(Secret("next-secret"))))
    async with ScriptedAuthorizationServer() as server:
        server.script.extend([error_reply("invalid_client", 401)] * refusals)
        asked = registration(server.url, client_secret=secrets, method=ClientAuthMethod.CLIENT_SECRET_POST)
        credential = CredentialSettings(name=CredentialName("orders"), registration=asked)
        if refusals == 2:
            with pytest.raises(TokenRequestError) as caught:
                await grant.granted(credential, SystemClock())
            assert stage(await diagnosis.told(asked, caught.value)) == "OAuth"
        else:
            lines = grant.warnings(await grant.granted(credential, SystemClock()), asked)
            assert lines == ["warning: the first client secret is refused; the token came by the second"]
    assert [dict(request.form)["client_secret"] for request in server.requests] == ["current-secret", "next-secret"]


async def test_the_commands(tmp_path, authority):
    """`token` and `check --live` say it on stderr, exit code 1; a narrowed scope on stdout."""
    async with secured(authority, "127.0.0.1", expired=True) as server:
        env = {
            "TOKEN_URL": server.url,
            "CLIENT_ID": "legacy-app",
            "CLIENT_SECRET": SECRET,
            "UPSTREAM_URL": "http://127.0.0.1:1",
        }
        token = await program.run("token", cwd=tmp_path, env=env)
        live = await program.run("check", "--live", cwd=tmp_path, env=env)
    for ended in (token, live):
        assert ended.code == 1
        assert "\n  stage: TLS\n" in ended.err
        assert "\n  issued by CN=Test authority ca, valid from " in ended.err
        assert "\n  hint: " in ended.err
        assert SECRET not in ended.err + ended.out
    async with ScriptedAuthorizationServer() as granting:
        granting.default = token_reply("token-of-the-tests", scope="a")
        token = await program.run("token", cwd=tmp_path, env=env | {"TOKEN_URL": granting.url, "SCOPE": "a b"})
        live = await program.run("check", "--live", cwd=tmp_path, env=env | {"TOKEN_URL": granting.url, "SCOPE": "a b"})
    assert token.code == 0
    assert "warning: asked for and not granted: b" in token.out
    assert "\n  warning: asked for and not granted: b" in live.out
