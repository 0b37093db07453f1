"""The command line: results on stdout, everything else on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import __version__
from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from tests.support import program


@pytest.fixture
async def servers() -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=SystemClock()) as running:
        yield running


async def test_version(tmp_path: Path):
    """--version prints name and version."""
    assert program.Ended(0, f"bearer-proxy {__version__}\n", "") == await program.run("--version", cwd=tmp_path)


@pytest.mark.parametrize("command", ["run", "demo", "check", "token", "call", "explain", "schema", "health"])
async def test_help_has_an_example(tmp_path: Path, command: str):
    """Every command explains itself."""
    ended = await program.run(command, "--help", cwd=tmp_path)
    assert 0 == ended.code
    assert f"example: {'curl' if command == 'token' else 'bearer-proxy ' + command}" in ended.out


async def test_an_unknown_command_is_a_usage_error(tmp_path: Path):
    """Exit code 2."""
    ended = await program.run("serve", cwd=tmp_path)
    assert (2, "") == (ended.code, ended.out)


async def test_token_shows_no_token_unless_asked(servers: DemoServers, tmp_path: Path):
    """By default type, lifetime and scope; the whole token only with --header or --json."""
    env = servers.settings()
    plain = await program.run("token", cwd=tmp_path, env=env)
    header = await program.run("token", "--header", cwd=tmp_path, env=env)
    whole = await program.run("token", "default", "--json", cwd=tmp_path, env=env)

    assert [0, 0, 0] == [plain.code, header.code, whole.code]
    assert "token type: Bearer" in plain.out
    document = json.loads(whole.out)
    assert {"access_token", "token_type", "expires_in", "scope"} == set(document)
    assert header.out.startswith("Authorization: Bearer ")
    assert document["access_token"].count(".") == 2
    assert max(map(len, plain.out.split())) < 40


async def test_token_explains_what_went_wrong(servers: DemoServers, tmp_path: Path):
    """A wrong secret: exit code 1, the authorization server's error, nothing secret."""
    ended = await program.run("token", cwd=tmp_path, env=servers.settings() | {"CLIENT_SECRET": "wrong+secret"})
    assert (1, "") == (ended.code, ended.out)
    assert "invalid_client" in ended.err
    assert "wrong+secret" not in ended.err


async def test_token_of_an_unknown_credential(servers: DemoServers, tmp_path: Path):
    """Exit code 2 and the name that was probably meant."""
    ended = await program.run("token", "defualt", cwd=tmp_path, env=servers.settings())
    assert 2 == ended.code
    assert 'did you mean "default"' in ended.err


async def test_check(servers: DemoServers, tmp_path: Path):
    """A good configuration is fine; a bad one is told with its place."""
    assert 0 == (await program.run("check", cwd=tmp_path, env=servers.settings())).code
    (tmp_path / "bad.yaml").write_text("version: 1\nroutez: []\n", encoding="utf-8")
    ended = await program.run("check", "-c", "bad.yaml", cwd=tmp_path)
    assert 2 == ended.code
    assert "bad.yaml:2:1: routez" in ended.err


async def test_schema(tmp_path: Path):
    """It is JSON, and describes the top-level keys."""
    ended = await program.run("schema", cwd=tmp_path)
    assert 0 == ended.code
    assert {"credentials", "routes", "listen"} <= set(json.loads(ended.out)["properties"])


async def test_health(servers: DemoServers, tmp_path: Path):
    """0 while the gateway lives and is ready, 1 when nobody answers."""
    async with program.serving(
        "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", cwd=tmp_path, env=servers.settings()
    ) as gateway:
        assert 0 == (await program.run("health", "--admin", gateway.admin, cwd=tmp_path)).code
        await servers.authorization_server.until_requests(1)
        ready = await program.run("health", "--ready", cwd=tmp_path, env={"BEARER_PROXY_ADMIN": gateway.admin})
        assert 0 == ready.code, ready
        await gateway.stop()
    ended = await program.run("health", "--admin", gateway.admin, cwd=tmp_path)
    assert (1, "") == (ended.code, ended.out)


async def test_health_imports_the_standard_library_only(tmp_path: Path):
    """A container probe runs every few seconds: it must cost little."""
    code = (
        "import sys, runpy\nsys.argv = ['x', 'health', '--admin', '127.0.0.1:1']\n"
        "from proxy.cli import main\nassert main() == 1\n"
        "assert not {'aiohttp', 'pydantic', 'yaml', 'prometheus_client', 'asyncio'} & set(sys.modules), sys.modules"
    )
    process = await program.asyncio.create_subprocess_exec(
        program.sys.executable, "-c", code, cwd=tmp_path, env=program.environment({}),
        stderr=program.asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert 0 == process.returncode, err.decode()


async def test_claims(servers: DemoServers, tmp_path: Path):
    """A JWT's header and claims, never its signature."""
    ended = await program.run("token", "--claims", cwd=tmp_path, env=servers.settings())
    assert 0 == ended.code
    document = json.loads(ended.out)
    assert {"header", "claims"} == set(document)
    assert "legacy-app" == document["claims"]["client_id"]


async def test_call(servers: DemoServers, tmp_path: Path):
    """One request through the gateway's own path: the body on stdout, the status on stderr, nothing listens."""
    env = servers.settings()
    got = await program.run("call", "/orders", cwd=tmp_path, env=env)
    assert (0, 3) == (got.code, len(json.loads(got.out)["orders"]))
    assert "HTTP/1.1 200 OK" in got.err

    order = ("-d", '{"item":"tea","quantity":1}', "-H", "Content-Type: application/json")
    posted = await program.run("call", *order, "/orders", cwd=tmp_path, env=env)
    assert (0, "tea") == (posted.code, json.loads(posted.out)["order"]["item"])
    assert "POST" == servers.protected_api.seen[-1].method

    streamed = await program.run("call", "/stream?lines=3&seconds=0", cwd=tmp_path, env=env)
    assert 3 == len(streamed.out.splitlines())
    assert 1 == (await program.run("call", "/nothing", cwd=tmp_path, env=env)).code


async def test_call_explains_what_went_wrong(servers: DemoServers, tmp_path: Path):
    """Who failed and how: the authorization server, the upstream, or the request itself."""
    env = servers.settings()
    no_token = await program.run("call", "/orders", cwd=tmp_path, env=env | {"CLIENT_SECRET": "wrong+secret"})
    assert 1 == no_token.code
    assert "invalid_client" in no_token.err
    assert "token-unavailable" in no_token.out
    assert "wrong+secret" not in no_token.err + no_token.out

    no_upstream = await program.run("call", "/orders", cwd=tmp_path, env=env | {"UPSTREAM_URL": "http://127.0.0.1:1"})
    assert 1 == no_upstream.code
    assert "connection_refused" in no_upstream.err

    ended = await program.run("call", "-H", "no colon", "/orders", cwd=tmp_path, env=env)
    assert 2 == ended.code


async def test_explain(servers: DemoServers, tmp_path: Path):
    """Route, credential and the request that would be sent, without its token; nothing is sent."""
    ended = await program.run("explain", "GET", "/orders/7?x=1", cwd=tmp_path, env=servers.settings())
    assert 0 == ended.code
    assert "route:      default" in ended.out
    assert "GET /orders/7?x=1 HTTP/1.1" in ended.out
    assert "Authorization: Bearer ***" in ended.out
    assert 0 == servers.protected_api.requests + servers.authorization_server.grants

    refused = await program.run("explain", "GET", "http://evil.example/", cwd=tmp_path, env=servers.settings())
    assert 1 == refused.code
    assert refused.out.startswith("421 refused: host-not-allowed (access.allowed_hosts does not list evil.example)")
    assert 2 == (await program.run("explain", "GET", "ftp://x/", cwd=tmp_path, env=servers.settings())).code


async def test_check_live(servers: DemoServers, tmp_path: Path):
    """One token per credential, and each upstream reached; a failure is told with a hint, exit code 1."""
    env = servers.settings()
    fine = await program.run("check", "--live", cwd=tmp_path, env=env)
    assert 0 == fine.code
    assert "token granted" in fine.out
    assert "connected" in fine.out
    assert 0 == servers.protected_api.requests

    broken = {"CLIENT_SECRET": "wrong+secret", "UPSTREAM_URL": "http://127.0.0.1:1"}
    ended = await program.run("check", "--live", cwd=tmp_path, env=env | broken)
    assert 1 == ended.code
    assert "invalid_client" in ended.err
    assert "connection_refused" in ended.err
    assert "wrong+secret" not in ended.err + ended.out
