"""All credentials of a gateway: which of them share a token, what each tells, and that none tells too much."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields

import pytest

from proxy.oauth.client_auth import hidden_texts
from proxy.oauth.response import Outcome
from proxy.secret import Secret
from proxy.tokens.access_token import CredentialName, TokenState
from proxy.tokens.lifetime import RefreshPolicy
from proxy.tokens.source import Lookups, TokenUnavailable, outage_budget_s
from tests.oauth.registrations import SECRET, registration
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import error_reply, token_reply
from tests.tokens.kept import ORDERS, WAIT_S, kept, settings

STOCK = CredentialName("stock")


async def test_credentials_alike_in_all_that_is_sent(server):
    """They share one token and one token request; each counts its own lookups."""
    pair = [settings(server), settings(server, "stock", asks={"timeout_s": 1.0})]
    async with kept(server, *pair) as running:
        orders, stock = running.keepers.sources[ORDERS], running.keepers.sources[STOCK]
        first, second = await asyncio.gather(orders.obtain(WAIT_S), stock.obtain(WAIT_S))
        assert first is second
        assert stock.current() is first
        assert len(server.requests) == 1

        told = {status.name: status for status in running.keepers.statuses()}
        assert told[ORDERS].lookups == Lookups(waited=1)
        assert told[STOCK].lookups == Lookups(waited=1, ready=1)
        assert (told[ORDERS].shares_with, told[STOCK].shares_with) == (None, ORDERS)
        assert (told[ORDERS].requests[Outcome.OK], told[STOCK].requests[Outcome.OK]) == (1, 0)
        assert (sum(told[ORDERS].durations.counts), sum(told[STOCK].durations.counts)) == (1, 0)
        assert told[STOCK].state is TokenState.FRESH


async def test_credentials_that_differ_in_one_input(server):
    """Each has its own token."""
    pair = [settings(server), settings(server, "stock", asks={"audience": "https://stock.example"})]
    async with kept(server, *pair) as running:
        first = await running.keepers.sources[ORDERS].obtain(WAIT_S)
        second = await running.keepers.sources[STOCK].obtain(WAIT_S)
        assert first.field_value != second.field_value
        assert len(server.requests) == 2


async def test_a_shared_token_with_two_policies(server):
    """It is refreshed when the first of them wants it."""
    pair = [settings(server), settings(server, "stock", refresh=RefreshPolicy(at_ratio=0.5))]
    async with kept(server, *pair) as running:
        token = await running.source.obtain(WAIT_S)
        assert token.due_at_s - token.obtained_at_s == 1800


async def test_required_and_lazy_credentials(server):
    """Only required ones are asked for at start; readiness waits for them alone, and stays."""
    pair = [settings(server, required=True), settings(server, "stock", asks={"scope": "stock"})]
    async with kept(server, *pair) as running:
        assert not running.keepers.ready
        running.keepers.start()
        running.keepers.start()
        await until(lambda: running.keepers.ready)
        assert len(server.requests) == 1
        assert running.keepers.sources[STOCK].status().state is TokenState.NONE
        await server.stop()
        running.clock.suspend(10_000)
        assert running.keepers.ready
        assert running.status.ready


async def test_a_lazy_credential_that_shares_with_a_required_one(server):
    """It is there from the start."""
    pair = [settings(server), settings(server, "stock", required=True)]
    async with kept(server, *pair) as running:
        running.keepers.start()
        await until(lambda: running.keepers.ready)
        assert running.text() == "at-1"


async def test_no_credentials(server):
    """There is nothing to wait for."""
    async with kept(server) as running:
        keepers = type(running.keepers)([], request=None, clock=running.clock, tasks=running.tasks, random=lambda: 0.0)
        keepers.start()
        assert keepers.ready
        assert keepers.statuses() == []
        await keepers.stop()


async def test_lookups(server):
    """A token that is there counts as ready, one that is waited for as waited, none as failed: once each."""
    server.default = error_reply("server_error", 500)
    async with kept(server) as running:
        assert running.source.current() is None
        with pytest.raises(TokenUnavailable):
            await running.source.obtain(WAIT_S)
        assert running.status.lookups == Lookups(failed=1)
        server.default = None
        await running.clock.advance(5)
        await until(lambda: running.status.ready)
        assert running.status.lookups == Lookups(failed=1)
        running.source.current()
        await running.source.obtain(WAIT_S)
        assert running.status.lookups == Lookups(failed=1, ready=2)


async def test_what_a_status_tells(server):
    """Seconds from now, and instants on the wall clock."""
    async with kept(server) as running:
        status = running.status
        assert status.name == ORDERS
        assert status.state is TokenState.NONE
        assert status.usable_for_s is status.expires_at_wall_s is status.next_refresh_at_wall_s is None
        assert status.next_try_in_s is status.last_outcome is status.last_error is None

        await running.source.obtain(WAIT_S)
        await running.clock.advance(80)
        status = running.status
        assert status.state is TokenState.FRESH
        assert (status.lifetime_s, status.obtained_ago_s, status.usable_for_s) == (3600, 80, 3510)
        assert status.next_try_in_s == 2800
        assert status.next_refresh_at_wall_s == running.clock.wall() + 2800
        assert status.expires_at_wall_s == running.clock.wall() + 3520
        assert status.last_outcome is Outcome.OK
        assert sum(status.durations.counts) == 1


async def test_the_outage_budget(server):
    """The least of what the credentials in use have left."""
    lazy = settings(server, "lazy", asks={"scope": "lazy"})
    trio = [settings(server, required=True), settings(server, "stock", asks={"scope": "stock"}), lazy]
    async with kept(server, *trio) as running:
        assert outage_budget_s([]) is None
        assert outage_budget_s(running.keepers.statuses()) == 0
        await running.source.obtain(WAIT_S)
        assert outage_budget_s(running.keepers.statuses()) == 3590
        server.script.append(token_reply(expires_in=100))
        await running.keepers.sources[STOCK].obtain(WAIT_S)
        assert outage_budget_s(running.keepers.statuses()) == 90


async def test_what_is_shown_and_logged(server, caplog):
    """No repr, text, status or log line holds a secret or a token; each token request has one line."""
    caplog.set_level(logging.DEBUG)
    asks = {"token_request_headers": (("X-Key", "subscription-key-1"),)}
    credential = settings(server, required=True, asks=asks)
    server.script.append(error_reply("invalid_request", 400, error_description=f"bad {SECRET}"))
    async with kept(server, credential) as running:
        with pytest.raises(TokenUnavailable) as unavailable:
            await running.source.obtain(WAIT_S)
        await running.clock.advance(60)
        await until(lambda: running.source.current() is not None)
        token = await running.source.obtain(WAIT_S)
        keeper = running.keepers._keepers[0]
        parts = [
            credential,
            running.keepers,
            running.source,
            running.status,
            token,
            keeper,
            keeper.pace,
            keeper._flight,
        ]
        parts += [keeper._timer, unavailable.value, running.tasks, *running.keepers.statuses()]
        parts += [getattr(running.status, member.name) for member in fields(running.status)]
        shown = "".join(repr(part) + str(part) for part in parts)

    ours = [record for record in caplog.records if record.name == "proxy.tokens"]
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    hidden = [*hidden_texts(registration(server.url, **asks), Secret(SECRET)), "at-1"]
    assert not [text for text in hidden if text in shown]
    assert not [text for text in hidden if text in logged]
    assert [record.levelname for record in ours] == ["WARNING", "INFO"]
    assert ours[0].fields["outcome"] == "oauth_error"
    assert ours[0].fields["error"] == "invalid_request"
    assert ours[0].fields["next_try_in_s"] == 30
    assert ours[1].fields["lifetime_s"] == 3600
    assert ours[1].fields["credential"] == "orders"
