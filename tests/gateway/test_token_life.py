"""The token's life as clients and servers see it, a whole gateway over sockets: outages, slowness, refusals, rotation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.demo.authorization_server import Fault
from proxy.demo.servers import DemoServers
from proxy.tasks import Tasks
from tests.support.fake_clock import until
from tests.support.gateway import RunningGateway, running_gateway, simple_configuration
from tests.support.raw_client import Answer, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, error_reply, token_reply
from tests.support.scripted_upstream import Script, ScriptedConnection, ScriptedUpstream, always, ok

CLOCK = SystemClock()
SLACK_S = 4.0  # for a machine that does other things too
JITTER_S = 0.5  # by which two tries may arrive closer together than they were sent
GET = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
INVALID_TOKEN = b'WWW-Authenticate: Bearer realm="api", error="invalid_token"'


class FastClock:
    """A clock that runs ahead of real time by a factor, for what takes long in between."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._began_s = CLOCK.now()
        self._wall_s = CLOCK.wall()

    def now(self) -> float:
        return self._began_s + self._factor * (CLOCK.now() - self._began_s)

    def wall(self) -> float:
        return self._wall_s + self.now() - self._began_s

    async def sleep(self, seconds: float) -> None:
        await CLOCK.sleep(seconds / self._factor)


@dataclass(frozen=True)
class Seen:
    """One request of a client."""

    asked_at_s: float
    took_s: float
    answer: Answer

    @property
    def status(self) -> int:
        return self.answer.status


async def get(gateway: RunningGateway) -> Seen:
    asked_at_s = CLOCK.now()
    answer = await ask(gateway.port, GET)
    return Seen(asked_at_s, CLOCK.now() - asked_at_s, answer)


async def traffic(gateway: RunningGateway, over: Callable[[], bool], *, clients: int = 2) -> list[Seen]:
    """Lets clients ask, one request after the other, until it is over or half a minute has passed."""
    seen: list[Seen] = []

    async def client() -> None:
        while not over():
            seen.append(await get(gateway))
            await CLOCK.sleep(0.02)

    async with asyncio.timeout(30):
        await asyncio.gather(*(client() for _ in range(clients)))
    return seen


async def probed(gateway: RunningGateway, path: str) -> int:
    """Returns the status of one of the admin listener's probes."""
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.admin_url}{path}") as response:
        return response.status


async def replays(gateway: RunningGateway) -> dict[str, float]:
    """Returns what came of the requests that an upstream refused for their token, by result, zeros left out."""
    name = "bearer_proxy_token_replays_total"
    return {
        dict(labels)["result"]: value
        for (sample, labels), value in (await gateway.samples()).items()
        if sample == name and value
    }


def demo_configuration(servers: DemoServers, credential: str = "") -> str:
    settings = servers.settings()
    return simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"], credential=credential)


# ---- an authorization server that is down or slow


async def test_it_goes_after_the_first_token_and_comes_back(tmp_path: Path):
    """The token serves to its last usable moment, then 503 with Retry-After; the first 200 comes soon after its return."""
    async with DemoServers(clock=CLOCK, lifetime_s=6) as servers:
        text = demo_configuration(servers, "backoff: {max_without_token: 2s}")
        started_at_s = CLOCK.now()
        async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
            assert (await get(gateway)).status == 200
            await servers.authorization_server.stop()
            gone_at_s = CLOCK.now()

            seen = [await get(gateway)]
            while seen[-1].status == 200:
                await CLOCK.sleep(0.02)
                seen.append(await get(gateway))
            usable_s = 0.9 * 6
            assert seen[-1].asked_at_s + seen[-1].took_s >= started_at_s + usable_s
            assert {200} == {one.status for one in seen[:-1]}
            assert dict(servers.protected_api.refusals) == {}  # no expired token was sent

            reached = servers.protected_api.requests
            without_s = CLOCK.now()
            refused = [seen[-1], *await traffic(gateway, lambda: CLOCK.now() > without_s + 3)]
            assert {503} == {one.status for one in refused}
            assert all(int(one.answer.field(b"Retry-After") or 0) >= 1 for one in refused)
            assert "urn:bearer-proxy:problem:token-unavailable" == json.loads(refused[0].answer.body)["type"]
            assert reached == servers.protected_api.requests
            tries = await gateway.sample("bearer_proxy_token_requests_total", credential="main", outcome="connect")
            assert 2 <= tries <= CLOCK.now() - gone_at_s + 1

            await servers.authorization_server.start()
            back_at_s = CLOCK.now()
            returned = await traffic(gateway, lambda: servers.protected_api.requests > reached, clients=1)
            assert returned[-1].status == 200
            assert CLOCK.now() - back_at_s < 2 + 1 + SLACK_S
            assert servers.authorization_server.grants == 2


async def test_it_is_down_at_start(tmp_path: Path):
    """Alive and not ready, tries a second or more apart; ready by itself once it is up, and for good."""
    async with DemoServers(clock=CLOCK, lifetime_s=2) as servers:
        server, tasks = servers.authorization_server, Tasks()
        server.fault = Fault.DOWN
        tries: list[float] = []

        async def watch() -> None:
            while True:
                await server.until_requests(len(tries) + 1)
                tries.append(CLOCK.now())

        tasks.start(watch(), name="watch tries")
        text = demo_configuration(servers, "backoff: {max_without_token: 2s}")
        async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
            refused = await traffic(gateway, lambda: len(tries) >= 4)
            assert {503} == {one.status for one in refused}
            assert len(refused) > len(tries)
            assert (await probed(gateway, "/livez"), await probed(gateway, "/readyz")) == (200, 503)
            gaps = [later - earlier for earlier, later in pairwise(tries)]
            assert min(gaps) >= 1 - JITTER_S
            assert max(gaps) <= 2 + SLACK_S

            server.fault = None
            up_at_s = CLOCK.now()
            while await probed(gateway, "/readyz") != 200:
                await CLOCK.sleep(0.05)
            assert CLOCK.now() - up_at_s < 2 + 1 + SLACK_S
            assert (await get(gateway)).status == 200

            server.fault = Fault.DOWN
            while (await get(gateway)).status == 200:
                await CLOCK.sleep(0.05)
            assert await probed(gateway, "/readyz") == 200
        await tasks.stop()


async def test_it_is_down_for_minutes(tmp_path: Path):
    """It is asked thirty times a minute at most and never given up, however many requests wait for it."""
    minutes = 3
    clock = FastClock(40)
    async with DemoServers(clock=CLOCK) as servers:
        servers.authorization_server.fault = Fault.DOWN
        until_s = clock.now() + 60 * minutes
        async with running_gateway(
            demo_configuration(servers), tmp_path, environ=servers.settings(), clock=clock
        ) as gateway:
            refused = await traffic(gateway, lambda: clock.now() > until_s)
        assert {503} == {one.status for one in refused}
        assert 4 * minutes <= servers.authorization_server.requests <= 30 * minutes


async def test_it_takes_five_seconds(tmp_path: Path):
    """No request waits for a refresh while its token is usable, however long the refresh takes."""
    async with DemoServers(clock=CLOCK, lifetime_s=12) as servers:
        text = demo_configuration(servers, "refresh: {at_ratio: 0.1, jitter: 0}")
        async with running_gateway(text, tmp_path, environ=servers.settings()) as gateway:
            assert (await get(gateway)).status == 200
            waited = await gateway.sample("bearer_proxy_token_lookups_total", credential="main", result="waited")

            servers.authorization_server.delay_s = 5
            seen = await traffic(gateway, lambda: servers.authorization_server.grants == 2)
            seen.append(await get(gateway))

            assert {200} == {one.status for one in seen}
            assert max(one.took_s for one in seen) < 2.5
            assert dict(servers.protected_api.refusals) == {}
            assert servers.authorization_server.requests - servers.authorization_server.grants <= 1
            after = await gateway.sample("bearer_proxy_token_lookups_total", credential="main", result="waited")
            assert waited == after


# ---- an upstream that refuses the token


def refusing(*refused: bytes, answer: bytes, good: bytes = ok(b"fine")) -> Script:
    """Returns a script that gives this answer to requests with one of these tokens, and a good one to all others."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.request()
            connection.send(answer if any(b"Bearer %s\r\n" % token in request for token in refused) else good)

    return script


def refused_with(*fields: bytes, body: bytes = b"refused") -> bytes:
    return ok(body, *fields, status=b"401 Unauthorized")


def requests_of(upstream: ScriptedUpstream) -> list[bytes]:
    return [request for connection in upstream.connections for request in connection.requests]


def scripted_configuration(server: ScriptedAuthorizationServer, upstream: ScriptedUpstream, **extra: str) -> str:
    return simple_configuration(server.url, f"http://127.0.0.1:{upstream.port}", **extra)


SECRET = {"CLIENT_SECRET": "s3cret"}


async def test_a_hundred_requests_with_a_revoked_token(tmp_path: Path):
    """All of them are refused, half of them once the token is a new one; one renewal answers them all."""
    revoked = False

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.request()
            if revoked and b"Bearer at-1\r\n" in request:
                await connection.stall()
                connection.send(refused_with(INVALID_TOKEN))
            else:
                connection.send(ok(b"fine"))

    def with_new_token() -> int:
        return sum(b"Bearer at-2\r\n" in request for request in requests_of(upstream))

    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(script) as upstream,
        running_gateway(scripted_configuration(server, upstream), tmp_path, environ=SECRET) as gateway,
    ):
        assert (await get(gateway)).status == 200
        revoked = True
        asked = asyncio.gather(*(get(gateway) for _ in range(100)))
        await until(lambda: upstream.stalled == 100)
        upstream.go_on(50)
        await until(lambda: with_new_token() == 50)
        upstream.go_on(50)
        seen = await asked

        assert {(200, b"fine")} == {(one.status, one.answer.body) for one in seen}
        assert len(server.requests) == 2
        assert await replays(gateway) == {"ok": 100}
        assert with_new_token() == 100


async def test_an_upstream_that_refuses_every_token(tmp_path: Path):
    """Five seconds of load cause two grants more at most and one replay a client; the 401 is relayed as it is."""
    answer = refused_with(INVALID_TOKEN, b"X-Reason: every token", body=b"no, never")
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(always(answer)) as upstream,
        running_gateway(scripted_configuration(server, upstream), tmp_path, environ=SECRET) as gateway,
    ):
        over_at_s = CLOCK.now() + 5
        seen = await traffic(gateway, lambda: CLOCK.now() > over_at_s, clients=8)

        assert {(401, b"no, never")} == {(one.status, one.answer.body) for one in seen}
        assert {INVALID_TOKEN.partition(b": ")[2]} == {one.answer.field(b"WWW-Authenticate") for one in seen}
        assert {b"every token"} == {one.answer.field(b"X-Reason") for one in seen}
        assert len(server.requests) <= 1 + 2
        assert len(seen) <= len(requests_of(upstream)) <= len(seen) + 8
        results = await replays(gateway)
        assert results.keys() == {"still_unauthorized", "suppressed"}
        assert sum(results.values()) == len(seen)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([INVALID_TOKEN], id="invalid_token"),
        pytest.param([b"WWW-Authenticate: Bearer"], id="a Bearer challenge without an error"),
        pytest.param([], id="no challenge"),
        pytest.param([b'WWW-Authenticate: Basic realm="a, b", Bearer realm="c"'], id="a Bearer challenge among others"),
    ],
)
async def test_a_refusal_of_the_token(tmp_path: Path, fields: list[bytes]):
    """The token is renewed, the request sent once more, and the client sees the second answer alone."""
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(refusing(b"at-1", answer=refused_with(*fields))) as upstream,
        running_gateway(
            scripted_configuration(server, upstream), tmp_path, environ=SECRET, clock=FastClock(10)
        ) as gateway,
    ):
        answer = (await get(gateway)).answer

        assert (answer.status, answer.body) == (200, b"fine")
        assert (len(server.requests), len(requests_of(upstream))) == (2, 2)
        assert await replays(gateway) == {"ok": 1}


@pytest.mark.parametrize(
    ("status", "challenge"),
    [
        pytest.param(b"403 Forbidden", b'Bearer error="insufficient_scope"', id="403"),
        pytest.param(b"403 Forbidden", b'Bearer error="invalid_token"', id="403 that names the token"),
        pytest.param(b"401 Unauthorized", b'Basic realm="api"', id="a Basic challenge"),
        pytest.param(b"401 Unauthorized", b'Bearer error="insufficient_scope"', id="another Bearer error"),
    ],
)
async def test_a_refusal_of_something_else(tmp_path: Path, status: bytes, challenge: bytes):
    """It is the client's answer: relayed, nothing is renewed and nothing sent again."""
    answer = ok(b"as it is", b"WWW-Authenticate: " + challenge, status=status)
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(always(answer)) as upstream,
        running_gateway(scripted_configuration(server, upstream), tmp_path, environ=SECRET) as gateway,
    ):
        seen = [await get(gateway) for _ in range(2)]

        assert [int(status[:3])] * 2 == [one.status for one in seen]
        assert {b"as it is"} == {one.answer.body for one in seen}
        assert {challenge} == {one.answer.field(b"WWW-Authenticate") for one in seen}
        assert (len(server.requests), len(requests_of(upstream))) == (1, 2)
        assert await replays(gateway) == {}


async def test_a_second_refusal(tmp_path: Path):
    """It is relayed as it is; the first is not shown."""
    second = refused_with(b'WWW-Authenticate: Bearer realm="second", error="invalid_token"', body=b"the second")
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(refusing(b"at-1", answer=refused_with(INVALID_TOKEN), good=second)) as upstream,
        running_gateway(
            scripted_configuration(server, upstream), tmp_path, environ=SECRET, clock=FastClock(10)
        ) as gateway,
    ):
        answer = (await get(gateway)).answer

        assert (answer.status, answer.body) == (401, b"the second")
        assert answer.field(b"WWW-Authenticate") == b'Bearer realm="second", error="invalid_token"'
        assert (len(server.requests), len(requests_of(upstream))) == (2, 2)
        assert await replays(gateway) == {"still_unauthorized": 1}


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("octets", [1, 1024, 1025, 65536], ids=["1", "max", "max + 1", "64 max"])
async def test_a_refused_request_with_a_body(tmp_path: Path, octets: int, chunked: bool):
    """Up to max_replay_body it is sent again, octet for octet; a longer one arrives once, and the next request is served."""
    body = (b"0123456789abcdef" * 4096)[:octets]
    head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\n"
    framed = (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (octets, body)
        if chunked
        else b"Content-Length: %d\r\n\r\n%s" % (octets, body)
    )
    held = octets <= 1024
    async with (
        ScriptedAuthorizationServer() as server,
        ScriptedUpstream(refusing(b"at-1", answer=refused_with(INVALID_TOKEN))) as upstream,
        running_gateway(
            scripted_configuration(server, upstream, route="on_unauthorized: {max_replay_body: 1KiB}"),
            tmp_path,
            environ=SECRET,
            clock=FastClock(10),
        ) as gateway,
    ):
        answer = await ask(gateway.port, head + framed)
        arrived = requests_of(upstream)

        assert (answer.status, answer.body) == ((200, b"fine") if held else (401, b"refused"))
        assert len(arrived) == (2 if held else 1)
        if not chunked:
            assert {body} == {request.partition(b"\r\n\r\n")[2] for request in arrived}
        assert await replays(gateway) == {"ok" if held else "not_replayable": 1}
        assert (await get(gateway)).status == 200
        assert len(server.requests) == 2


# ---- a secret that is replaced


async def test_a_secret_file_is_replaced(tmp_path: Path):
    """The next grant uses the new secret; the token in use stays in use until then."""
    file = rotating(tmp_path, "first")
    async with (
        ScriptedAuthorizationServer(default=token_reply("at-one", expires_in=10)) as server,
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        running_gateway(rotated_configuration(server, upstream, file), tmp_path) as gateway,
    ):
        assert (await get(gateway)).status == 200
        rotating(tmp_path, "second")
        seen = await traffic(gateway, lambda: len(server.requests) == 2)

        assert {200} == {one.status for one in seen}
        assert ["first", "second"] == [dict(request.form)["client_secret"] for request in server.requests]


async def test_a_secret_is_replaced_at_the_server_first(tmp_path: Path):
    """The old one is refused; the file's new one is tried within a second or two, and no request notices."""
    file = rotating(tmp_path, "first")
    async with (
        ScriptedAuthorizationServer(default=token_reply("at-one", expires_in=10)) as server,
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        running_gateway(rotated_configuration(server, upstream, file), tmp_path) as gateway,
    ):
        assert (await get(gateway)).status == 200
        server.script.append(error_reply("invalid_client", 401))
        seen = await traffic(gateway, lambda: len(server.requests) == 2)
        rotating(tmp_path, "second")
        seen += await traffic(gateway, lambda: len(server.requests) == 3)

        assert {200} == {one.status for one in seen}
        assert ["first", "first", "second"] == [dict(request.form)["client_secret"] for request in server.requests]


def rotating(folder: Path, secret: str) -> Path:
    """Puts a secret into the file as a careful operator does: whole at every moment."""
    new, file = folder / "secret.new", folder / "secret"
    new.write_text(secret, encoding="utf-8")
    new.replace(file)
    return file


def rotated_configuration(server: ScriptedAuthorizationServer, upstream: ScriptedUpstream, file: Path) -> str:
    lines = "token_endpoint_auth_method: client_secret_post\nrefresh: {at_ratio: 0.1, jitter: 0}"
    text = scripted_configuration(server, upstream, credential=lines)
    return text.replace("client_secret: ${CLIENT_SECRET}", f"client_secret_file: {file}")
