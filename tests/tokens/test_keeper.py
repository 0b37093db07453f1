"""One token, kept fresh: who asks for it, who waits, and until when it is used."""

from __future__ import annotations

import asyncio
import gc

import pytest

from proxy.oauth.response import Outcome
from proxy.tokens.access_token import TokenState
from proxy.tokens.lifetime import HANDOVER_S, RefreshPolicy
from proxy.tokens.source import TokenUnavailable
from tests.support.fake_clock import settle, until
from tests.support.scripted_authorization_server import Reply, error_reply, token_reply
from tests.tokens.kept import WAIT_S, kept, settings


async def test_five_hundred_first_requests(server):
    """One token request serves them all."""
    async with kept(server) as running:
        tokens = await asyncio.gather(*(running.source.obtain(WAIT_S) for _ in range(500)))
        assert {token.field_value for token in tokens} == {b"Bearer at-1"}
        assert len(server.requests) == 1
        assert running.status.lookups.waited == 500


async def test_the_first_of_five_hundred_leaves(server):
    """Its leaving costs the others nothing: the token request goes on, once."""
    gate = asyncio.Event()
    server.script.append(token_reply("at-1", gate=gate))
    async with kept(server) as running:
        waiters = [asyncio.create_task(running.source.obtain(WAIT_S)) for _ in range(500)]  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        waiters[0].cancel()
        await settle()
        gate.set()
        tokens = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(tokens[0], asyncio.CancelledError)
        assert {token.generation for token in tokens[1:]} == {1}
        assert len(server.requests) == 1
        assert running.status.lookups.waited == 499
        assert running.status.lookups.failed == 0


@pytest.mark.parametrize("reply", [token_reply(), error_reply("invalid_client", 401)], ids=["token", "failure"])
async def test_all_who_wait_leave(server, caplog, reply):
    """The token request ends by itself, and nothing complains of an outcome that nobody took."""
    server.script.append(Reply(**{**reply.__dict__, "gate": (gate := asyncio.Event())}))
    async with kept(server) as running:
        waiters = [asyncio.create_task(running.source.obtain(WAIT_S)) for _ in range(5)]  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        gate.set()
        await until(lambda: running.status.last_outcome is not None)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_failure_with_waiters(server):
    """All learn of it at once; nobody starts another token request on its account."""
    gate = asyncio.Event()
    server.default = Reply(status=503, gate=gate)
    async with kept(server) as running:
        waiters = [asyncio.create_task(running.source.obtain(WAIT_S)) for _ in range(100)]  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        gate.set()
        failures = await asyncio.gather(*waiters, return_exceptions=True)
        assert all(isinstance(failure, TokenUnavailable) for failure in failures)
        assert {failure.outcome for failure in failures} == {Outcome.SERVER_ERROR}
        assert len({id(failure) for failure in failures}) == 100
        assert len(server.requests) == 1
        assert running.status.lookups.failed == 100


async def test_a_request_that_waits_too_long(server):
    """It fails with its own timeout; the token request goes on for the next."""
    gate = asyncio.Event()
    server.script.append(token_reply("at-1", gate=gate))
    async with kept(server) as running:
        with pytest.raises(TokenUnavailable) as unavailable:
            await running.source.obtain(0.05)
        assert unavailable.value.retry_after_s == 1
        gate.set()
        assert (await running.source.obtain(WAIT_S)).generation == 1
        assert len(server.requests) == 1


async def test_a_slow_refresh(server):
    """Nobody waits for it while the old token lives; the new one follows without a gap."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        server.script.append(token_reply("at-new", gate=(gate := asyncio.Event())))
        await running.clock.advance(2880)
        await until(lambda: len(server.requests) == 2)
        await running.clock.advance(700)
        assert [running.text() for _ in range(50)] == ["at-1"] * 50
        assert (await running.source.obtain(0)).generation == 1
        assert running.status.state is TokenState.DUE
        gate.set()
        await until(lambda: running.text() == "at-new")
        assert len(server.requests) == 2
        assert running.status.state is TokenState.FRESH
        assert running.status.lookups.failed == 0


async def test_a_refresh_ahead_of_requests(server):
    """It comes by itself: nobody needs to ask."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await running.clock.advance(2879)
        assert len(server.requests) == 1
        await running.clock.advance(1)
        await until(lambda: running.status.requests[Outcome.OK] == 2)
        assert running.text() == "at-2"


async def test_the_life_counts_from_before_the_request(server):
    """A slow reply does not make the token live longer."""
    server.script.append(token_reply("at-1", expires_in=100, gate=(gate := asyncio.Event())))
    async with kept(server) as running:
        waiter = asyncio.create_task(running.source.obtain(WAIT_S))  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        await running.clock.advance(60)
        gate.set()
        token = await waiter
        assert token.expires_at_s - running.clock.now() == 40
        assert token.usable_until_s - running.clock.now() == 30
        assert running.status.usable_for_s == 30


async def test_a_reply_that_takes_longer_than_its_token_lives(server):
    """The token is not used; that is a failure."""
    server.script.append(token_reply("at-1", expires_in=100, gate=(gate := asyncio.Event())))
    async with kept(server) as running:
        waiter = asyncio.create_task(running.source.obtain(WAIT_S))  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        await running.clock.advance(90)
        gate.set()
        with pytest.raises(TokenUnavailable):
            await waiter
        assert running.source.current() is None
        assert running.status.last_outcome is Outcome.TIMEOUT


async def test_a_token_that_runs_out_before_its_waiter_runs(server):
    """It is looked at once more when the waiter has it, and not given out."""
    server.script.append(token_reply("at-1", gate=(gate := asyncio.Event())))
    async with kept(server) as running:
        waiter = asyncio.create_task(running.source.obtain(WAIT_S))  # noqa: TID251
        await until(lambda: len(server.requests) == 1)
        flight = running.keepers._keepers[0]._flight
        assert flight is not None
        flight.add_done_callback(lambda _: running.clock.suspend(3590))
        gate.set()
        with pytest.raises(TokenUnavailable):
            await waiter


async def test_a_refresh_that_brings_an_earlier_end(server):
    """The new token's end counts, though the old one would have lived longer."""
    server.script.extend([token_reply("at-1", expires_in=1000), token_reply("at-2", expires_in=10)])
    server.default = token_reply(gate=asyncio.Event())
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await running.clock.advance(800)
        await until(lambda: running.text() == "at-2")
        running.clock.suspend(9)
        assert running.source.current() is None


@pytest.mark.parametrize(("margin_ns", "usable"), [(-1000, True), (0, False), (1000, False)])
async def test_the_last_moment_of_a_token(server, margin_ns, usable):
    """It is checked at the read itself, not by a timer: a machine that slept sends no expired token."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        server.default = token_reply(gate=asyncio.Event())
        running.clock.suspend(token.usable_until_s - running.clock.now() + margin_ns / 1e9)
        assert (running.source.current() is not None) == usable
        assert running.status.state is (TokenState.DUE if usable else TokenState.EXPIRED)


async def test_waking_after_a_suspend(server):
    """One token request, however many ask; none gets the expired token."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        running.clock.suspend(100_000)
        assert running.source.current() is None
        tokens = await asyncio.gather(*(running.source.obtain(WAIT_S) for _ in range(100)))
        assert {token.generation for token in tokens} == {2}
        assert len(server.requests) == 2


@pytest.mark.parametrize(("jump_s", "due"), [(31, True), (29, False), (-3600, False)])
async def test_a_wall_clock_that_jumps(server, jump_s, due):
    """Far enough ahead it makes the token due, still usable; backwards it prolongs nothing."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        running.clock.jump_wall(jump_s)
        await running.clock.advance(10)
        assert running.text() is not None
        if due:
            await until(lambda: running.text() == "at-2")
            await running.clock.advance(100)
        assert len(server.requests) == (2 if due else 1)
        assert running.status.state is TokenState.FRESH


@pytest.mark.parametrize("expires_in", [0, -1, "0", 0.4])
async def test_a_token_without_life(server, expires_in):
    """Those who wait for it use it; nobody else does, and there is at most one token request a second."""
    server.default = token_reply("at-1", expires_in=expires_in)
    async with kept(server) as running:
        tokens = await asyncio.gather(*(running.source.obtain(WAIT_S) for _ in range(20)))
        assert {token.generation for token in tokens} == {1}
        assert all(token.usable(running.clock.now()) for token in tokens)
        assert not tokens[0].usable(running.clock.now() + HANDOVER_S)
        assert running.source.current() is None

        waiters = [asyncio.create_task(running.source.obtain(WAIT_S)) for _ in range(20)]  # noqa: TID251
        await running.clock.advance(0.999)
        assert len(server.requests) == 1
        await running.clock.advance(0.001)
        assert {token.generation for token in await asyncio.gather(*waiters)} == {2}
        assert len(server.requests) == 2

        await running.clock.advance(3600)
        assert len(server.requests) == 2
        assert running.status.state is TokenState.NONE
        assert running.keepers.ready


async def test_a_very_short_life(server):
    """Token requests are a second apart at least; who asks in between waits for the next."""
    server.default = token_reply("at-1", expires_in=1)
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        for quarter in range(1, 40):
            await running.clock.advance(0.25)
            await until(running.nothing_under_way)
            assert len(server.requests) <= 1 + quarter / 4
        assert len(server.requests) == 10
        assert running.status.lookups.failed == 0


async def test_a_server_that_gives_the_same_token_again(server):
    """It is taken, with the life now told; the server is asked a handful of times a life, not in a loop."""
    async with kept(server) as running:
        server.script.append(token_reply("same", expires_in=1000))
        await running.source.obtain(WAIT_S)
        for left_s in range(999, 0, -1):
            server.default = token_reply("same", expires_in=left_s)
            await running.clock.advance(1)
            await until(running.nothing_under_way)
            assert running.text() == "same"
        assert 3 <= len(server.requests) <= 12


@pytest.mark.parametrize(("expires_in", "takes_s"), [(0, 0), (100, 95)], ids=["told", "by the time of the reply"])
async def test_a_server_that_says_the_token_in_use_is_over(server, expires_in, takes_s):
    """The very same token, now without life, is not used any longer."""
    gate = asyncio.Event()
    async with kept(server) as running:
        server.script.append(token_reply("same", expires_in=1000))
        server.script.append(token_reply("same", expires_in=expires_in, gate=gate))
        await running.source.obtain(WAIT_S)
        await running.clock.advance(800)
        await until(lambda: len(server.requests) == 2)
        await running.clock.advance(takes_s)
        assert running.text() == "same"
        gate.set()
        await until(running.nothing_under_way)
        assert running.source.current() is None


async def test_a_refresh_that_brings_another_token_without_life(server):
    """The one in use is kept to its end."""
    async with kept(server) as running:
        server.script.extend([token_reply("at-1", expires_in=1000), token_reply("at-2", expires_in=0)])
        await running.source.obtain(WAIT_S)
        await running.clock.advance(800)
        await until(lambda: running.status.requests[Outcome.OK] >= 2)
        assert running.text() == "at-1"


@pytest.mark.parametrize(
    "reply",
    [
        error_reply("invalid_grant", 200),
        Reply(body=b"<html>"),
        Reply(body=b""),
        Reply(body=b"[]"),
        Reply(body=b"x" * 5 * 1024 * 1024),
        Reply(status=302, fields=(("Location", "/"),)),
        Reply(body=b"\x1f\x8b", fields=(("Content-Encoding", "gzip"),)),
        token_reply("at-1\r\nX-Evil: 1"),
        token_reply("at-1", token_type="mac"),
        Reply(body=b'{"access_token": "at-1", "tok'),
    ],
    ids=["error", "html", "empty", "list", "5 MiB", "redirect", "gzip", "CR LF", "mac", "truncated"],
)
async def test_a_reply_that_brings_no_token(server, reply):
    """Nothing of it is kept, and the next right reply is taken: no reply is the end."""
    server.script.append(reply)
    async with kept(server) as running:
        with pytest.raises(TokenUnavailable):
            await running.source.obtain(WAIT_S)
        assert running.source.current() is None
        assert running.status.consecutive_failures == 1
        await running.clock.advance(60)
        await until(lambda: running.text() == "at-1")
        assert running.status.consecutive_failures == 0


async def test_scopes_that_were_not_given(server, caplog):
    """They are noticed, whatever their order; nothing told means as requested."""
    caplog.set_level("INFO", "proxy.tokens")
    async with kept(server, settings(server, asks={"scope": "a b c"}, refresh=RefreshPolicy(jitter=0))) as running:
        server.script.extend([token_reply(scope="c a"), token_reply(scope="c b a"), token_reply()])
        await running.source.obtain(WAIT_S)
        for requests in (2, 3):
            await running.clock.advance(2880)
            await until(lambda requests=requests: running.status.requests[Outcome.OK] == requests)
        assert running.status.scope == "a b c"
    first, second, third = (record for record in caplog.records if record.name == "proxy.tokens")
    assert (first.levelname, first.fields["scope_missing"]) == ("WARNING", "b")
    assert second.levelname == third.levelname == "INFO"


async def test_stopping_during_a_token_request(server):
    """Who waits is told at once; what is usable stays readable; nothing is started any more."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        server.default = token_reply(gate=asyncio.Event())
        running.clock.suspend(3590)
        waiter = asyncio.create_task(running.source.obtain(WAIT_S))  # noqa: TID251
        await until(lambda: len(server.requests) == 2)
        await running.keepers.stop()
        with pytest.raises(TokenUnavailable):
            await waiter
        with pytest.raises(TokenUnavailable):
            await running.source.obtain(WAIT_S)
        assert running.status.next_try_in_s is None
        assert len(server.requests) == 2


async def test_stopping_with_a_token_in_use(server):
    """Requests that are still open may use it, also when it is due."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await running.keepers.stop()
        running.clock.suspend(3000)
        assert running.text() == "at-1"
        assert (await running.source.obtain(0)).generation == 1
        assert len(server.requests) == 1
