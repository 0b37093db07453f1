"""A token in a file: in use at once, read again when it changes, kept while the file is of no use."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import pytest

from proxy.oauth.response import Outcome, TokenRequestError
from proxy.secret import SecretFile
from proxy.tasks import Tasks
from proxy.tokens.access_token import CredentialName, TokenState
from proxy.tokens.keepers import Keepers
from proxy.tokens.source import Replacement, TokenUnavailable, outage_budget_s
from proxy.tokens.static_source import LOOKED_AT_EVERY_S, StaticCredential, StaticSource, read_token
from tests.support.fake_clock import FakeClock

FIXED = CredentialName("fixed")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "token"
    path.write_text("at-1\n")
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def source(file, clock) -> StaticSource:
    return StaticSource(StaticCredential(name=FIXED, access_token=SecretFile(file)), clock=clock)


def sent(source: StaticSource) -> bytes | None:
    token = source.current()
    return None if token is None else token.field_value


def test_a_token_in_a_file(source, clock):
    """It is there at once, without the line's end, and has no end of its own."""
    assert sent(source) == b"Bearer at-1"
    clock.suspend(365 * 24 * 3600)
    assert sent(source) == b"Bearer at-1"
    status = source.status()
    assert (status.state, status.ready, status.last_outcome) == (TokenState.FRESH, True, Outcome.OK)
    assert (status.lifetime_s, status.usable_for_s, status.expires_at_wall_s, status.next_try_in_s) == (None,) * 4
    assert (status.lookups.ready, sum(status.requests.values())) == (2, 0)


def test_a_token_that_was_renewed(source, file, clock):
    """It is in use a second later at most."""
    sent(source)
    file.write_text("at-2")
    clock.suspend(LOOKED_AT_EVERY_S)
    assert sent(source) == b"Bearer at-2"


async def test_what_is_no_token_any_more(source, file, clock, caplog):
    """The former token stays in use, and the log says so, once for each reason."""
    first = source.current()
    with caplog.at_level(logging.WARNING, "proxy.tokens"):
        for text in ("", "a b", "a\r\nX: y", "a b"):
            file.write_text(text)
            for _ in range(2):
                clock.suspend(LOOKED_AT_EVERY_S)
                assert source.current() is first
        file.unlink()
        clock.suspend(LOOKED_AT_EVERY_S)
        assert await source.obtain(1.0) is first
    assert len(caplog.records) == 3
    assert source.status().consecutive_failures == 9
    file.write_text("at-2")
    clock.suspend(LOOKED_AT_EVERY_S)
    assert sent(source) == b"Bearer at-2"
    assert source.status().last_error is None


async def test_no_file_at_all(tmp_path, clock):
    """Requests fail at once with the reason, readiness waits, and the file is taken up as soon as it is there."""
    path = tmp_path / "none"
    source = StaticSource(StaticCredential(name=FIXED, access_token=SecretFile(path)), clock=clock)
    assert source.current() is None
    assert not source.ready
    with pytest.raises(TokenUnavailable, match="No such file"):
        await source.obtain(60.0)
    assert source.status().lookups.failed == 1
    path.write_text("at-1")
    clock.suspend(LOOKED_AT_EVERY_S)
    assert source.ready
    assert sent(source) == b"Bearer at-1"


def test_a_token_that_the_upstream_refused(source, file):
    """The file is read again at once, even where its date and size tell of no change."""
    first = source.current()
    info = file.stat()
    file.write_text("at-2\n")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert source.replace(first) is Replacement.STARTED
    assert sent(source) == b"Bearer at-2"
    assert source.replace(first) is Replacement.STARTED, "a newer one is there"


def test_a_refused_token_that_is_the_only_one(source):
    """It stays in use: there is nobody to ask for another."""
    token = source.current()
    assert source.replace(token) is Replacement.SUPPRESSED
    assert source.current() is token


def test_the_outage_budget(source, clock, tmp_path):
    """A token without an end does not count; a file without a token does."""
    source.current()
    assert outage_budget_s([source.status()]) is None
    missing = StaticSource(StaticCredential(name=FIXED, access_token=SecretFile(tmp_path / "none")), clock=clock)
    assert outage_budget_s([source.status(), missing.status()]) == 0


async def test_among_other_credentials(file, clock):
    """It starts no task and asks nobody; readiness waits for it only if it is required."""

    async def never(registration):
        raise AssertionError

    for required in (True, False):
        credential = StaticCredential(name=FIXED, access_token=SecretFile(file), required=required)
        file.unlink(missing_ok=True)
        keepers = Keepers([credential], request=never, clock=clock, tasks=Tasks(), random=lambda: 0.0)
        keepers.start()
        assert keepers.ready is not required
        file.write_text("at-1")
        clock.suspend(LOOKED_AT_EVERY_S)
        assert keepers.ready
        assert keepers.statuses()[0].endless
        await keepers.stop()


def test_what_it_shows(source, file):
    """No token in a repr or in the reason for which there is none."""
    token = source.current()
    assert "at-1" not in repr(token) + repr(source) + repr(source.status()) + repr(source._credential)
    assert token.expires_at_s == math.inf
    file.write_text("canary canary")
    with pytest.raises(TokenRequestError) as caught:
        read_token(source._credential)
    assert "canary" not in caught.value.explained()
