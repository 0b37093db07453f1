"""Several credentials at one token endpoint: how many ask at once, and who is held back when it fails."""

from __future__ import annotations

import asyncio

import pytest

from proxy.oauth.response import Outcome
from proxy.secret import SecretFile
from proxy.tls import TlsSettings
from proxy.tokens.access_token import CredentialName, TokenState
from proxy.tokens.governor import MAX_CALLS, endpoint
from proxy.tokens.lifetime import STEADY_PAUSE_S
from proxy.tokens.source import CredentialSettings, TokenUnavailable
from tests.oauth.registrations import registration
from tests.support.fake_clock import settle, until
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    json_reply,
    token_reply,
)
from tests.tokens.kept import WAIT_S, Kept, kept, settings


def several(server: ScriptedAuthorizationServer, count: int, **members: object) -> list[CredentialSettings]:
    """Returns credentials of different clients at this server: `c0`, `c1`, …"""
    return [
        settings(server, f"c{number}", asks={"client_id": f"client-{number}"}, **members) for number in range(count)
    ]


async def outcome(running: Kept, number: int) -> Outcome | None:
    """Asks for the token of one of them, and returns how that ended."""
    try:
        await running.keepers.sources[CredentialName(f"c{number}")].obtain(WAIT_S)
    except TokenUnavailable as unavailable:
        return unavailable.outcome
    return Outcome.OK


def states(running: Kept) -> list[TokenState]:
    return [status.state for status in running.keepers.statuses()]


def idle(running: Kept) -> bool:
    """Tells whether no token request is running."""
    return all(status.next_try_in_s != 0 for status in running.keepers.statuses())


async def test_twenty_credentials_at_the_start(server):
    """Four ask at a time, in the order they came; everybody gets its token."""
    async with kept(server, *several(server, 20, required=True)) as running:
        gate = asyncio.Event()
        server.script.extend(token_reply(f"at-{number}", gate=gate) for number in range(20))
        running.keepers.start()
        await until(lambda: len(server.requests) == MAX_CALLS)
        await settle()
        assert server.parallel == MAX_CALLS
        gate.set()
        await until(lambda: running.keepers.ready)
        assert server.most_parallel == MAX_CALLS
        assert len(server.requests) == 20


async def test_a_client_that_stops_while_it_waits_for_its_turn(server):
    """Stopping ends those in the queue as well."""
    async with kept(server, *several(server, 9, required=True)) as running:
        server.default = token_reply(gate=asyncio.Event())
        running.keepers.start()
        await until(lambda: len(server.requests) == MAX_CALLS)
    assert len(server.requests) == MAX_CALLS


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_concerns_every_credential(server, status):
    """One is told to wait: no other asks before that, and each knows why."""
    server.script.append(json_reply(status, fields=(("Retry-After", "120"),)))
    async with kept(server, *several(server, 3)) as running:
        first = await outcome(running, 0)
        assert first in {Outcome.RATE_LIMITED, Outcome.SERVER_ERROR}
        for number in (1, 2):
            with pytest.raises(TokenUnavailable) as unavailable:
                await running.keepers.sources[CredentialName(f"c{number}")].obtain(WAIT_S)
            assert unavailable.value.outcome is first
            assert unavailable.value.retry_after_s == 120
        await running.clock.advance(119)
        assert len(server.requests) == 1
        await running.clock.advance(1)
        assert await outcome(running, 1) is Outcome.OK


async def test_retry_after_while_tokens_are_in_use(server):
    """They are used meanwhile; refreshes that are due wait, and come by themselves."""
    async with kept(server, *several(server, 3)) as running:
        assert [await outcome(running, number) for number in (0, 1)] == [Outcome.OK] * 2
        await running.clock.advance(2870)
        server.script.append(json_reply(429, fields=(("Retry-After", "100"),)))
        assert await outcome(running, 2) is Outcome.RATE_LIMITED
        await running.clock.advance(99)
        assert [await outcome(running, number) for number in (0, 1)] == [Outcome.OK] * 2
        assert states(running)[:2] == [TokenState.DUE] * 2
        assert len(server.requests) == 3
        await running.clock.advance(1)
        await until(lambda: states(running) == [TokenState.FRESH] * 3)


async def test_a_retry_after_of_nothing(server):
    """Nobody is held back."""
    server.script.append(json_reply(503, fields=(("Retry-After", "0"),)))
    async with kept(server, *several(server, 2)) as running:
        assert await outcome(running, 0) is Outcome.SERVER_ERROR
        assert await outcome(running, 1) is Outcome.OK


async def test_an_outage_that_several_found(server):
    """One of them tries at a time, 2.5 s apart; the others are told the reason and cause no request."""
    server.default = Reply(status=500)
    async with kept(server, *several(server, 40)) as running:
        for number in range(40):
            assert await outcome(running, number) is Outcome.SERVER_ERROR
        assert len(server.requests) == 3
        told = running.keepers.statuses()
        assert all("HTTP 500" in (status.last_error or "") for status in told[:3])
        await running.clock.advance(STEADY_PAUSE_S - 0.1)
        assert len(server.requests) == 3
        await running.clock.advance(0.1)
        await until(lambda: idle(running) and len(server.requests) == 4)
        assert server.most_parallel == 1


async def test_the_first_minute_of_an_outage_of_forty_credentials(server):
    """Thirty tries at most, all together; then everybody has its token within the pause that is promised."""
    server.default = Reply(status=503)
    async with kept(server, *several(server, 40, required=True)) as running:
        running.keepers.start()
        await until(lambda: idle(running))
        for _ in range(59):
            await running.clock.advance(1)
            await until(lambda: idle(running))
        assert 10 <= len(server.requests) <= 30
        server.default = None
        for _ in range(5):
            await running.clock.advance(1)
            await until(lambda: idle(running))
        assert running.keepers.ready
        assert states(running) == [TokenState.FRESH] * 40


async def test_one_credential_that_fails_alone(server, tmp_path):
    """The others are not held back by it, however often it fails."""
    server.default = Reply(status=500)
    async with kept(server, *several(server, 2)) as running:
        for _ in range(5):
            assert await outcome(running, 0) is Outcome.SERVER_ERROR
            await running.clock.advance(10)
            await until(lambda: idle(running))
        server.default = None
        assert await outcome(running, 1) is Outcome.OK


async def test_a_refusal_in_between(server):
    """It is an answer: the endpoint is up, whatever one client did wrong."""
    async with kept(server, *several(server, 4)) as running:
        server.script.extend(
            [
                Reply(status=500),
                Reply(status=500),
                error_reply("invalid_client", 401),
                Reply(status=500),
                token_reply("at"),
            ]
        )
        assert [await outcome(running, number) for number in range(3)] == [
            Outcome.SERVER_ERROR, Outcome.SERVER_ERROR, Outcome.INVALID_CLIENT,
        ]  # fmt: skip
        assert await outcome(running, 3) is Outcome.SERVER_ERROR
        assert len(server.requests) == 4


async def test_a_secret_file_that_is_missing_in_an_outage(server, tmp_path):
    """Nothing was sent, and so nothing is known of the endpoint: the outage goes on."""
    server.default = Reply(status=500)
    lost = settings(server, "lost", asks={"client_secret": SecretFile(tmp_path / "none")})
    async with kept(server, *several(server, 4), lost) as running:
        assert [await outcome(running, number) for number in (0, 1)] == [Outcome.SERVER_ERROR] * 2
        with pytest.raises(TokenUnavailable):
            await running.keepers.sources[CredentialName("lost")].obtain(WAIT_S)
        assert [await outcome(running, number) for number in (2, 3)] == [Outcome.SERVER_ERROR] * 2
        assert len(server.requests) == 3


async def test_an_outage_that_ends(server, caplog):
    """Both are told in the log, once; no more is held back."""
    caplog.set_level("INFO", "proxy.tokens")
    server.default = Reply(status=500)
    async with kept(server, *several(server, 6)) as running:
        for number in range(6):
            await outcome(running, number)
        server.default = None
        await running.clock.advance(STEADY_PAUSE_S)
        await until(lambda: TokenState.FRESH in states(running))
        await running.clock.advance(3)
        await until(lambda: states(running).count(TokenState.FRESH) == 3)
        assert [await outcome(running, number) for number in range(3, 6)] == [Outcome.OK] * 3
    lines = [record.message for record in caplog.records]
    assert lines.count("the token endpoint fails for several credentials: one of them asks at a time") == 1
    assert lines.count("the token endpoint answers again") == 1


async def test_a_try_that_takes_long_in_an_outage(server):
    """Nobody else asks meanwhile, and requests do not wait for it."""
    server.default = Reply(status=500)
    async with kept(server, *several(server, 5)) as running:
        for number in range(5):
            await outcome(running, number)
        gate = asyncio.Event()
        server.default = token_reply("late", gate=gate)
        await running.clock.advance(STEADY_PAUSE_S)
        await until(lambda: server.parallel == 1)
        asker = next(n for n, status in enumerate(running.keepers.statuses()) if status.next_try_in_s == 0)
        other = (asker + 1) % 5
        await running.clock.advance(3)
        assert await outcome(running, other) is Outcome.SERVER_ERROR
        assert server.parallel == 1
        gate.set()
        await until(lambda: TokenState.FRESH in states(running))
        await running.clock.advance(5)
        await until(lambda: states(running).count(TokenState.FRESH) == 3)


def test_what_is_one_endpoint(tmp_path):
    """The URL without its query, and the way there: a wrong authority's certificate of one credential is its own fault."""
    plain = endpoint(registration("https://as.example/token"))
    assert endpoint(registration("https://as.example/token?tenant=1", client_id="other")) == plain
    assert endpoint(registration("https://as.example/other")) != plain
    assert endpoint(registration("https://as.example/token", tls=TlsSettings(ca_file=tmp_path))) != plain
