"""RFC 6749 and 6750, as far as a client that asks for tokens and sends them has to follow them: one test a statement.

The number in a test's name is the statement's, 1 to 26 here; ``test_coverage`` finds those without a test.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from pathlib import Path

import pytest

from proxy.gateway.rescue import token_rejected
from proxy.http1.wire import ResponseHead
from proxy.oauth.registration import ClientAuthMethod
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from tests.config.written import MINIMAL, faults, with_credential
from tests.oauth.registrations import SECRET, private_key, registration
from tests.support.gateway import running_gateway, simple_configuration
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import Reply, error_reply, json_reply, token_reply
from tests.support.scripted_upstream import ScriptedUpstream, always, ok
from tests.tokens.kept import WAIT_S, kept

WITHOUT_TLS = [method for method in ClientAuthMethod if not method.by_certificate]
POST = ClientAuthMethod.CLIENT_SECRET_POST


async def failure(client, asked) -> TokenRequestError:
    with pytest.raises(TokenRequestError) as caught:
        await client.request(asked)
    return caught.value


# ---- the request


@pytest.mark.parametrize("method", WITHOUT_TLS)
async def test_P1_one_method_per_request(server, client, method):
    """§2.3: the client proves itself in one place, and in no other."""
    await client.request(registration(server.url, method=method))
    (request,) = server.requests
    names = [name for name, _ in request.form]
    ways = [bool(request.values("authorization")), "client_secret" in names, "client_assertion" in names]
    assert ways.count(True) == 1


@pytest.mark.parametrize(
    ("plain", "encoded"),
    [("a b", "a+b"), (":", "%3A"), ("%", "%25"), ("+", "%2B"), ("é", "%C3%A9")],
    ids=["P2-space", "P2-colon", "P2-percent", "P2-plus", "P2-beyond ASCII"],
)
async def test_basic_credentials(server, client, plain, encoded):
    """§2.3.1: id and secret are each form-urlencoded before they are joined and Base64-encoded."""
    await client.request(registration(server.url, client_id=plain, secret=plain))
    (value,) = server.requests[0].values("authorization")
    assert b64decode(value.removeprefix("Basic ")).decode() == f"{encoded}:{encoded}"


@pytest.mark.parametrize("method", WITHOUT_TLS)
async def test_P3_credentials_in_the_body_only_where_that_was_asked_for(server, client, method):
    """§2.3.1: and never in the request URI."""
    await client.request(registration(server.url, method=method))
    (request,) = server.requests
    assert (("client_secret", SECRET) in request.form) is (method is POST)
    assert request.line == b"POST /token HTTP/1.1"


async def test_P4_a_form_by_post(server, client):
    """§3.2 and Appendix B: UTF-8, form-urlencoded, no parameter twice but `resource`."""
    asked = registration(
        server.url, scope="a b", audience="é", resource=("urn:a", "urn:b"), endpoint_params=(("tenant", "t 1"),)
    )
    await client.request(asked)
    (request,) = server.requests
    assert request.line.startswith(b"POST ")
    assert request.values("content-type") == ["application/x-www-form-urlencoded"]
    assert b"audience=%C3%A9" in request.body
    names = [name for name, _ in request.form]
    assert {name for name in names if names.count(name) > 1} == {"resource"}
    assert "endpoint_params.grant_type" in faults(with_credential("endpoint_params: {grant_type: x}"))[0]


async def test_P5_a_parameter_without_a_value(server, client):
    """§3.2: it is not sent; without scopes there is no `scope`."""
    await client.request(registration(server.url, scope=None, audience="", endpoint_params=(("tenant", ""),)))
    assert server.requests[0].form == [("grant_type", "client_credentials")]


async def test_P6_the_query_of_the_endpoint(server, client):
    """§3.2: it is kept; a fragment is refused before anything is sent."""
    await client.request(registration(server.url + "?tenant=a%2Fb"))
    assert server.requests[0].line == b"POST /token?tenant=a%2Fb HTTP/1.1"
    assert "fragment" in faults(MINIMAL.replace("/token", "/token#x"))[0]


def test_P7_plain_http():
    """§3.2: it is refused beyond loopback, unless it was allowed by name; and nothing switches verification off."""
    plain = MINIMAL.replace("https://as.example", "http://as.example")
    assert "plain http" in faults(plain)[0]
    assert faults(plain.replace("${SECRET}", "${SECRET}\n    allow_plain_http: true")) == []
    assert faults(MINIMAL.replace("https://as.example", "http://127.0.0.1:1")) == []
    assert "unknown key" in faults(with_credential("tls: {verify: false}"))[0]


@pytest.mark.parametrize("scope", ["a  b", 'a"b', "a\\b", "é", "a\tb"], ids=lambda scope: f"P8-{scope!a}")
def test_a_scope_with_other_characters(scope):
    """§3.3: it is refused at its place in the file."""
    Path("scope").write_text("x")
    assert faults(with_credential("scope: ${SCOPE}"), SCOPE=scope)[0].startswith("6:12: credentials.orders.scope: ")


async def test_P8_scopes_as_written(server, client):
    """§3.3: case and order are kept."""
    await client.request(registration(server.url, scope="b A !#[]~"))
    assert ("scope", "b A !#[]~") in server.requests[0].form


async def test_P10_the_grant(server, client):
    """§4.4.2: client_credentials, by a client that authenticates: the method `none` is a configuration error."""
    await client.request(registration(server.url))
    assert server.requests[0].form[0] == ("grant_type", "client_credentials")
    assert (
        "token_endpoint_auth_method: expected one of" in faults(with_credential("token_endpoint_auth_method: none"))[0]
    )


# ---- the reply


async def test_P11_a_refresh_token(server, client, caplog):
    """§4.4.3: it is ignored, neither kept nor logged."""
    caplog.set_level(logging.DEBUG)
    server.script.append(token_reply("at-1", refresh_token="the-refresh-token"))
    grant = await client.request(registration(server.url))
    shown = [getattr(grant, name) for name in grant.__dataclass_fields__]
    assert "the-refresh-token" not in repr(shown) + caplog.text


async def test_P12_a_success_without_a_token(server, client):
    """§5.1: 200 without access_token is `malformed`; without token_type it is taken as Bearer."""
    server.script.append(json_reply(200, token_type="Bearer"))
    assert (await failure(client, registration(server.url))).outcome is Outcome.MALFORMED
    server.script.append(json_reply(200, access_token="at-1"))
    assert (await client.request(registration(server.url))).token_type == "Bearer"


async def test_P13_the_token_type(server, client):
    """§5.1, §7.1: in any letters; another type is not used."""
    server.script.extend([token_reply(token_type="bEARER"), token_reply(token_type="mac")])
    assert (await client.request(registration(server.url))).token_type == "Bearer"
    error = await failure(client, registration(server.url))
    assert (error.outcome, "not Bearer" in error.detail) == (Outcome.MALFORMED, True)


@pytest.mark.parametrize(
    ("told", "life"),
    [(3600, 3600), ("3600", 3600), (3600.9, 3600), (None, None), (True, None), ("soon", None), (-1, -1), (0, 0)],
    ids=["P14-whole", "P14-text", "P14-float", "P14-null", "P14-boolean", "P14-word", "P14-negative", "P14-zero"],
)
async def test_expires_in(server, client, told, life):
    """§5.1: read where its sense is plain, else as if it were absent."""
    server.script.append(token_reply(expires_in=told))
    assert (await client.request(registration(server.url))).expires_in == life


@pytest.mark.parametrize(
    "token", ["a b", "a\r\nX: y", "a\0b", "é", 'a"b', "x" * 20_000], ids=lambda token: f"P15-{token[:6]!a}"
)
async def test_a_token_that_fits_no_field(server, client, token):
    """§5.1 and RFC 6750 §2.1: refused before it could be put into one; a long one of right characters up to a limit."""
    server.script.append(token_reply(token))
    error = await failure(client, registration(server.url))
    assert error.outcome is Outcome.MALFORMED
    assert token not in error.explained()


async def test_P15_members_that_nobody_knows(server, client):
    """§5.1: they are ignored."""
    server.script.append(token_reply("a-._~+/9==", unknown={"a": [1]}))
    assert (await client.request(registration(server.url))).access_token.reveal() == "a-._~+/9=="


async def test_P16_a_reply_as_servers_send_it(server, client):
    """§5.1: JSON, whatever its content type says, with or without BOM; asked for by Accept, and read up to a mebibyte."""
    body = b'\xef\xbb\xbf{"access_token": "at-1", "token_type": "Bearer"}'
    server.script.append(Reply(body=body, fields=(("Content-Type", "text/plain"),)))
    assert (await client.request(registration(server.url))).access_token.reveal() == "at-1"
    assert server.requests[0].values("accept") == ["application/json"]
    server.script.append(Reply(body=b" " * (1024 * 1024) + body))
    assert "longer than" in (await failure(client, registration(server.url))).detail


async def test_P17_an_error(server, client):
    """§5.2: its code counts, in a 200 too; its description is for operators, cut and cleaned."""
    description = "no\r\n\x1b[31msuch client " + "x" * 400
    server.script.extend([
        error_reply("invalid_client", 401, error_description=description),
        error_reply("invalid_scope", 200),
    ])  # fmt: skip
    error = await failure(client, registration(server.url))
    assert (error.outcome, error.error_code, error.stage) == (Outcome.INVALID_CLIENT, "invalid_client", Stage.OAUTH)
    assert error.description is not None
    assert error.description.isprintable()
    assert len(error.description) <= 200
    assert (await failure(client, registration(server.url))).outcome is Outcome.INVALID_SCOPE


@pytest.mark.parametrize(
    "reply",
    [Reply(body=b"<html>"), Reply(body=b""), Reply(status=204), Reply(status=302, fields=(("Location", "/x"),))],
    ids=["P18-HTML", "P18-empty", "P18-204", "P18-redirect"],
)
async def test_a_reply_that_is_none(server, client, reply):
    """§5.1: an explained failure; a redirect is not followed."""
    server.script.append(reply)
    error = await failure(client, registration(server.url))
    assert error.outcome is Outcome.MALFORMED
    assert error.detail
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", WITHOUT_TLS)
async def test_P19_what_is_told_of_a_failure(server, client, method, caplog):
    """§10: no secret, no assertion and no body, even where the server repeats all it got."""
    caplog.set_level(logging.DEBUG)
    asked = registration(server.url, method=method)
    await client.request(asked)
    sent = [value for name, value in server.requests[0].form if name in {"client_secret", "client_assertion"}]
    sent += [value.removeprefix("Basic ") for value in server.requests[0].values("authorization")]
    server.script.append(error_reply("invalid_client", 401, error_description=server.requests[0].body.decode()))
    error = await failure(client, asked)
    for text in [*sent, SECRET, private_key()[40:80]]:
        assert text not in error.explained() + repr(error) + caplog.text


async def test_P20_a_refusal_and_an_outage(server):
    """A fault of the configuration is not tried again soon; Retry-After is waited for; the rest by back-off."""
    for reply, calm_s in (
        (error_reply("invalid_client", 401), 10),
        (Reply(status=503, fields=(("Retry-After", "40"),)), 39),
    ):
        server.requests.clear()
        server.default = reply
        async with kept(server) as running:
            running.chance.value = 0.999
            with pytest.raises(Exception, match=r"invalid_client|503"):
                await running.source.obtain(WAIT_S)
            await running.clock.advance(calm_s)
            assert len(server.requests) == 1


async def test_P21_a_life_that_began_before_the_request(server):
    """§5.1: expiry counts from the instant before the request was sent, and is checked at every read."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        assert token.obtained_at_s == 1000
        assert token.expires_at_s == 1000 + 3600
        running.clock.suspend(3600)  # nothing ran, no timer fired
        assert running.text() is None


# ---- the token's use (RFC 6750)


def head(status: int, *fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead((1, 1), status, b"", tuple(fields))


async def test_P22_one_way_of_sending_the_token(server):
    """§2: one Authorization line, `Bearer` and the token, whatever the client sent."""
    async with ScriptedUpstream(always(ok())) as upstream:
        text = simple_configuration(server.url, f"http://127.0.0.1:{upstream.port}")
        async with running_gateway(text, Path.cwd(), environ={"CLIENT_SECRET": "s"}) as gateway:
            lines = b"Authorization: Basic eA==\r\nauthorization: Bearer other\r\n"
            await ask(gateway.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        lines = upstream.connections[0].received.lower().split(b"\r\n")
    assert [line for line in lines if b"authorization" in line] == [b"authorization: bearer at-1"]


@pytest.mark.parametrize(
    ("query", "onward"),
    [
        (b"?b=c", b"?b=c"),
        (b"?access_token=x", b""),
        (b"?a=%2f+&access_token=x&b", b"?a=%2f+&b"),
        (b"?b=access_token&xaccess_token=1&access_tokens=2", b"?b=access_token&xaccess_token=1&access_tokens=2"),
        (b"?access%5Ftoken=x&%61ccess_token&c=%", b"?c=%"),
        (b"?", b"?"),
        (b"?&&a=%zz", b"?&&a=%zz"),
    ],
    ids=lambda query: f"P23-{query.decode()}",
)
async def test_a_token_in_a_query(server, query, onward):
    """§2.3: ours goes into the header alone, and the client's own does not go beside it; the rest stays as it is."""
    statuses = []
    async with ScriptedUpstream(always(ok())) as upstream:
        for rule in ("replace", "refuse"):
            text = simple_configuration(
                server.url, f"http://127.0.0.1:{upstream.port}", route=f"client_authorization: {rule}"
            )
            async with running_gateway(text, Path.cwd(), environ={"CLIENT_SECRET": "s"}) as gateway:
                answer = await ask(gateway.port, b"GET /a%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % query)
            statuses.append(answer.status)
        assert upstream.connections[0].received.startswith(b"GET /a%b HTTP/1.1\r\n" % onward)
    assert statuses == [200, 200 if query == onward else 400]


@pytest.mark.parametrize(
    ("status", "challenge", "renewed"),
    [
        (401, b'Bearer error="invalid_token"', True),
        (403, b'Bearer error="insufficient_scope"', False),
        (400, b'Bearer error="invalid_request"', False),
        (401, b'Bearer error="insufficient_scope"', False),
    ],
    ids=["P24-invalid_token", "P24-insufficient_scope", "P24-invalid_request", "P24-401 for another reason"],
)
def test_when_a_token_is_renewed(status, challenge, renewed):
    """§3.1: only where it is said to be no longer good."""
    assert token_rejected(head(status, (b"WWW-Authenticate", challenge))) is renewed


@pytest.mark.parametrize(
    ("values", "renewed"),
    [
        ([], True),
        ([b'Basic realm="a, Bearer", Bearer error="invalid_token"'], True),
        ([b'Basic realm="a"', b'Bearer realm="b"'], True),
        ([b'Basic realm="Bearer error=\\"invalid_token\\""'], False),
        ([b"Negotiate"], False),
    ],
    ids=["P25-absent", "P25-two in one field", "P25-two fields", "P25-within quotes", "P25-another scheme"],
)
def test_challenges(values, renewed):
    """§3: WWW-Authenticate is a list; absent, the token counts as refused."""
    assert token_rejected(head(401, *((b"WWW-Authenticate", value) for value in values))) is renewed


def test_P26_a_token_over_plain_http():
    """§5.3: an upstream beyond loopback must be https, unless it was allowed by name."""
    plain = MINIMAL.replace("https://api.example", "http://api.example")
    assert "would send the token over plain http" in faults(plain)[0]
    assert faults(plain + "    allow_plain_http: true\n") == []
