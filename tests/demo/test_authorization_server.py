"""The embedded authorization server, asked over real sockets."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import quote_plus

import aiohttp
import pytest

from proxy.demo.authorization_server import AuthorizationServer, DemoClient, Fault
from proxy.demo.tokens import TokenAuthority
from proxy.secret import Secret

GRANT = {"grant_type": "client_credentials"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def basic(servers, secret: str | None = None, *, encode: bool = True) -> dict[str, str]:
    """Returns the Basic field of RFC 6749 §2.3.1 for the demonstration's client."""
    texts = (servers.client.client_id, servers.client.client_secret.reveal() if secret is None else secret)
    pair = ":".join(quote_plus(text) if encode else text for text in texts)
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


async def post(servers, http, data, headers=None):
    """Returns status, fields and JSON of one token request."""
    async with http.post(servers.authorization_server.token_endpoint, data=data, headers=headers or {}) as reply:
        return reply.status, reply.headers, await reply.json()


async def refusal(servers, http, data, headers=None) -> tuple[int, str]:
    status, _, answer = await post(servers, http, data, headers)
    assert answer["error_description"]
    assert servers.authorization_server.grants == 0
    assert servers.authorization_server.refusals == {answer["error"]: 1}
    return status, answer["error"]


async def test_a_grant_with_basic(servers, http, clock):
    """The client gets a verifiable token, its type, its life and its scope, and nobody may cache them."""
    status, headers, answer = await post(servers, http, GRANT, basic(servers))

    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    token = answer.pop("access_token")
    assert answer == {"token_type": "Bearer", "expires_in": 10, "scope": "orders.read orders.write"}
    claims = servers.tokens.verify(token, now_s=clock.wall())
    assert claims.client_id == "legacy-app"
    assert claims.expires_at_s == clock.wall() + 10
    assert (servers.authorization_server.requests, servers.authorization_server.grants) == (1, 1)


async def test_a_grant_with_post(servers, http):
    """The same with id and secret in the body."""
    data = {**GRANT, "client_id": servers.client.client_id, "client_secret": servers.client.client_secret.reveal()}

    status, _, answer = await post(servers, http, data)

    assert (status, answer["token_type"]) == (200, "Bearer")
    assert servers.authorization_server.seen[-1].auth_method == "client_secret_post"


async def test_basic_without_form_encoding(servers, http):
    """The secret holds reserved characters, so a client that skips the encoding of RFC 6749 §2.3.1 is refused."""
    assert await refusal(servers, http, GRANT, basic(servers, encode=False)) == (401, "invalid_client")


async def test_a_server_that_does_not_decode(http, clock):
    """With basic_form_encoding off the raw secret is the right one."""
    client = DemoClient(client_id="a", client_secret=Secret("p+%25"), scopes=("x",))
    tokens = TokenAuthority(clock=clock, audience="urn:api")
    server = AuthorizationServer([client], tokens=tokens, clock=clock, basic_form_encoding=False)
    await server.start()
    try:
        field = {"Authorization": "Basic " + base64.b64encode(b"a:p+%25").decode()}
        async with http.post(server.token_endpoint, data=GRANT, headers=field) as reply:
            assert reply.status == 200
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("credentials", "value"),
    [
        ("wrong secret", "Basic bGVnYWN5LWFwcDp3cm9uZw=="),
        ("unknown client", "Basic eDp5"),
        ("not Base64", "Basic ***"),
        ("not UTF-8", "Basic /////w=="),
        ("another scheme", "Bearer abc"),
    ],
)
async def test_a_client_that_fails_to_authenticate(servers, http, credentials, value):
    """401 invalid_client with a Basic challenge (RFC 6749 §5.2)."""
    status, headers, answer = await post(servers, http, GRANT, {"Authorization": value})

    assert (status, answer["error"]) == (401, "invalid_client"), credentials
    assert headers["WWW-Authenticate"].startswith("Basic ")
    assert headers["Cache-Control"] == "no-store"


async def test_no_client_authentication(servers, http):
    """The grant is for clients that authenticate."""
    assert await refusal(servers, http, GRANT) == (401, "invalid_client")


async def test_two_methods_at_once(servers, http):
    """Exactly one method per request, even if both are right (RFC 6749 §2.3)."""
    data = {**GRANT, "client_id": "legacy-app", "client_secret": servers.client.client_secret.reveal()}

    assert await refusal(servers, http, data, basic(servers)) == (400, "invalid_request")


async def test_basic_and_another_client_id_in_the_body(servers, http):
    """A client is who it authenticated as."""
    assert await refusal(servers, http, {**GRANT, "client_id": "x"}, basic(servers)) == (400, "invalid_request")


async def test_credentials_in_the_uri(servers, http):
    """Credentials in the URI are refused, whatever else is sent."""
    url = servers.authorization_server.token_endpoint + "?client_secret=x"
    async with http.post(url, data=GRANT, headers=basic(servers)) as reply:
        assert (reply.status, (await reply.json())["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("situation", "body", "error"),
    [
        ("no grant type", "scope=orders.read", "invalid_request"),
        ("a grant type without a value", "grant_type=", "invalid_request"),
        ("another grant", "grant_type=password", "unsupported_grant_type"),
        ("a parameter twice", "grant_type=client_credentials&scope=a&scope=b", "invalid_request"),
        ("a scope of another", "grant_type=client_credentials&scope=orders.read+admin", "invalid_scope"),
        ("a malformed scope", "grant_type=client_credentials&scope=orders.read++orders.write", "invalid_scope"),
        ("another audience", "grant_type=client_credentials&audience=urn:other", "invalid_target"),
        ("one resource of two", "grant_type=client_credentials&resource=urn:demo:orders&resource=x", "invalid_target"),
        ("not UTF-8", "grant_type=client_credentials&x=%ff", "invalid_request"),
        ("too many parameters", "&".join(f"p{n}=1" for n in range(100)), "invalid_request"),
    ],
)
async def test_a_request_that_is_refused(servers, http, situation, body, error):
    """Each refusal carries the error of RFC 6749 §5.2 (RFC 8707 §2 for targets) and status 400."""
    assert await refusal(servers, http, body, {**FORM, **basic(servers)}) == (400, error), situation


async def test_a_body_that_is_not_a_form(servers, http):
    """JSON is not read."""
    headers = {"Content-Type": "application/json", **basic(servers)}

    assert await refusal(servers, http, '{"grant_type": "client_credentials"}', headers) == (400, "invalid_request")


async def test_a_narrower_scope(servers, http):
    """What was asked is granted, and an empty scope counts as none (RFC 6749 §3.2)."""
    _, _, narrow = await post(servers, http, {**GRANT, "scope": "orders.read"}, basic(servers))
    _, _, empty = await post(servers, http, {**GRANT, "scope": ""}, basic(servers))

    assert (narrow["scope"], empty["scope"]) == ("orders.read", "orders.read orders.write")


async def test_what_is_kept_of_a_request(servers, http):
    """Tests can see the parameters that were sent; the secret is in neither of its two places."""
    data = {**GRANT, "audience": "urn:demo:orders", "tenant": "t1"}
    await post(servers, http, data, {**basic(servers), "X-Tenant": "t1"})
    secret = servers.client.client_secret.reveal()
    await post(servers, http, {**data, "client_id": "legacy-app", "client_secret": secret})

    first, second = servers.authorization_server.seen
    assert first.parameters == tuple(data.items())
    assert "x-tenant" in first.field_names
    assert secret not in repr(first) + repr(second)
    assert secret not in repr(servers.client)


async def test_the_metadata_document(servers, http):
    """RFC 8414 §3: what a client needs to know stands where it looks for it."""
    issuer = servers.authorization_server.issuer
    async with http.get(issuer + "/.well-known/oauth-authorization-server") as reply:
        metadata = await reply.json()

    assert (metadata["issuer"], metadata["token_endpoint"]) == (issuer, f"{issuer}/token")
    assert metadata["grant_types_supported"] == ["client_credentials"]
    assert metadata["token_endpoint_auth_methods_supported"] == ["client_secret_basic", "client_secret_post"]


async def test_get_on_the_token_endpoint(servers, http):
    """The token endpoint is asked with POST (RFC 6749 §3.2)."""
    async with http.get(servers.authorization_server.token_endpoint) as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")


async def test_a_life_shorter_than_a_second(servers, http, clock):
    """A fraction of a second is told and kept."""
    servers.authorization_server.lifetime_s = 0.4
    _, _, answer = await post(servers, http, GRANT, basic(servers))

    assert answer["expires_in"] == 0.4
    assert servers.tokens.verify(answer["access_token"], now_s=clock.wall()).expires_at_s == clock.wall() + 0.4


async def test_a_delay_before_each_answer(servers, http, clock):
    """A slow server is asked of the clock, so tests need not wait for it."""
    servers.authorization_server.delay_s = 3.0
    await post(servers, http, GRANT, basic(servers))

    assert clock.slept == [3.0]


async def test_down(servers, http):
    """The connection is cut without an answer, and the request is counted."""
    servers.authorization_server.fault = Fault.DOWN

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(servers, http, GRANT, basic(servers))
    assert (servers.authorization_server.requests, servers.authorization_server.grants) == (1, 0)


async def test_slow(servers, http):
    """The request is held until the fault is changed, and then answered."""
    servers.authorization_server.fault = Fault.SLOW
    request = asyncio.ensure_future(post(servers, http, GRANT, basic(servers)))  # noqa: TID251
    await servers.authorization_server.until_requests(1)
    assert servers.authorization_server.grants == 0

    servers.authorization_server.fault = None

    assert (await request)[0] == 200


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault.SERVER_ERROR, 500, "Internal Server Error"),
        (Fault.RATE_LIMITED, 429, ""),
        (Fault.BAD_JSON, 200, '{"access_token": "ey'),
    ],
)
async def test_a_broken_answer(servers, http, fault, status, body):
    """What an authorization server in trouble says."""
    servers.authorization_server.fault = fault
    servers.authorization_server.retry_after_s = 7
    async with http.post(servers.authorization_server.token_endpoint, data=GRANT, headers=basic(servers)) as reply:
        assert (reply.status, await reply.text()) == (status, body)
        assert reply.headers.get("Retry-After") == ("7" if fault is Fault.RATE_LIMITED else None)
    assert servers.authorization_server.grants == 0


async def test_no_expiry(servers, http):
    """A good answer may lack expires_in (RFC 6749 §5.1)."""
    servers.authorization_server.fault = Fault.NO_EXPIRY
    status, _, answer = await post(servers, http, GRANT, basic(servers))

    assert (status, sorted(answer)) == (200, ["access_token", "scope", "token_type"])


async def test_stopped_and_started_again(servers, http, clock):
    """While it is stopped, connecting is refused; then it is back under the same URL and old tokens are good."""
    server = servers.authorization_server
    _, _, answer = await post(servers, http, GRANT, basic(servers))
    url = server.token_endpoint

    await server.stop()
    await server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(servers, http, GRANT, basic(servers))

    await server.start()
    assert server.token_endpoint == url
    servers.tokens.verify(answer["access_token"], now_s=clock.wall())
    assert (await post(servers, http, GRANT, basic(servers)))[0] == 200


async def test_started_twice(servers):
    """A second start would leave the first listener behind, so it is refused."""
    with pytest.raises(RuntimeError):
        await servers.authorization_server.start()


async def test_a_port_that_is_taken(servers, clock):
    """The error is the system's, and nothing is left half open."""
    tokens = TokenAuthority(clock=clock, audience="urn:api")
    second = AuthorizationServer([], tokens=tokens, clock=clock)
    taken = int(servers.authorization_server.issuer.rpartition(":")[2])

    with pytest.raises(OSError, match="address already in use"):
        await second.start(port=taken)
    await second.start()
    await second.stop()
