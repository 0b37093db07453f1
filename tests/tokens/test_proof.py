"""Secrets and files that are rotated: two secrets in overlap, and what is tried again at once when it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from proxy.oauth.registration import ClientAuthMethod
from proxy.oauth.response import Outcome
from proxy.secret import FixedSecret, OverlappingSecrets, Secret, SecretFile
from proxy.tls import TlsSettings
from proxy.tokens.proof import Proof, files
from proxy.tokens.source import TokenUnavailable
from tests.oauth.registrations import registration
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import RecordedRequest, Reply, error_reply, token_reply
from tests.tokens.kept import WAIT_S, Kept, kept, settings


def overlap(*values: str) -> OverlappingSecrets:
    return OverlappingSecrets(tuple(FixedSecret(Secret(value)) for value in values))


def shown(requests: list[RecordedRequest]) -> list[str]:
    return [dict(request.form)["client_secret"] for request in requests]


def rotating(server, secrets):
    return settings(server, asks={"client_secret": secrets, "method": ClientAuthMethod.CLIENT_SECRET_POST})


async def failed(running: Kept) -> TokenUnavailable:
    with pytest.raises(TokenUnavailable) as unavailable:
        await running.source.obtain(WAIT_S)
    return unavailable.value


async def obtained_after(running: Kept, seconds: float) -> None:
    """Waits for a token whose second try comes that much later."""
    flight = running.tasks.start(running.source.obtain(WAIT_S), name="waiter")
    await until(lambda: len(running.server.requests) % 2 == 1 and running.clock.sleepers > 0)
    await running.clock.advance(seconds)
    await flight


REFUSALS = {
    "invalid_client": error_reply("invalid_client", 401),
    "401 without a code": Reply(status=401),
    "invalid_client as 400": error_reply("invalid_client", 400),
    "403 without a word, as glewlwyd": Reply(status=403),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_the_current_secret_is_refused(server, refusal):
    """The next one is tried once, a second later, for those who wait already; it is remembered."""
    server.script.append(refusal)
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        await obtained_after(running, 1.0)
        assert shown(server.requests) == ["current", "next"]
        assert running.status.client_secret_in_use == 1
        assert running.status.consecutive_failures == 0
        await running.clock.advance(2880)
        await until(lambda: len(server.requests) == 3)
        assert shown(server.requests)[2] == "next"


async def test_both_work(server):
    """The first is used and the second never sent: no probing."""
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        assert (running.status.client_secrets, running.status.client_secret_in_use) == (2, None)
        for _ in range(3):
            await running.source.obtain(WAIT_S)
            await running.clock.advance(3700)
            await until(running.nothing_under_way)
        assert set(shown(server.requests)) == {"current"}
        assert running.status.client_secret_in_use == 0


async def test_both_are_refused(server):
    """Two tries in the first minute, and then one at a time, each with the other secret."""
    server.default = error_reply("invalid_client", 401)
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        flight = running.tasks.start(failed(running), name="waiter")
        await until(lambda: len(server.requests) == 1 and running.clock.sleepers > 0)
        await running.clock.advance(1)
        assert (await flight).outcome is Outcome.INVALID_CLIENT
        for _ in range(58):
            await running.clock.advance(1)
            await until(running.nothing_under_way)
        assert shown(server.requests) == ["current", "next"]
        for _ in range(62):
            await running.clock.advance(1)
            await until(running.nothing_under_way)
        assert shown(server.requests) in (
            ["current", "next", "current", "next"],
            ["current", "next", "current", "next", "current"],
        )
        assert running.status.client_secret_in_use is None


async def test_back_and_forth(server):
    """A rotation that is taken back is followed too."""
    server.script.extend([error_reply("invalid_client", 401), token_reply("a"), error_reply("invalid_client", 401)])
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        await obtained_after(running, 1.0)
        await running.clock.advance(2880)
        await until(lambda: len(server.requests) == 3 and running.clock.sleepers > 0)
        await running.clock.advance(1)
        await until(lambda: len(server.requests) == 4 and running.nothing_under_way())
        assert shown(server.requests) == ["current", "next", "next", "current"]
        assert running.status.client_secret_in_use == 0


@pytest.mark.parametrize("error", ["invalid_scope", "unauthorized_client", "invalid_target"])
async def test_a_refusal_that_is_not_about_the_secret(server, error):
    """The other secret is not tried: it would say the same."""
    server.default = error_reply(error)
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        await failed(running)
        await running.clock.advance(29)
        assert shown(server.requests) == ["current"]


async def test_a_refusal_of_another_kind_before(server):
    """There are two tries a minute still: the other secret waits for its turn."""
    server.script.extend([error_reply("invalid_scope"), error_reply("invalid_client", 401)])
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        await failed(running)
        await running.clock.advance(59)
        await until(running.nothing_under_way)
        assert shown(server.requests) == ["current", "current"]
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-1")
        assert shown(server.requests) == ["current", "current", "next"]


async def test_an_outage_before_the_refusal(server):
    """It says nothing of the secret: the other one is tried at once."""
    server.script.extend([Reply(status=500), error_reply("invalid_client", 401)])
    async with kept(server, rotating(server, overlap("current", "next"))) as running:
        await failed(running)
        await running.clock.advance(1)
        await until(lambda: len(server.requests) == 2)
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-1")
        assert shown(server.requests) == ["current", "current", "next"]


async def test_the_next_file_is_written_later(server, tmp_path):
    """What is new is tried at once, and the secrets that were refused are not."""
    current, following = tmp_path / "current", tmp_path / "next"
    current.write_text("old")
    server.default = error_reply("invalid_client", 401)
    secrets = OverlappingSecrets((SecretFile(current), SecretFile(following)))
    async with kept(server, rotating(server, secrets)) as running:
        flight = running.tasks.start(failed(running), name="waiter")
        await until(lambda: len(server.requests) == 1 and running.clock.sleepers > 0)
        await running.clock.advance(1)  # the other secret cannot be read: nothing is sent
        await flight
        server.default = None
        following.write_text("new")
        await running.clock.advance(1)
        await until(lambda: len(server.requests) == 2 and running.nothing_under_way())
        assert shown(server.requests) == ["old", "new"]
        assert running.status.client_secret_in_use == 1


async def test_a_certificate_that_was_replaced(server, tmp_path):
    """Any file that the credential names is looked at: after a refusal, a newer one is tried at once."""
    authority = tmp_path / "ca.pem"
    authority.write_text("old")
    server.script.append(error_reply("invalid_client", 401))
    async with kept(server, settings(server, asks={"tls": TlsSettings(ca_file=authority)})) as running:
        await failed(running)
        await running.clock.advance(5)
        assert len(server.requests) == 1
        authority.write_text("a newer one")
        await running.clock.advance(1)
        await until(lambda: running.text() == "at-1")


async def test_what_is_logged_of_a_rotation(server, caplog):
    """That one was refused and the other is tried; neither secret."""
    caplog.set_level(logging.DEBUG)
    server.script.append(error_reply("invalid_client", 401))
    async with kept(server, rotating(server, overlap("the-current-one", "the-next-one"))) as running:
        await obtained_after(running, 1.0)
    assert "a client secret is refused: invalid_client; trying the other one" in caplog.text
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "the-current-one" not in logged
    assert "the-next-one" not in logged


def test_a_secret_that_was_refused_and_comes_back(tmp_path):
    """It is something new again once another one stood in its place."""
    file = tmp_path / "secret"
    proof = Proof(registration(client_secret=SecretFile(file)))
    for value in ("a", "b", "a"):
        file.write_text(value)
        os.utime(file, ns=(0, ord(value)))
        assert proof.changed()
        proof.shown()
        assert not proof.refused()
        assert not proof.changed()


def test_the_files_of_a_registration():
    """All that it names, wherever."""
    given = registration(
        client_secret=OverlappingSecrets((SecretFile(Path("current")), SecretFile(Path("next")))),
        tls=TlsSettings(ca_file=Path("ca"), cert_file=Path("cert"), key_file=Path("key")),
        token_request_headers=(("X-Key", SecretFile(Path("header"))),),
    )
    assert set(files(given)) == {Path(name) for name in ("current", "next", "ca", "cert", "key", "header")}


def test_a_secret_file_that_is_written_anew_with_what_it_held(tmp_path):
    """Nothing has changed: a file that some agent writes every second is no reason to ask every second."""
    file = tmp_path / "secret"
    file.write_text("a")
    proof = Proof(registration(client_secret=SecretFile(file)))
    proof.shown()
    file.unlink()
    file.write_text("a")
    assert not proof.changed()
