"""Tokens that the upstream refuses: dropped if they are still in use, renewed once for all, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from proxy.tokens.access_token import TokenState
from proxy.tokens.keeper import FORCED_RENEWAL_INTERVAL_S
from proxy.tokens.source import Replacement, TokenUnavailable
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import Reply, token_reply
from tests.tokens.kept import WAIT_S, Kept, kept

STARTED, SUPPRESSED = Replacement.STARTED, Replacement.SUPPRESSED


async def refused(running: Kept) -> None:
    """Obtains a token and has it refused; the renewal has its second to wait."""
    token = await running.source.obtain(WAIT_S)
    assert running.source.replace(token) is STARTED
    await running.clock.advance(1)


async def test_a_token_that_was_revoked(server):
    """It is not sent again; who asks gets the new one."""
    async with kept(server) as running:
        await refused(running)
        assert (await running.source.obtain(WAIT_S)).field_value == b"Bearer at-2"
        assert running.text() == "at-2"


async def test_a_hundred_refusals_of_one_token(server):
    """They cost one token request, and all get its token."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        await running.clock.advance(100)

        async def rescued() -> int:
            assert running.source.replace(token) is STARTED
            return (await running.source.obtain(WAIT_S)).generation

        assert await asyncio.gather(*(rescued() for _ in range(100))) == [2] * 100
        assert len(server.requests) == 2


async def test_a_refusal_of_an_older_token(server):
    """The newer one is kept, and is the answer."""
    async with kept(server) as running:
        old = await running.source.obtain(WAIT_S)
        await running.clock.advance(2880)
        await until(lambda: running.text() == "at-2")
        assert running.source.replace(old) is STARTED
        assert running.text() == "at-2"
        assert len(server.requests) == 2


async def test_an_upstream_that_refuses_every_token(server):
    """At most one forced renewal in 30 s; in between the token stays in use."""
    async with kept(server) as running:
        suppressed = 0
        for _ in range(240):
            token = running.source.current() or await running.source.obtain(WAIT_S)
            if running.source.replace(token) is SUPPRESSED:
                suppressed += 1
                assert running.source.current() is token
            await running.clock.advance(1)
            await until(lambda: running.source.current() is not None)
        assert len(server.requests) <= 1 + 240 / FORCED_RENEWAL_INTERVAL_S + 1
        assert suppressed >= 225


@pytest.mark.parametrize(("margin_s", "answer"), [(-0.001, SUPPRESSED), (0, STARTED), (0.001, STARTED)])
async def test_the_brake_s_last_moment(server, margin_s, answer):
    """Thirty seconds from one forced renewal to the next."""
    async with kept(server) as running:
        await refused(running)
        token = await running.source.obtain(WAIT_S)
        await running.clock.advance(FORCED_RENEWAL_INTERVAL_S - 1 + margin_s)
        assert running.source.replace(token) is answer


async def test_a_refusal_while_the_server_fails(server):
    """One upstream's refusal does not take the token from everybody else."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        await server.stop()
        running.chance.value = 0.999
        await running.clock.advance(2880)
        await until(lambda: running.status.state is TokenState.HELD)
        assert running.source.replace(token) is SUPPRESSED
        assert running.source.current() is token


async def test_a_renewal_that_fails(server):
    """The refused token stays dropped: requests fail at once, with Retry-After, until there is another."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        server.script.append(Reply(status=500))
        await running.clock.advance(100)
        assert running.source.replace(token) is STARTED
        with pytest.raises(TokenUnavailable):
            await running.source.obtain(WAIT_S)
        assert running.source.current() is None
        assert running.source.replace(token) is STARTED
        assert len(server.requests) == 2
        await running.clock.advance(5)
        await until(lambda: running.text() == "at-2" or running.text() == "at-1")
        assert running.source.current() is not token


async def test_a_refusal_during_a_refresh(server):
    """The token request under way serves as the renewal."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        server.script.append(token_reply("at-new", gate=(gate := asyncio.Event())))
        await running.clock.advance(2880)
        await until(lambda: len(server.requests) == 2)
        assert running.source.replace(token) is STARTED
        assert running.source.current() is None
        gate.set()
        assert (await running.source.obtain(WAIT_S)).field_value == b"Bearer at-new"
        assert len(server.requests) == 2


async def test_a_server_that_gives_the_refused_token_again(server):
    """It is taken; its next refusal is suppressed, so that nothing loops."""
    server.default = token_reply("same")
    async with kept(server) as running:
        await refused(running)
        again = await running.source.obtain(WAIT_S)
        assert again.generation == 2
        assert running.source.replace(again) is SUPPRESSED
        assert len(server.requests) == 2


async def test_a_refusal_of_a_token_that_ran_out_meanwhile(server):
    """It is renewed as a matter of course, and the brake is left for another time."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        running.clock.suspend(3600)
        assert running.source.replace(token) is STARTED
        renewed = await running.source.obtain(WAIT_S)
        assert running.source.replace(renewed) is STARTED


async def test_a_refusal_of_a_token_without_life(server):
    """The brake counts for it too, though it was never kept."""
    server.default = token_reply(expires_in=0)
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        assert running.source.replace(token) is STARTED
        waiter = asyncio.create_task(running.source.obtain(WAIT_S))  # noqa: TID251
        await running.clock.advance(1)
        assert running.source.replace(await waiter) is SUPPRESSED
        assert len(server.requests) == 2


async def test_a_refusal_after_the_stop(server):
    """Nothing is started any more; the token stays."""
    async with kept(server) as running:
        token = await running.source.obtain(WAIT_S)
        await running.keepers.stop()
        assert running.source.replace(token) is SUPPRESSED
        assert running.source.current() is token
