"""Every odd reply of an authorization server, through a whole gateway: what the client gets, and what stays unsaid.

A reply that is no grant is a failed token request: the client gets 503 and a time to come again, the upstream nothing,
nothing of the reply is kept or repeated, and the next good reply serves. A reply that is odd and still plain is used.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.oauth.response import MAX_TOKEN_CHARACTERS, Outcome
from tests.gateway.test_token_life import FastClock, requests_of
from tests.support.canaries import Canary, traces
from tests.support.fake_clock import until
from tests.support.gateway import RunningGateway, running_gateway, simple_configuration
from tests.support.raw_client import Answer, ask
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    json_reply,
    token_reply,
)
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

SECRET = Canary("client secret", "7Hq:w2%Zk+P9vR4mX8nB")
TOKEN = Canary("token of the odd reply", "ey0ddT0ken.Q7c3VbN2mLp9.Kj5Hg4Fd3Sa2")
REFRESH = Canary("refresh token", "rT8zXq4WnB6vKc2Lm0Ps")
SAID = Canary("description", "zvqxjwkp-said-by-the-server-hgfdy")
PLACE = Canary("redirect target", "wqzjkvxp-elsewhere-fjdkslqp")
CANARIES = (SECRET, TOKEN, REFRESH, SAID, PLACE)
GOOD = "good-token-of-the-tests"
GET = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
MIB = 1024 * 1024
SPEED = 20.0  # of the gateway's clock: its pauses are seconds


@dataclass
class World:
    """A gateway between an authorization server that says odd things and an upstream."""

    server: ScriptedAuthorizationServer
    gateway: RunningGateway
    sent_on: list[bytes]  # request heads that reached the upstream

    async def get(self) -> Answer:
        return await ask(self.gateway.port, GET)

    async def admin(self, path: str) -> bytes:
        async with aiohttp.ClientSession() as session, session.get(self.gateway.admin_url + path) as response:
            return await response.read()

    async def credential(self) -> dict[str, Any]:
        document = json.loads(await self.admin("/status.json"))
        credential: dict[str, Any] = document["credentials"][0]
        return credential

    async def reaches(self, state: str) -> None:
        """Waits until the token stands so."""
        async with asyncio.timeout(20):
            while (await self.credential())["state"] != state:
                await asyncio.sleep(0.01)  # noqa: TID251  # lets sockets work; nothing depends on its length


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Runs it; the first token is asked for by the first request."""
    sent_on: list[bytes] = []
    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(always(ok(b"hello"))) as upstream:
        text = simple_configuration(
            server.url, f"http://127.0.0.1:{upstream.port}", credential="required: false\ntimeout: 400ms"
        )
        async with running_gateway(
            text, folder, environ={"CLIENT_SECRET": SECRET.text}, clock=FastClock(SPEED)
        ) as gateway:
            yield World(server, gateway, sent_on)
        sent_on.extend(requests_of(upstream))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests whose matter is the same on both paths of a request: they run once."""
    return tmp_path_factory.mktemp("gateway")


def problem(answer: Answer) -> str:
    """Returns the suffix of the problem that an answer of the gateway's own names."""
    assert len(answer.body) <= 512
    return str(json.loads(answer.body)["type"]).rpartition(":")[2]


def grant(**members: Any) -> Reply:
    """A right reply but for these members; None takes one away."""
    given = {"access_token": TOKEN.text, "token_type": "Bearer", "expires_in": 3600, **members}
    return json_reply(**{name: value for name, value in given.items() if value is not None})


def text(body: str | bytes, status: int = 200, *fields: tuple[str, str]) -> Reply:
    octets = body.encode() if isinstance(body, str) else body
    return Reply(status, octets, fields or (("Content-Type", "application/json"),))


RIGHT = json.dumps({"access_token": TOKEN.text, "token_type": "Bearer", "expires_in": 3600})
BOMB = gzip.compress(b" " * (20 * MIB) + RIGHT.encode())

MALFORMED: dict[str, tuple[Reply, Outcome]] = {
    "P12-no access_token": (grant(access_token=None), Outcome.MALFORMED),
    "P12-empty access_token": (grant(access_token=""), Outcome.MALFORMED),
    "P12-access_token a number": (grant(access_token=7), Outcome.MALFORMED),
    "P12-access_token a list": (grant(access_token=[TOKEN.text]), Outcome.MALFORMED),
    "P12-access_token an object": (grant(access_token={"value": TOKEN.text}), Outcome.MALFORMED),
    "P13-token_type mac": (grant(token_type="mac"), Outcome.MALFORMED),
    "P13-token_type DPoP": (grant(token_type="DPoP"), Outcome.MALFORMED),
    "P13-token_type N_A": (grant(token_type="N_A"), Outcome.MALFORMED),
    "P13-token_type a list": (grant(token_type=["Bearer"]), Outcome.MALFORMED),
    "P15-CR LF in the token": (grant(access_token=f"{TOKEN.text}\r\nX-Evil: 1"), Outcome.MALFORMED),
    "P15-LF at its end": (grant(access_token=f"{TOKEN.text}\n"), Outcome.MALFORMED),
    "P15-space in the token": (grant(access_token=f"{TOKEN.text} b"), Outcome.MALFORMED),
    "P15-NUL in the token": (grant(access_token=f"{TOKEN.text}\0"), Outcome.MALFORMED),
    "P15-comma in the token": (grant(access_token=f"{TOKEN.text},b"), Outcome.MALFORMED),
    "P15-beyond ASCII": (grant(access_token=f"{TOKEN.text}é"), Outcome.MALFORMED),
    "P15-token too long": (grant(access_token="t" * (MAX_TOKEN_CHARACTERS + 1)), Outcome.MALFORMED),
    "P16-5 MiB": (text(RIGHT[:-1] + " " * (5 * MIB) + "}"), Outcome.MALFORMED),
    "P16-5 MiB without a length": (
        Reply(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * (5 * MIB)), Outcome.MALFORMED,
    ),
    "P16-gzip bomb": (text(BOMB, 200, ("Content-Encoding", "gzip")), Outcome.MALFORMED),
    "P16-gzip bomb unnamed": (text(BOMB), Outcome.MALFORMED),
    "P16-unknown coding": (text(RIGHT, 200, ("Content-Encoding", "x-own")), Outcome.MALFORMED),
    "P17-error in a 200": (json_reply(error="server_error", access_token=TOKEN.text), Outcome.SERVER_ERROR),
    "P17-unreadable error in a 200": (json_reply(error={"code": 1}, access_token=TOKEN.text), Outcome.MALFORMED),
    "P17-error in a 503": (error_reply("temporarily_unavailable", 503, error_description=SAID.text), Outcome.SERVER_ERROR),
    "P18-empty": (text(""), Outcome.MALFORMED),
    "P18-white space": (text(" \r\n "), Outcome.MALFORMED),
    "P18-HTML": (text("<html>sign in</html>", 200, ("Content-Type", "text/html")), Outcome.MALFORMED),
    "P18-204": (Reply(204, raw=b"HTTP/1.1 204 No Content\r\n\r\n"), Outcome.MALFORMED),
    "P18-302": (Reply(302, b"", (("Location", f"http://127.0.0.1:1/{PLACE.text}"),)), Outcome.MALFORMED),
    "P18-307": (Reply(307, b"", (("Location", f"http://127.0.0.1:1/{PLACE.text}"),)), Outcome.MALFORMED),
    "P18-404": (text(f"<h1>{SAID.text}</h1>", 404, ("Content-Type", "text/html")), Outcome.MALFORMED),
    "P18-a list": (text(f"[{RIGHT}]"), Outcome.MALFORMED),
    "P18-a text": (text(json.dumps(TOKEN.text)), Outcome.MALFORMED),
    "P18-a number": (text("3600"), Outcome.MALFORMED),
    "P18-null": (text("null"), Outcome.MALFORMED),
    "P18-truncated": (text(RIGHT[:-9]), Outcome.MALFORMED),
    "P18-two objects": (text(RIGHT + RIGHT), Outcome.MALFORMED),
    "P18-form-encoded": (text(f"access_token={TOKEN.text}&token_type=bearer"), Outcome.MALFORMED),
    "P18-deep nesting": (text('{"a":' * 100_000 + "1" + "}" * 100_000), Outcome.MALFORMED),
    "P18-a number of 100000 digits": (text('{"expires_in": ' + "9" * 100_000 + "}"), Outcome.MALFORMED),
    "P18-cut off": (Reply(200, RIGHT.encode(), announced=len(RIGHT) + 50), Outcome.CONNECT),
    "P18-reset": (Reply(reset=True), Outcome.CONNECT),
    "P18-nothing": (Reply(raw=b""), Outcome.CONNECT),
    "P18-not HTTP": (Reply(raw=b"SSH-2.0-OpenSSH_9\r\n\r\n"), Outcome.MALFORMED),
    "P18-drip": (Reply(200, RIGHT.encode(), drip_s=0.05), Outcome.TIMEOUT),
    "P18-silence": (Reply(200, RIGHT.encode(), drip_s=60.0), Outcome.TIMEOUT),
    "P20-500": (text(SAID.text, 500, ("Content-Type", "text/plain")), Outcome.SERVER_ERROR),
    "P20-429 without Retry-After": (json_reply(429), Outcome.RATE_LIMITED),
    "P20-503 Retry-After 1": (json_reply(503, fields=(("Retry-After", "1"),)), Outcome.SERVER_ERROR),
    "P20-429 odd Retry-After": (json_reply(429, fields=(("Retry-After", "-1, soon"),)), Outcome.RATE_LIMITED),
    "P20-503 Retry-After long ago": (
        json_reply(503, fields=(("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"),)), Outcome.SERVER_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "outcome"), MALFORMED.values(), ids=MALFORMED)
async def test_a_reply_that_is_no_grant(folder, caplog, reply, outcome):
    """503 at once, nothing upstream, nothing kept, nothing repeated; the next good reply serves by itself."""
    caplog.set_level(logging.DEBUG)
    async with world(folder) as odd:
        odd.server.script.append(reply)
        odd.server.default = token_reply(GOOD)
        answer = await odd.get()
        assert (answer.status, problem(answer)) == (503, "token-unavailable")
        assert answer.field(b"Retry-After") is not None
        assert await odd.gateway.sample("bearer_proxy_token_requests_total", credential="main", outcome=outcome) == 1
        shown = {
            "answer": answer.head + answer.body,
            "status": await odd.admin("/status.json"),
            "metrics": await odd.admin("/metrics"),
        }

        await odd.reaches("fresh")  # by itself
        assert len(odd.server.requests) == 2
        assert (await odd.get()).status == 200
    (head,) = odd.sent_on
    assert head.count(GOOD.encode()) == 1
    assert traces(CANARIES, {**shown, "upstream": head}) == []
    assert traces([SECRET, TOKEN, PLACE], {"log": logged(caplog)}) == []  # operators may read what the server says
    assert b"Evil" not in head


REFUSED: dict[str, tuple[Reply, Outcome]] = {
    "P17-invalid_client": (error_reply("invalid_client", 401, error_description=SAID.text), Outcome.INVALID_CLIENT),
    "P17-invalid_client as 400": (error_reply("invalid_client", 400), Outcome.INVALID_CLIENT),
    "P17-invalid_client in a 200": (error_reply("invalid_client", 200, access_token=TOKEN.text), Outcome.INVALID_CLIENT),
    "P17-401 with WWW-Authenticate": (
        json_reply(401, fields=(("WWW-Authenticate", f'Basic realm="{SAID.text}"'),)), Outcome.INVALID_CLIENT,
    ),
    "P17-secret in the description": (
        error_reply("invalid_client", 401, error_description=f"{SECRET.text} is wrong"), Outcome.INVALID_CLIENT,
    ),
    "P17-controls in the description": (
        error_reply("invalid_client", 401, error_description="\x1b[2J\r\nfaked line\0"), Outcome.INVALID_CLIENT,
    ),
    "P17-unreadable code": (json_reply(400, error="<script>"), Outcome.MALFORMED),
    "P20-invalid_scope": (error_reply("invalid_scope"), Outcome.INVALID_SCOPE),
    "P20-unauthorized_client": (error_reply("unauthorized_client"), Outcome.OAUTH_ERROR),
    "P20-unsupported_grant_type": (error_reply("unsupported_grant_type"), Outcome.OAUTH_ERROR),
    "P49-invalid_target": (error_reply("invalid_target"), Outcome.OAUTH_ERROR),
    "P20-an own code": (error_reply("AADSTS700016"), Outcome.OAUTH_ERROR),
    "P20-403 without a word": (Reply(403), Outcome.OAUTH_ERROR),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "outcome"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal(tmp_path, caplog, reply, outcome):
    """503 with the gateway's own words; refused for what we are, it is not asked again soon, however many requests come."""
    caplog.set_level(logging.DEBUG)
    async with world(tmp_path) as odd:
        odd.server.default = reply
        answers = [await odd.get() for _ in range(5)]
        assert {(answer.status, problem(answer)) for answer in answers} == {(503, "token-unavailable")}
        assert await odd.gateway.sample("bearer_proxy_token_requests_total", credential="main", outcome=outcome) >= 1
        if outcome.configuration_fault:
            assert len(odd.server.requests) == 1
        shown = {"status": await odd.admin("/status.json"), "metrics": await odd.admin("/metrics")}
    assert odd.sent_on == []
    told = {f"answer {number}": answer.head + answer.body for number, answer in enumerate(answers)}
    assert traces(CANARIES, {**shown, **told}) == []
    assert traces([SECRET, TOKEN], {"log": logged(caplog)}) == []  # operators may read what the server says, cleaned
    assert b"\x1b" not in logged(caplog)
    assert "faked line\n" not in caplog.text


USED: dict[str, tuple[Reply, float | None]] = {
    # ten kinds of expires_in, and the life that comes of each; None: used by those who waited, and not kept
    "P14-missing": (grant(expires_in=None), 300),
    "P14-null": (text(RIGHT.replace("3600", "null")), 300),
    "P14-text": (grant(expires_in="3600"), 3600),
    "P14-decimal": (text(RIGHT.replace("3600", "3600.0")), 3600),
    "P14-fraction": (grant(expires_in=3599.7), 3599),
    "P14-zero": (grant(expires_in=0), None),
    "P14-negative": (grant(expires_in=-1), None),
    "P14-huge": (grant(expires_in=10**12), 86400),
    "P14-beyond floats": (text(RIGHT.replace("3600", "1" + "0" * 400)), 86400),
    "P14-NaN": (text(RIGHT.replace("3600", "NaN")), 300),
    "P14-Infinity": (text(RIGHT.replace("3600", "Infinity")), 300),
    "P14-boolean": (grant(expires_in=True), 300),
    "P14-object": (grant(expires_in={}), 300),
    "P14-word": (grant(expires_in="soon"), 300),
    "P11-refresh token": (grant(refresh_token=REFRESH.text, refresh_expires_in=9), 3600),
    "P12-no token_type": (grant(token_type=None), 3600),
    "P13-lower case": (grant(token_type="bearer"), 3600),
    "P13-upper case": (grant(token_type="BEARER"), 3600),
    "P15-unknown members": (grant(id_token=REFRESH.text, x={"y": [1, {"z": None}]}), 3600),
    "P15-nested as deep as JSON goes": (text(RIGHT[:-1] + ', "x": ' + "[" * 200 + "]" * 200 + "}"), 3600),
    "P15-duplicate keys": (text('{"access_token": "first", "expires_in": 1, ' + RIGHT[1:]), 3600),
    "P16-text/html": (text(RIGHT, 200, ("Content-Type", "text/html")), 3600),
    "P16-no content type": (text(RIGHT, 200, ("X-None", "1")), 3600),
    "P16-charset": (text(RIGHT, 200, ("Content-Type", 'application/json; charset="x-none"')), 3600),
    "P16-BOM": (text(b"\xef\xbb\xbf" + RIGHT.encode()), 3600),
    "P16-UTF-16": (text(RIGHT.encode("utf-16")), 3600),
    "P16-Latin-1": (text(RIGHT[:-1].encode() + b', "client": "caf\xe9"}'), 3600),
    "P16-white space around": (text(f"\r\n\t {RIGHT}\r\n\r\n"), 3600),
    "P18-201": (text(RIGHT, 201), 3600),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "life_s"), USED.values(), ids=USED)
async def test_a_reply_that_is_odd_and_plain(folder, caplog, reply, life_s):
    """Its token goes upstream as `Bearer`, its life is the one that can be believed, and nothing else of it is kept."""
    caplog.set_level(logging.DEBUG)
    async with world(folder) as odd:
        odd.server.script.append(reply)
        odd.server.default = token_reply(GOOD)
        answer = await odd.get()
        assert answer.status == 200
        credential = await odd.credential()
        assert credential["lifetime_s"] == life_s
        assert credential["state"] == ("none" if life_s is None else "fresh")
        assert len(odd.server.requests) == 1
        shown = {
            "answer": answer.head + answer.body,
            "status": await odd.admin("/status.json"),
            "metrics": await odd.admin("/metrics"),
        }
    (head,) = odd.sent_on
    assert f"\r\nAuthorization: Bearer {TOKEN.text}\r\n".encode() in head
    assert traces([SECRET, TOKEN, REFRESH], {**shown, "log": logged(caplog)}) == []
    assert traces([SECRET, REFRESH], {"upstream": head}) == []


@pytest.mark.parametrize("expires_in", [0, -1], ids=["P14-zero again", "P14-negative again"])
async def test_tokens_without_life(tmp_path, expires_in):
    """Each serves who waited for it; no more than one a second is asked for, and none without a request."""
    async with world(tmp_path) as odd:
        odd.server.default = grant(expires_in=expires_in)
        began_s = odd.gateway.gateway._clock.now()
        answers = await asyncio.gather(*(odd.get() for _ in range(40)))
        assert {answer.status for answer in answers} <= {200, 503}
        while odd.gateway.gateway._clock.now() < began_s + 10:
            await asyncio.sleep(0.01)  # noqa: TID251  # half a second, in which nothing may happen
        passed_s = odd.gateway.gateway._clock.now() - began_s
        assert 1 <= len(odd.server.requests) <= min(passed_s + 1, 6)


async def test_a_refresh_token_that_comes_along(tmp_path):
    """It is never sent: the next token request is like the first."""
    async with world(tmp_path) as odd:
        odd.server.default = grant(refresh_token=REFRESH.text, expires_in=20)
        assert (await odd.get()).status == 200
        await until(lambda: len(odd.server.requests) >= 2)
    first, second, *_ = odd.server.requests
    assert (first.form, first.head) == (second.form, second.head)
    assert first.values("accept") == ["application/json"]


async def test_a_bad_reply_while_a_token_is_in_use(tmp_path):
    """It costs nothing: the token in use is used on."""
    async with world(tmp_path) as odd:
        odd.server.script.append(token_reply(GOOD, expires_in=60))
        odd.server.default = grant(access_token=f"{TOKEN.text}\r\nX-Evil: 1")
        assert (await odd.get()).status == 200
        await odd.reaches("held")
        assert (await odd.get()).status == 200
    assert all(GOOD.encode() in head for head in odd.sent_on)


def logged(caplog: pytest.LogCaptureFixture) -> bytes:
    """Returns all that was logged by the gateway and what it uses, with the fields of each line."""
    lines = [record.getMessage() + str(record.__dict__) for record in caplog.records if record.name != "asyncio"]
    return "\n".join([caplog.text, *lines]).encode()
