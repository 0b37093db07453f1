"""An authorization server that fails: what is used meanwhile, when it is asked again, and what requests are told."""

from __future__ import annotations

import asyncio

import pytest

from proxy.oauth.registration import ClientAuthMethod
from proxy.oauth.response import Outcome
from proxy.secret import SecretFile
from proxy.tokens.access_token import TokenState
from proxy.tokens.source import TokenUnavailable
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import Reply, error_reply, json_reply, token_reply
from tests.tokens.kept import WAIT_S, Kept, kept, settings


async def failed(running: Kept) -> TokenUnavailable:
    """Asks for a token in vain."""
    with pytest.raises(TokenUnavailable) as unavailable:
        await running.source.obtain(WAIT_S)
    return unavailable.value


async def test_down_at_start_and_up_later(server):
    """Start does not wait; requests fail at once with Retry-After; the token comes by itself within one pause."""
    await server.stop()
    async with kept(server, settings(server, required=True)) as running:
        running.chance.value = 0.999
        running.keepers.start()
        assert not running.keepers.ready
        assert running.status.state is TokenState.NONE
        assert (await failed(running)).outcome is Outcome.CONNECT
        for _ in range(20):
            await running.clock.advance(5)
            await until(running.nothing_under_way)
        assert running.status.consecutive_failures >= 20
        assert 1 <= ((await failed(running)).retry_after_s or 0) <= 5

        await server.start()
        await running.clock.advance(5)
        await until(lambda: running.keepers.ready)
        assert running.text() == "at-1"
        assert running.status.consecutive_failures == 0
        assert running.status.last_error is None


async def test_down_later_and_up_before_the_end(server):
    """No request notices; the state says that the token is held."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await server.stop()
        await running.clock.advance(2880)
        await until(lambda: running.status.consecutive_failures > 0)
        for _ in range(12):
            await running.clock.advance(50)
            await until(running.nothing_under_way)
            assert running.text() == "at-1"
            assert running.status.state is TokenState.HELD
        assert (await running.source.obtain(0)).generation == 1
        assert running.status.usable_for_s == 110

        await server.start()
        await running.clock.advance(60)
        await until(lambda: running.text() == "at-2")
        assert running.status.state is TokenState.FRESH
        assert running.status.lookups.failed == 0


async def test_down_beyond_the_end(server):
    """The token is used to its last usable moment; then requests fail closed, and tries come every few seconds."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await server.stop()
        running.chance.value = 0.999
        for _ in range(359):
            await running.clock.advance(10)
            await until(running.nothing_under_way)
        assert running.source.current() is None
        assert running.status.state is TokenState.EXPIRED
        assert running.status.usable_for_s == 0
        failures = running.status.consecutive_failures
        assert failures > 10
        assert ((await failed(running)).retry_after_s or 99) <= 5

        await running.clock.advance(5)
        await until(running.nothing_under_way)
        assert running.status.consecutive_failures == failures + 1


async def test_requests_while_backing_off(server):
    """A thousand of them cause no token request and wait for nothing."""
    server.default = Reply(status=500)
    async with kept(server) as running:
        running.chance.value = 0.999
        for _ in range(1000):
            await failed(running)
        assert len(server.requests) == 1
        assert running.status.lookups.failed == 1000


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
async def test_retry_after(server, status, date):
    """It is waited for, and told to the client."""
    async with kept(server) as running:
        value = "Fri, 15 Jan 2027 08:02:00 GMT" if date else "120"
        server.script.append(Reply(status=status, fields=(("Retry-After", value),)))
        assert (await failed(running)).retry_after_s == 120
        await running.clock.advance(119)
        assert len(server.requests) == 1
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-1")


async def test_retry_after_with_a_token_in_use(server):
    """The token is used meanwhile; a day of waiting is cut to five minutes."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        server.script.append(Reply(status=503, fields=(("Retry-After", "86400"),)))
        await running.clock.advance(2880)
        await until(lambda: running.status.state is TokenState.HELD)
        await running.clock.advance(299)
        assert len(server.requests) == 2
        assert running.text() == "at-1"
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-2")


async def test_a_fault_of_the_configuration(server):
    """Two tries a minute at most, however many requests ask."""
    server.default = error_reply("invalid_client", 401)
    async with kept(server) as running:
        for _ in range(600):
            await failed(running)
            await running.clock.advance(1)
            await until(running.nothing_under_way)
        assert 10 <= len(server.requests) <= 21
        assert "invalid_client" in (running.status.last_error or "")
        assert "client_secret_post" in (running.status.last_error or "")


@pytest.mark.parametrize("by", ["request", "timer"])
async def test_a_secret_that_was_corrected(server, tmp_path, by):
    """It is tried at once, with the next request or by itself; the same one is not."""
    file = tmp_path / "secret"
    file.write_text("wrong")
    server.script.append(error_reply("invalid_client", 401))
    async with kept(server, settings(server, asks={"client_secret": SecretFile(file)})) as running:
        await failed(running)
        await running.clock.advance(2)
        await failed(running)
        assert len(server.requests) == 1
        file.write_text("the right one")
        if by == "request":
            assert (await running.source.obtain(WAIT_S)).generation == 1
        else:
            await running.clock.advance(1)
            await until(lambda: running.text() == "at-1")
        assert len(server.requests) == 2


async def test_a_secret_file_that_comes_late(server, tmp_path):
    """Until then nothing is sent; then it is tried at once."""
    file = tmp_path / "secret"
    async with kept(server, settings(server, asks={"client_secret": SecretFile(file)})) as running:
        assert (await failed(running)).outcome is Outcome.INVALID_CLIENT
        file.write_text("here")
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-1")
        assert len(server.requests) == 1


async def test_a_rotated_secret(server, tmp_path):
    """The next token request uses it; the token in use is kept."""
    file = tmp_path / "secret"
    file.write_text("first")
    asks = {"client_secret": SecretFile(file), "method": ClientAuthMethod.CLIENT_SECRET_POST}
    async with kept(server, settings(server, asks=asks)) as running:
        await running.source.obtain(WAIT_S)
        file.write_text("second")
        assert running.text() == "at-1"
        await running.clock.advance(2880)
        await until(lambda: running.text() == "at-2")
        assert [dict(request.form)["client_secret"] for request in server.requests] == ["first", "second"]


async def test_tries_without_a_token(server):
    """Full jitter below a ceiling that grows to `max_without_token`, and a floor: 1 s, then 2.5 s between two."""
    server.default = Reply(status=500)
    async with kept(server) as running:
        pauses = []
        for chance in (0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.0):
            running.chance.value = chance
            await (running.clock.advance(running.status.next_try_in_s or 0) if pauses else failed(running))
            await until(running.nothing_under_way)
            pauses.append(running.status.next_try_in_s)
        assert pauses == pytest.approx([1, 1.8, 3.6, 4.5, 4.5, 2.5, 2.5], abs=0.1)
        assert len(server.requests) == 7


async def test_the_clock_of_the_authorization_server(server):
    """How far it is from ours is known from its replies, failures included."""
    async with kept(server) as running:
        assert running.status.clock_skew_s is None
        server.script.append(error_reply("invalid_client", 401, fields=(("Date", "Fri, 15 Jan 2027 07:59:00 GMT"),)))
        await failed(running)
        assert running.status.clock_skew_s == -60
        server.script.append(
            json_reply(access_token="at-1", expires_in=60, fields=(("Date", "Fri, 15 Jan 2027 08:02:00 GMT"),))
        )
        await running.clock.advance(60)
        await until(lambda: running.text() is not None)
        assert running.status.clock_skew_s == pytest.approx(120 - 30, abs=1)


async def test_a_defect_in_the_token_client(server):
    """It is a failure like others, not the end."""
    async with kept(server) as running:
        keeper = running.keepers._keepers[0]
        right = keeper._request

        async def defective(_registration):
            raise KeyError("s3cret-of-the-tests")

        keeper._request = defective
        assert "s3cret" not in str(await failed(running))
        assert running.status.last_error == "internal error: KeyError"
        keeper._request = right
        await running.clock.advance(60)
        await until(lambda: running.text() == "at-1")


async def test_a_server_that_hangs(server):
    """Requests wait as long as they may and no longer, and the token in use is used."""
    server.default = token_reply(gate=asyncio.Event())
    async with kept(server, settings(server, asks={"timeout_s": 0.3})) as running:
        with pytest.raises(TokenUnavailable):
            await running.source.obtain(0.05)
        assert (await failed(running)).outcome is Outcome.TIMEOUT
        assert running.status.requests[Outcome.TIMEOUT] == len(server.requests) == 1
