"""T17 and T26: whose token it is, and how often a client can make the gateway ask for another one."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote_plus

from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import RecordedRequest, ScriptedAuthorizationServer
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

# One credential differs from `same` in one input of the token request each; its value is the credential's name.
DIFFERING = {
    "endpoint": 'token_endpoint: "{url}?v=endpoint"',
    "client": "client_id: client",
    "secret": "client_secret: '${{secret}}'",
    "method": "token_endpoint_auth_method: client_secret_post",
    "scope": "scopes: [scope]",
    "audience": "audience: audience",
    "resource": "resource: ['https://resource.example']",
    "parameter": "endpoint_params: {{x: parameter}}",
    "header": "token_request_headers: {{X-Tenant: header}}",
}
SAME = {
    "token_endpoint": 'token_endpoint: "{url}"', "client_id": "client_id: a", "client_secret": "client_secret: '${{base}}'",
}  # fmt: skip
CREDENTIALS = ("same", "alike", *DIFFERING)


def configuration(server: ScriptedAuthorizationServer, upstream: ScriptedUpstream) -> str:
    """Returns a configuration with a credential and a route for each of them."""
    lines = ["version: 1", "listen: 127.0.0.1:0", "admin: 127.0.0.1:0", "credentials:"]
    for name in CREDENTIALS:
        own = DIFFERING.get(name, "required: false")
        given = [text for key, text in SAME.items() if not own.startswith(key + ":")]
        lines += [f"  {name}:", *("    " + text.format(url=server.url) for text in (*given, own))]
    lines.append("routes:")
    for name in CREDENTIALS:
        lines.append(f"  - {{name: {name}, match: {{path_prefix: /{name}}}, credential: {name},")
        lines.append(f"     upstream: 'http://127.0.0.1:{upstream.port}'}}")
    return "\n".join([*lines, ""])


def asker(asked: RecordedRequest) -> str:
    """Returns which credential a token request was made for."""
    head, form = asked.head.decode("latin-1"), dict(asked.form)
    basic = re.search(r"(?i)authorization: Basic (\S+)", head)
    if basic is None:
        return "method"
    client, _, secret = (unquote_plus(part) for part in b64decode(basic[1]).decode().partition(":"))
    for name, shown in {
        "endpoint": "v=endpoint" in head.split("\r\n")[0],
        "client": client == "client",
        "secret": secret == "the secret",
        "scope": form.get("scope") == "scope",
        "audience": form.get("audience") == "audience",
        "resource": "resource" in form,
        "parameter": form.get("x") == "parameter",
        "header": "X-Tenant: header" in head,
    }.items():
        if shown:
            return name
    return "same"


@on_both_loops
async def test_t17_credentials_that_differ_in_one_input(tmp_path: Path):
    """Each has a token of its own, and no request of many at once gets another's; two alike in all share one."""
    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(always(ok())) as upstream:
        environ = {"base": "a secret", "secret": "the secret"}
        async with running_gateway(configuration(server, upstream), tmp_path, environ=environ) as gateway:
            asking = [
                ask(gateway.port, request(b"GET", f"/{name}".encode())) for _ in range(20) for name in CREDENTIALS
            ]
            assert {200} == {answer.status for answer in await asyncio.gather(*asking)}
    tokens = {asker(asked): f"at-{number}" for number, asked in enumerate(server.requests, 1)}
    assert {"same", *DIFFERING} == set(tokens)
    assert len(tokens) == len(server.requests)
    seen = [
        (re.search(rb"^GET /(\w+)", one), re.search(rb"\r\nAuthorization: Bearer (\S+)\r\n", one))
        for connection in upstream.connections
        for one in connection.requests
    ]
    pairs = [(path[1].decode(), token[1].decode()) for path, token in seen if path and token]
    assert 20 * len(CREDENTIALS) == len(pairs)
    tokens["alike"] = tokens["same"]
    assert set(tokens.items()) == set(pairs)


@on_both_loops
async def test_t26_clients_that_provoke_401s(tmp_path: Path):
    """However many refusals there are, whoever causes them: one forced renewal in half a minute."""
    refusal = ok(b"", b'WWW-Authenticate: Bearer error="invalid_token"', status=b"401 Unauthorized")
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(always(refusal)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server) as gateway,
    ):

        async def provoke() -> None:
            async with connected(gateway.port) as client:
                for _ in range(30):
                    await client.send(request(b"GET"))
                    assert 401 == (await client.answer()).status

        await asyncio.gather(*(provoke() for _ in range(10)))
        assert 2 == len(server.requests)
        assert 300 <= sum(len(connection.requests) for connection in upstream.connections) <= 300 + 10
