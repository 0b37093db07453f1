"""The demonstration's protected API, asked over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.demo import DemoServers
from proxy.demo.protected_api import ProtectedApi
from proxy.demo.tokens import TokenAuthority
from tests.demo.moving_clock import MovingClock


def token(servers: DemoServers, lifetime_s: float = 10.0) -> str:
    return servers.tokens.issue(client_id="legacy-app", scope="orders.read", lifetime_s=lifetime_s).reveal()


def bearer(servers: DemoServers) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(servers)}"}


async def get(servers, http, path, headers=None):
    async with http.get(servers.protected_api.url + path, headers=headers or {}) as reply:
        return reply.status, reply.headers, await reply.read()


async def raw(servers: DemoServers, request: bytes) -> tuple[bytes, bytes]:
    """Sends octets as they are and returns the answer's head and body."""
    host, _, port = servers.protected_api.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def test_with_a_good_token(servers, http):
    """The request is served and counted."""
    status, _, body = await get(servers, http, "/orders", bearer(servers))

    assert status == 200
    assert [order["id"] for order in json.loads(body)["orders"]] == [1, 2, 7]
    assert (servers.protected_api.served, servers.protected_api.requests) == (1, 1)
    assert not servers.protected_api.refusals


async def test_the_scheme_in_lower_case(servers, http):
    """A scheme is compared without regard to case (RFC 9110 §11.1)."""
    assert (await get(servers, http, "/orders", {"Authorization": f"bearer {token(servers)}"}))[0] == 200


@pytest.mark.parametrize(
    ("headers", "reason", "challenge"),
    [
        ({}, "no_token", 'Bearer realm="orders"'),
        ({"Authorization": "Basic eDp5"}, "not_bearer", 'Bearer realm="orders"'),
        ({"Authorization": "Bearer"}, "not_bearer", 'Bearer realm="orders"'),
        ({"Authorization": "Bearer x"}, "malformed", 'Bearer realm="orders", error="invalid_token"'),
        ({"Authorization": "Bearer a.b.c"}, "signature", 'Bearer realm="orders", error="invalid_token"'),
    ],
)
async def test_without_a_good_token(servers, http, headers, reason, challenge):
    """401 with the challenge of RFC 6750 §3, which has an error only where a token was offered."""
    status, fields, _ = await get(servers, http, "/orders", headers)

    assert (status, fields["WWW-Authenticate"]) == (401, challenge)
    assert servers.protected_api.refusals == {reason: 1}
    assert servers.protected_api.served == 0


async def test_a_path_that_does_not_exist(servers, http):
    """Without a token even that is not told."""
    assert (await get(servers, http, "/nowhere"))[0] == 401
    assert (await get(servers, http, "/nowhere", bearer(servers)))[0] == 404


async def test_an_expired_token(servers, http, clock):
    """The API's own clock decides, to the moment."""
    headers = bearer(servers)
    clock.advance(9.999)
    assert (await get(servers, http, "/orders", headers))[0] == 200
    clock.advance(0.001)
    assert (await get(servers, http, "/orders", headers))[0] == 401
    assert servers.protected_api.refusals == {"expired": 1}


async def test_an_api_whose_clock_is_ahead(servers, http):
    """A token that its issuer still thinks good is refused by an API that lives later."""
    ahead = MovingClock()
    ahead.advance(60)
    api = ProtectedApi(tokens=servers.tokens, clock=ahead)
    await api.start()
    try:
        async with http.get(api.url + "/orders", headers=bearer(servers)) as reply:
            assert reply.status == 401
    finally:
        await api.stop()


async def test_a_token_for_another_audience(servers, http, clock):
    """A token of the same server for another API is no use."""
    other = TokenAuthority(clock=clock, audience="urn:other")
    other.issuer, other._signing_key = servers.tokens.issuer, servers.tokens._signing_key
    foreign = other.issue(client_id="legacy-app", scope="", lifetime_s=10).reveal()

    assert (await get(servers, http, "/orders", {"Authorization": f"Bearer {foreign}"}))[0] == 401
    assert servers.protected_api.refusals == {"audience": 1}


async def test_a_revoked_token(servers, http):
    """Revocation is seen at the next request."""
    headers = bearer(servers)
    servers.tokens.revoke_all()

    assert (await get(servers, http, "/orders", headers))[0] == 401
    assert servers.protected_api.refusals == {"revoked": 1}


async def test_refusing_on_demand(servers, http):
    """For tests: that many requests meet a 401, the next one does not."""
    servers.protected_api.refuse_next = 1
    headers = bearer(servers)
    status, fields, _ = await get(servers, http, "/orders", headers)

    assert (status, fields["WWW-Authenticate"]) == (401, 'Bearer realm="orders", error="invalid_token"')
    assert (await get(servers, http, "/orders", headers))[0] == 200


async def test_two_authorization_fields(servers):
    """400 invalid_request, even if both are good: the API cannot tell which one was meant (RFC 6750 §3.1)."""
    field = f"Authorization: Bearer {token(servers)}\r\n".encode()
    head, _ = await raw(servers, b"GET /orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + field * 2 + b"\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b'error="invalid_request"' in head
    assert servers.protected_api.refusals == {"several_fields": 1}
    assert servers.protected_api.seen[-1].authorization_fields == 2


async def test_who_am_i(servers):
    """The request is shown as it came, field for field; the token is not."""
    secret = token(servers)
    head, body = await raw(
        servers,
        b"GET /whoami?a=%2F&b HTTP/1.1\r\nHost: a\r\nX-b: 2\r\nx-B: 1\r\nConnection: close\r\n"
        + f"AUTHORIZATION: Bearer {secret}\r\n\r\n".encode(),
    )

    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == {
        "client_id": "legacy-app",
        "scope": "orders.read",
        "token_expires_in_s": 10.0,
        "token_expires_at": 1_800_000_010.0,
        "method": "GET",
        "path": "/whoami?a=%2F&b",
        "authorization_fields": 1,
        "fields": [
            ["Host", "a"],
            ["X-b", "2"],
            ["x-B", "1"],
            ["Connection", "close"],
            ["AUTHORIZATION", "***"],
        ],
    }
    assert secret not in repr(servers.protected_api.seen)


@pytest.mark.parametrize(("path", "status"), [("/orders/7", 200), ("/orders/8", 404), ("/orders/x", 404)])
async def test_one_order(servers, http, path, status):
    """An order by its number, or 404."""
    assert (await get(servers, http, path, bearer(servers)))[0] == status


async def test_posting_an_order(servers, http):
    """The body comes back with a number and a Location, and each one done is counted."""
    url = servers.protected_api.url + "/orders"
    async with http.post(url, json={"item": "tea"}, headers=bearer(servers)) as reply:
        assert (reply.status, reply.headers["Location"]) == (201, "/orders/1001")
        assert await reply.json() == {"id": 1001, "order": {"item": "tea"}}
    async with http.post(url, data=b"{", headers=bearer(servers)) as reply:
        assert reply.status == 400
    assert servers.protected_api.created == 1


async def test_a_slow_answer(servers, http, clock):
    """It waits on its clock for as long as was asked."""
    assert (await get(servers, http, "/slow?seconds=2.5", bearer(servers)))[0] == 200
    assert clock.slept == [2.5]


@pytest.mark.parametrize("seconds", ["x", "-1", "61", "nan", "inf"])
async def test_a_wait_that_makes_no_sense(servers, http, clock, seconds):
    """400, and nothing waits."""
    assert (await get(servers, http, f"/slow?seconds={seconds}", bearer(servers)))[0] == 400
    assert clock.slept == []


async def test_a_stream(servers, http, clock):
    """Lines come in chunks, with a pause between two."""
    status, fields, body = await get(servers, http, "/stream?lines=3&seconds=0.5", bearer(servers))

    assert (status, fields["Transfer-Encoding"]) == (200, "chunked")
    assert [json.loads(line)["line"] for line in body.splitlines()] == [1, 2, 3]
    assert clock.slept == [0.5, 0.5]


async def test_waiting_for_requests(servers, http):
    """Tests can wait until a number of requests has arrived, refused ones included."""
    waiting = asyncio.ensure_future(servers.protected_api.until_requests(2))  # noqa: TID251
    await get(servers, http, "/orders")
    assert not waiting.done()
    await get(servers, http, "/orders", bearer(servers))
    await waiting
