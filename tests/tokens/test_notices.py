"""What is odd about the answers of an authorization server although they are used, and how often that is said."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from proxy.tokens.access_token import TokenState
from proxy.tokens.notices import missing_scopes
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import Reply, json_reply, token_reply
from tests.tokens.kept import WAIT_S, Kept, kept, settings

LIFE_S = 3600


async def renewed(running: Kept, seconds: float = 2880) -> None:
    """Lets the token become due, and its refresh end."""
    before = len(running.server.requests)
    await running.clock.advance(seconds)
    await until(lambda: len(running.server.requests) > before and running.nothing_under_way())


def warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.fields for record in caplog.records if record.levelno == logging.WARNING]  # type: ignore[attr-defined]


def dated(text: str) -> Reply:
    return json_reply(access_token="at", expires_in=LIFE_S, fields=(("Date", text),))


# --- the same token again --------------------------------------------------------------------------------------------


async def test_a_server_that_keeps_its_token_until_it_ends(server):
    """It is asked a few times more, ever nearer to the end, and not in a loop; the token is used throughout."""
    async with kept(server) as running:
        start_s = running.clock.now()
        server.script.append(token_reply("same", expires_in=LIFE_S))
        await running.source.obtain(WAIT_S)
        asked_at_s = []
        while running.text() == "same":
            left_s = LIFE_S - (running.clock.now() - start_s)
            server.default = token_reply(
                "same" if left_s > 12 else "new", expires_in=int(left_s) if left_s > 12 else LIFE_S
            )
            before = len(server.requests)
            await running.clock.advance(0.5)
            await until(running.nothing_under_way)
            if len(server.requests) > before:
                asked_at_s.append(running.clock.now() - start_s)
        assert running.text() == "new"
        assert 2 <= len(asked_at_s) <= 6
        assert asked_at_s[0] == 2880
        assert asked_at_s[1] == pytest.approx(LIFE_S - 10 - 30, abs=2)
        assert all(later - earlier >= 1 for earlier, later in pairwise(asked_at_s))


async def test_the_same_token_with_a_longer_life(server):
    """It was prolonged: its new life counts."""
    server.default = token_reply("same", expires_in=LIFE_S)
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        await renewed(running)
        assert running.status.next_try_in_s == 2880


async def test_a_new_token_with_the_same_end(server):
    """It is another token: nothing tells when the next one will live longer."""
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        server.default = token_reply("other", expires_in=720)
        await renewed(running)
        assert running.status.next_try_in_s == 576


# --- scope -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "granted", "missing"),
    [
        ("a b", None, ()),
        ("a b", "a b", ()),
        ("a b", "b a", ()),
        ("a b", "a b c", ()),
        ("b a", "c", ("a", "b")),
        ("a B", "a b", ("B",)),
        (None, "a", ()),
    ],
    ids=["P9-absent", "P9-as asked", "P9-other order", "P9-more", "P9-none of them", "P9-other case", "P9-none asked"],
)
def test_scopes_that_are_missing(requested, granted, missing):
    """Absent means as requested; compared as sets, case counts."""
    assert missing_scopes(requested, granted) == missing


async def test_a_narrowed_scope(server, caplog):
    """The token is used; it is said once, and again only when it is another."""
    caplog.set_level(logging.INFO)
    async with kept(server, settings(server, asks={"scope": "orders.read orders.write"})) as running:
        server.default = token_reply("token-a", scope="orders.read")
        await running.source.obtain(WAIT_S)
        assert running.status.scope_missing == ("orders.write",)
        assert [line["scope_missing"] for line in warnings(caplog)] == ["orders.write"]
        for name in ("b", "c"):
            server.default = token_reply(f"token-{name}", scope="orders.read")
            await renewed(running)
        assert len(warnings(caplog)) == 1
        server.default = token_reply("token-d", scope="")
        await renewed(running)
        assert len(warnings(caplog)) == 1  # an empty scope is one that was not told
        assert running.status.scope_missing == ()
        server.default = token_reply("token-e", scope="other")
        await renewed(running)
        assert [line["scope_missing"] for line in warnings(caplog)[1:]] == ["orders.read orders.write"]
        assert running.status.state is TokenState.FRESH


async def test_an_expires_in_that_cannot_be_read(server, caplog):
    """It is said once, not with each token."""
    server.default = token_reply("a", expires_in="soon")
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        server.default = token_reply("b", expires_in="soon")
        await renewed(running, 240)
        assert [line["warning"] for line in warnings(caplog)] == ["expires_in is a text that is no number"]


# --- clocks ----------------------------------------------------------------------------------------------------------


async def test_a_clock_that_goes_wrong_and_right_again(server, caplog):
    """Beyond a minute it is said once; no token lives shorter or longer for it."""
    caplog.set_level(logging.INFO)
    async with kept(server) as running:  # the wall clock stands at 2027-01-15 08:00:00
        server.default = dated("Fri, 15 Jan 2027 09:00:00 GMT")
        token = await running.source.obtain(WAIT_S)
        assert running.status.clock_skew_s == 3600
        assert (token.lifetime_s, token.expires_at_s - token.obtained_at_s) == (LIFE_S, LIFE_S)
        await renewed(running)
        assert [line["ahead_s"] for line in warnings(caplog)] == [3600]
        server.default = dated("Fri, 15 Jan 2027 09:36:30 GMT")
        await renewed(running, 3000)
        assert abs(running.status.clock_skew_s or 0) < 60
        assert "the authorization server's clock is right again" in caplog.text
        assert len(warnings(caplog)) == 1


async def test_a_date_that_cannot_be_read(server):
    """Nothing is known."""
    server.default = dated("yesterday")
    async with kept(server) as running:
        await running.source.obtain(WAIT_S)
        assert running.status.clock_skew_s is None
