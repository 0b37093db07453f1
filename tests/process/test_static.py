"""A token that another program keeps in a file, in a whole gateway and in the commands."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import SystemClock
from tests.support import program
from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, ok

GET = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = ok(b"", b'WWW-Authenticate: Bearer error="invalid_token"', status=b"401 Unauthorized")


async def wants_the_second(connection: ScriptedConnection) -> None:
    """Refuses every token but `at-2`."""
    while True:
        request = await connection.request()
        connection.send(ok(b"fine") if b"Bearer at-2\r\n" in request else REFUSED)


def configuration(upstream: ScriptedUpstream, folder: Path) -> str:
    return f"""\
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  fixed: {{grant_type: static, access_token_file: {folder / "token"}}}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "http://127.0.0.1:{upstream.port}", credential: fixed}}
"""


async def test_a_token_that_was_replaced_just_now(tmp_path: Path):
    """The upstream's 401 has the file read again, and the request is sent once more: the client notices nothing."""
    token = tmp_path / "token"
    token.write_text("at-1")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(wants_the_second))
        gateway = await stack.enter_async_context(running_gateway(configuration(upstream, tmp_path), tmp_path))
        assert (await ask(gateway.port, GET)).status == 401
        token.write_text("at-2\n")
        answer = await ask(gateway.port, GET)
        replays = await gateway.sample("bearer_proxy_token_replays_total", route="all", result="ok")
    assert (answer.status, answer.body) == (200, b"fine")
    assert replays in {0, 1}, "whether the change was seen before the request or by its refusal"


async def test_what_is_told_of_it(tmp_path: Path):
    """Fresh, without an end: no expiry in the metrics, no budget that it could use up, and JSON that is JSON."""
    (tmp_path / "token").write_text("at-2")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(wants_the_second))
        gateway = await stack.enter_async_context(running_gateway(configuration(upstream, tmp_path), tmp_path))
        await ask(gateway.port, GET)
        samples = await gateway.samples()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.get(f"{gateway.admin_url}/readyz") as reply:
            assert reply.status == 200
        async with session.get(f"{gateway.admin_url}/status.json") as reply:
            text = await reply.text()
    names = {name for name, _ in samples}
    assert samples["bearer_proxy_token_state", (("credential", "fixed"), ("state", "fresh"))] == 1
    assert not {"bearer_proxy_token_expiry_timestamp_seconds", "bearer_proxy_outage_budget_seconds"} & names
    assert json.loads(text, parse_constant=pytest.fail)["credentials"][0]["state"] == "fresh"
    assert "at-2" not in text


async def test_a_file_that_is_not_there_yet(tmp_path: Path):
    """Not an error of the configuration at run time: the gateway waits for it and says so."""
    token = tmp_path / "token"
    token.write_text("at-2")
    async with ScriptedUpstream(wants_the_second) as upstream:
        text = configuration(upstream, tmp_path)
        (tmp_path / "proxy.yaml").write_text(text)
        async with running_gateway(text, tmp_path) as gateway:
            token.unlink()
            refused = await ask(gateway.port, GET)
            if refused.status == 503:  # it was removed before it was first looked at
                assert json.loads(refused.body)["type"] == "urn:bearer-proxy:problem:token-unavailable"
            token.write_text("at-2")
            for _ in range(100):
                answer = await ask(gateway.port, GET)
                if answer.status == 200:
                    break
                await SystemClock().sleep(0.05)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("token",), "lifetime:   not told"),
        (("token", "--header"), "Authorization: Bearer at-2"),
        (("check",), ""),
        (("check", "--live"), "credential fixed: token granted, lifetime not told"),
        (("call", "/orders"), "fine"),
        (("explain", "GET", "/orders"), "credential: fixed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
async def test_commands(tmp_path: Path, command: tuple[str, ...], shown: str):
    """They take the token from its file as the gateway does."""
    (tmp_path / "token").write_text("at-2\n")
    async with ScriptedUpstream(wants_the_second) as upstream:
        (tmp_path / "proxy.yaml").write_text(configuration(upstream, tmp_path))
        ended = await program.run(command[0], "-c", "proxy.yaml", *command[1:], cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert shown in ended.out
    if "--header" not in command:
        assert "at-2" not in ended.out + ended.err


async def test_commands_without_a_token(tmp_path: Path):
    """The reason and the file's key are told, its text is not."""
    (tmp_path / "token").write_text("c4nary c4nary")
    async with ScriptedUpstream() as upstream:
        (tmp_path / "proxy.yaml").write_text(configuration(upstream, tmp_path))
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)
    assert ended.code == 2
    assert "credentials.fixed.access_token_file: the file's text has characters" in ended.err
    assert "c4nary" not in ended.err
