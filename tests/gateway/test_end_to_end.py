"""One real request through everything: a plain client, the gateway, an authorization server and an API that verifies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.demo.authorization_server import Fault
from proxy.demo.servers import DemoServers
from tests.support.gateway import RunningGateway, running_gateway, simple_configuration
from tests.support.raw_client import RawClient, ask


@pytest.fixture
async def servers() -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=SystemClock(), lifetime_s=60) as running:
        yield running


@pytest.fixture
async def gateway(servers: DemoServers, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(configuration(servers), tmp_path, environ=servers.settings()) as running:
        yield running


def configuration(servers: DemoServers, **extra: str) -> str:
    settings = servers.settings()
    return simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"], **extra)


async def test_a_plain_get_arrives_with_a_fresh_token(servers: DemoServers, gateway: RunningGateway):
    """A legacy client's request without any token reaches the protected API with one, and its answer comes back."""
    answer = await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert answer.status == 200
    assert len(json.loads(answer.body)["orders"]) == 3
    assert servers.authorization_server.grants == 1
    assert servers.protected_api.served == 1


async def test_a_post_arrives_whole(servers: DemoServers, gateway: RunningGateway):
    """A body with Content-Length and one in chunks reach the API octet for octet."""
    order = b'{"item":"spoons","quantity":4}'
    with_length = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = await ask(gateway.port, with_length + b"Content-Length: %d\r\n\r\n" % len(order) + order)
    assert (answer.status, json.loads(answer.body)["order"]["item"]) == (201, "spoons")

    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (5, order[:5], len(order) - 5, order[5:])
    answer = await ask(gateway.port, with_length + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (answer.status, json.loads(answer.body)["order"]["item"]) == (201, "spoons")
    assert servers.protected_api.created == 2


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"", id="none"),
        pytest.param(b"Authorization: Basic Zm9vOmJhcg==\r\n", id="another scheme"),
        pytest.param(b"authorization: Bearer stolen\r\nAUTHORIZATION: Bearer two\r\n", id="two, in other cases"),
        pytest.param(b"Connection: authorization\r\n", id="listed in Connection"),
        pytest.param(b"Authorization: x\r\nConnection: close, Authorization\r\n", id="sent and listed"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_exactly_one_authorization_whatever_the_client_sent(
    servers: DemoServers, gateway: RunningGateway, method: bytes, fields: bytes
):
    """The upstream sees one Authorization, ours."""
    body = b'{"item":"tea","quantity":1}' if method == b"POST" else b""
    framing = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) if body else b""
    request = method + b" /orders HTTP/1.1\r\nHost: localhost\r\n" + fields + framing + b"\r\n" + body

    assert (await ask(gateway.port, request)).status in {200, 201}

    assert [seen.authorization_fields for seen in servers.protected_api.seen] == [1]


@pytest.mark.parametrize("name", [b"X_Api_Token", b"x-api_token", b"X_Forwarded_For", b"Content_Length"])
async def test_a_misspelt_field_of_ours_is_refused(servers: DemoServers, tmp_path: Path, name: bytes):
    """A field that an upstream could read as the token's (WSGI and CGI read `_` as `-`) never arrives there."""
    text = configuration(servers, route="header_name: X-Api-Token")
    async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
        request = b"GET /whoami HTTP/1.1\r\nHost: localhost\r\n" + name + b": forged\r\n\r\n"
        assert 400 == (await ask(gateway.port, request)).status
    assert 0 == servers.protected_api.requests


async def test_without_a_token_nothing_reaches_the_upstream(servers: DemoServers, tmp_path: Path):
    """A token that cannot be had gives 503 with Retry-After, as a problem document; the API sees nothing."""
    servers.authorization_server.fault = Fault.SERVER_ERROR
    async with running_gateway(configuration(servers), tmp_path, environ=servers.settings()) as gateway:
        posted = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
        for request in (b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n", posted):
            answer = await ask(gateway.port, request)
            assert answer.status == 503
            assert int(answer.field(b"Retry-After") or b"0") >= 1
            assert answer.field(b"Content-Type") == b"application/problem+json"
            document = json.loads(answer.body)
            assert document["type"] == "urn:bearer-proxy:problem:token-unavailable"
            assert len(answer.body) <= 512
    assert servers.protected_api.requests == 0


@pytest.mark.parametrize("first_hangs_up", [False, True])
async def test_500_concurrent_first_requests_make_one_grant(servers: DemoServers, tmp_path: Path, first_hangs_up: bool):
    """However many ask for the first token at once, and whoever of them hangs up, it is asked for once."""
    servers.authorization_server.delay_s = 0.5
    text = configuration(servers, credential="required: false")
    async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
        request = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
        first = await RawClient.connect(gateway.port)
        await first.send(request)
        await servers.authorization_server.until_requests(1)
        if first_hangs_up:
            await first.close()
        answers = await asyncio.gather(*(ask(gateway.port, request) for _ in range(499)))
        if not first_hangs_up:
            answers.append(await first.answer())
            await first.close()
        assert {200} == {answer.status for answer in answers}
        assert servers.authorization_server.grants == 1


@pytest.mark.timeout(150)
async def test_60_s_of_traffic_with_10_s_tokens_never_waits(tmp_path: Path):
    """Tokens of 10 s whose grants take 1 s: after the first burst no request waits, and the API refuses none."""
    clock = SystemClock()
    async with DemoServers(clock=clock, lifetime_s=10) as servers:
        servers.authorization_server.delay_s = 1.0
        text = configuration(servers, credential="required: false")
        async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
            statuses: list[int] = []

            async def traffic(session: aiohttp.ClientSession, until: float) -> None:
                while clock.now() < until:
                    async with session.get(f"{gateway.url}/orders") as response:
                        statuses.append(response.status)
                        await response.read()
                    await clock.sleep(0.02)

            async with aiohttp.ClientSession() as session:
                await asyncio.gather(*(traffic(session, clock.now() + 2) for _ in range(10)))
                waited = await gateway.sample("bearer_proxy_token_lookups_total", credential="main", result="waited")
                assert 1 <= waited <= 10
                await asyncio.gather(*(traffic(session, clock.now() + 60) for _ in range(4)))

            after = await gateway.sample("bearer_proxy_token_lookups_total", credential="main", result="waited")
            assert waited == after
            assert {200} == set(statuses)
            assert dict(servers.protected_api.refusals) == {}
            assert 6 <= servers.authorization_server.grants <= 12
