"""The gateway with authorization servers that others wrote, and an API that asks them about every token."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.real.authorization_servers import AuthorizationServer, Client, RealServer, authlib_server, oidc_provider
from tests.real.introspecting_api import AUDIENCE, IntrospectingApi
from tests.support import program
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_client import Answer, ask

METHODS = ("client_secret_basic", "client_secret_post")
SECRETS = {
    "plain": "correct-horse-battery-staple",
    "colon": "before:after:",
    "plus": "before+after+",
    "percent": "before%after%",
    "percent-encoded": "before%41%2Bafter",
    "slash": "before/after/",
    "equals": "before=after=",
    "ampersand": "before&client_id=after&",
    "tilde": "before~after~",
    "quote": 'before"after"',
    "space": "before after",
    "all": ': + % / = & ~ " ; , \\ ? # @ $ ! * ( )',
}
RESERVED_ID = "team:legacy/app+1%41&x"


def registered(name: str, method: str) -> Client:
    return Client(client_id=f"{name}-{method}", client_secret=SECRETS[name], method=method)


CLIENTS = [
    *(registered(name, method) for name in SECRETS for method in METHODS),
    *(Client(client_id=f"{RESERVED_ID}-{method}", client_secret="s-1", method=method) for method in METHODS),
    Client(client_id="short", client_secret="s-2", lifetime_s=10),
]
PLAIN, RESERVED, SHORT = CLIENTS[0], CLIENTS[-3:-1], CLIENTS[-1]
WRONG = "not-the-secret-of-anyone"


ONLY_OIDC_PROVIDER = pytest.mark.parametrize("server", [oidc_provider], ids=["oidc-provider"], indirect=True)
ONLY_AUTHLIB = pytest.mark.parametrize("server", [authlib_server], ids=["authlib"], indirect=True)


@pytest.fixture(scope="module", params=[oidc_provider, authlib_server], ids=["oidc-provider", "authlib"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizationServer]:
    run: RealServer = request.param
    with run(CLIENTS, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
async def api(server: AuthorizationServer) -> AsyncIterator[IntrospectingApi]:
    async with IntrospectingApi(server) as running:
        yield running


def configuration(server: AuthorizationServer, api: IntrospectingApi, client: Client, *more: str) -> str:
    """One credential, whose id and secret come from the environment as an operator's do, and one route."""
    lines = "\n".join(f"    {line}" for line in (f"token_endpoint_auth_method: {client.method}", *more))
    return f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  real:
    token_endpoint: {server.token_endpoint}
    client_id: ${{CLIENT_ID}}
    client_secret: ${{CLIENT_SECRET}}
{lines}
routes:
  - name: all
    match: {{path_prefix: /}}
    upstream: {api.url}
    credential: real
"""


def variables(client: Client, secret: str | None = None) -> dict[str, str]:
    return {"CLIENT_ID": client.client_id, "CLIENT_SECRET": client.client_secret if secret is None else secret}


async def get(gateway: RunningGateway, path: str = "/orders") -> Answer:
    return await ask(gateway.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


# ---- the client's credentials


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SECRETS)
async def test_a_secret_and_a_method(
    server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, name: str, method: str
):
    """A request without a token is answered, with one that the server vouches for, whatever the secret holds."""
    client = registered(name, method)
    # Authlib undoes %-encoding alone: the `+` that stands for a space stays a plus. The setting is for such servers.
    half_decoded = server.name == "authlib" and " " in client.client_secret and method == "client_secret_basic"
    text = configuration(server, api, client, f"basic_form_encoding: {str(not half_decoded).lower()}")
    async with running_gateway(text, tmp_path, environ=variables(client)) as gateway:
        answer = await get(gateway, "/orders/7?x=1")

    assert answer.status == 200
    told = json.loads(answer.body)
    assert (told["client_id"], told["path"]) == (client.client_id, "/orders/7?x=1")
    assert (len(api.tokens), api.refused) == (1, 0)


@pytest.mark.parametrize("client", RESERVED, ids=METHODS)
async def test_a_client_id_with_reserved_characters(
    server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, client: Client
):
    """A colon within the id is not the one that ends it in Basic credentials."""
    text = configuration(server, api, client)
    async with running_gateway(text, tmp_path, environ=variables(client)) as gateway:
        answer = await get(gateway)

    assert answer.status == 200
    assert json.loads(answer.body)["client_id"] == client.client_id


@pytest.mark.parametrize("method", METHODS)
async def test_a_secret_that_is_being_rotated(
    server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, method: str
):
    """The first is refused, the second brings the token to the request that waits; the metric says which one works."""
    client = registered("plain", method)
    text = configuration(server, api, client).replace("${CLIENT_SECRET}", "['${OLD_SECRET}', '${CLIENT_SECRET}']")
    environ = {**variables(client), "OLD_SECRET": WRONG}
    async with running_gateway(text, tmp_path, environ=environ) as gateway:
        answer = await get(gateway)
        in_use = [
            await gateway.sample("bearer_proxy_client_secret_in_use", credential="real", index=index) for index in "01"
        ]
        refused = await gateway.sample("bearer_proxy_token_requests_total", credential="real", outcome="invalid_client")

    assert answer.status == 200
    assert (in_use, refused) == ([0, 1], 1)


@pytest.mark.parametrize("method", METHODS)
async def test_a_wrong_secret(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, method: str):
    """Requests get 503 and go nowhere, the server is asked once, and `bearer-proxy token` says why; nobody says what."""
    client = registered("plain", method)
    text = configuration(server, api, client)
    async with running_gateway(text, tmp_path, environ=variables(client, WRONG)) as gateway:
        answers = [await get(gateway) for _ in range(3)]
        asked = await gateway.sample("bearer_proxy_token_requests_total", credential="real", outcome="invalid_client")
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path, env=variables(client, WRONG))

    assert [503, 503, 503] == [answer.status for answer in answers]
    assert all(int(answer.field(b"Retry-After") or 0) >= 1 for answer in answers)
    assert json.loads(answers[0].body)["type"] == "urn:bearer-proxy:problem:token-unavailable"
    assert (asked, api.requests) == (1, 0)
    assert (ended.code, ended.out) == (1, "")
    assert "invalid_client" in ended.err
    assert "check client_id and client_secret" in ended.err
    assert WRONG not in ended.err


@ONLY_AUTHLIB  # oidc-provider takes either method from a client that is registered for one of them
async def test_the_wrong_method(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path):
    """A server that minds the method a client is registered for refuses the other, and the operator is told of it."""
    client = Client(client_id="plain-client_secret_post", client_secret=SECRETS["plain"])
    (tmp_path / "proxy.yaml").write_text(configuration(server, api, client), encoding="utf-8")
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path, env=variables(client))

    assert (ended.code, ended.out) == (1, "")
    assert "token_endpoint_auth_method: client_secret_post" in ended.err


@pytest.mark.parametrize(
    ("server", "encoding", "name", "explanation"),
    [
        (oidc_provider, "false", "percent", "not properly encoded"),
        (authlib_server, "true", "space", "set basic_form_encoding: false"),
    ],
    ids=["oidc-provider", "authlib"],
    indirect=["server"],
)
async def test_a_server_that_reads_basic_otherwise(
    server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, encoding: str, name: str, explanation: str
):
    """A secret sent in the form that the server does not read is refused, and the operator learns what is wrong."""
    client = registered(name, "client_secret_basic")
    text = configuration(server, api, client, f"basic_form_encoding: {encoding}")
    (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path, env=variables(client))

    assert (ended.code, ended.out) == (1, "")
    assert explanation in ended.err
    assert client.client_secret not in ended.err


# ---- the token


async def test_the_token_command(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path):
    """It prints a token that the server vouches for."""
    (tmp_path / "proxy.yaml").write_text(configuration(server, api, PLAIN), encoding="utf-8")
    ended = await program.run("token", "-c", "proxy.yaml", "--json", cwd=tmp_path, env=variables(PLAIN))

    assert ended.code == 0
    claims = await api.claims(json.loads(ended.out)["access_token"])
    assert claims is not None
    assert claims["client_id"] == PLAIN.client_id


async def test_a_scope(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path, caplog):
    """What is asked for arrives in the token; what the server leaves out without a word is a warning in the log."""
    text = configuration(server, api, PLAIN, "scopes: [orders.read, orders.delete]")
    with caplog.at_level(logging.WARNING, "proxy.tokens"):
        async with running_gateway(text, tmp_path, environ=variables(PLAIN)) as gateway:
            answer = await get(gateway)

    assert json.loads(answer.body)["scope"] == "orders.read"
    assert ["orders.delete"] == [record.fields.get("scope_missing") for record in caplog.records]


@ONLY_OIDC_PROVIDER  # Authlib knows no resource indicators
async def test_a_token_for_a_resource(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path):
    """A JWT is for the audience that the credential names, and passes the API's own check of signature and claims."""
    text = configuration(server, api, PLAIN, "scope: orders.write", f"resource: [{AUDIENCE}]")
    async with running_gateway(text, tmp_path, environ=variables(PLAIN)) as gateway:
        answer = await get(gateway)

    assert (answer.status, json.loads(answer.body)["scope"]) == (200, "orders.write")
    assert api.tokens[0].count(".") == 2

    other = configuration(server, api, PLAIN, "scope: orders.write", "resource: [https://api.example/other]")
    async with running_gateway(other, tmp_path, environ=variables(PLAIN)) as gateway:
        answer = await get(gateway)

    assert (answer.status, len(api.tokens)) == (401, 1)


async def test_short_tokens_under_traffic(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path):
    """Tokens are renewed while requests flow, and the API refuses none of them."""
    text = configuration(server, api, SHORT, "refresh: {at_ratio: 0.1, jitter: 0}")
    statuses = set()
    async with asyncio.timeout(30), running_gateway(text, tmp_path, environ=variables(SHORT)) as gateway:
        while len(api.tokens) < 3:
            answers = await asyncio.gather(*(get(gateway) for _ in range(5)))
            statuses.update(answer.status for answer in answers)
        granted = await gateway.sample("bearer_proxy_token_requests_total", credential="real", outcome="ok")

    assert statuses == {200}
    assert api.refused == 0
    assert len(api.tokens) <= granted <= len(api.tokens) + 1


async def test_a_revoked_token(server: AuthorizationServer, api: IntrospectingApi, tmp_path: Path):
    """The API refuses it, one renewal follows, and the client, body and all, notices nothing."""
    text = configuration(server, api, PLAIN)
    async with running_gateway(text, tmp_path, environ=variables(PLAIN)) as gateway:
        await get(gateway)
        await api.revoke(api.tokens[0])
        post = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\ntea"
        answer = await ask(gateway.port, post)
        replays = await gateway.sample("bearer_proxy_token_replays_total", route="all", result="ok")

    assert (answer.status, json.loads(answer.body)["body"]) == (200, "tea")
    assert (len(api.tokens), api.refused, replays) == (2, 1, 1)
