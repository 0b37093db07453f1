"""The README's commands, run as a new user would: every line of its shell blocks and every command of its table."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import proxy
from proxy.cli import _parser
from proxy.clock import SystemClock
from proxy.config.load import load
from proxy.demo.servers import DemoServers
from tests.real.needs import missing
from tests.support import program
from tests.support.raw_client import ask

README = (program.PROJECT / "README.md").read_text(encoding="utf-8")
SHELL_BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
# Run by tests of their own: the two make commands, the image, and what installs.
ELSEWHERE = ("make demo", "make test", "docker ", "python3 -m venv ", "export PATH=")


def lines() -> list[str]:
    """Returns every command line of the shell blocks, without its comment."""
    joined = "\n".join(SHELL_BLOCKS).replace("\\\n", " ")
    stripped = (text.split("  #")[0].strip() for text in joined.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


COMMANDS = [line for line in lines() if line.startswith("bearer-proxy ")]
ASSIGNMENTS = [line for line in lines() if re.match(r"[A-Z_]+=", line)]


@pytest.fixture
async def servers() -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=SystemClock()) as running:
        yield running


def test_every_line_is_known():
    """Nothing stands in a shell block that no test runs."""
    rest = [line for line in lines() if line not in COMMANDS + ASSIGNMENTS and not line.startswith(ELSEWHERE)]
    assert 1 == len(rest)
    assert rest[0].startswith("curl http://127.0.0.1:8080/orders")


@pytest.mark.parametrize("line", COMMANDS)
async def test_a_command_works_as_it_stands(servers: DemoServers, tmp_path: Path, line: str):
    """With the variables in ./.env, as the README has it; what serves is asked what the README asks."""
    assert {"TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "UPSTREAM_URL"} == {a.partition("=")[0] for a in ASSIGNMENTS}
    env_file = "\n".join(f"{name}={value}" for name, value in servers.settings().items())
    (tmp_path / ".env").write_text(env_file, encoding="utf-8")
    words = shlex.split(line)[1:]
    if words != ["run"]:
        ended = await program.run(*words, cwd=tmp_path)
        assert 0 == ended.code, ended.err
        return
    async with program.serving("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", cwd=tmp_path) as gateway:
        answer = await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n")
        assert 200 == answer.status
        assert 0 == (await gateway.stop()).code


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_installs_it(tmp_path: Path):
    """The line as it stands, but for the place; what it installed runs without the checkout."""
    (line,) = (line for line in lines() if line.startswith("python3 -m venv "))
    checkout, place, elsewhere = tmp_path / "checkout", tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(program.PROJECT / "proxy", checkout / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(program.PROJECT / name, checkout)
    here = line.replace("/opt/bearer-proxy", str(place)).replace("python3 ", f"{sys.executable} ")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], cwd=cwd, env=environment | more, capture_output=True, text=True, check=False
        )

    installed = run(here, checkout)
    if installed.returncode and run(f"{place}/bin/pip download --no-deps setuptools", elsewhere).returncode:
        missing(f"no package index is reachable: {installed.stderr[-300:]}")
    assert 0 == installed.returncode, installed.stderr
    shutil.rmtree(checkout)

    version = run(f"{place}/bin/bearer-proxy --version", elsewhere)
    assert version.stdout.split() == ["bearer-proxy", proxy.__version__]
    example = program.PROJECT / "config/examples/minimal.yaml"
    checked = run(f"{place}/bin/bearer-proxy check -c {example}", elsewhere, ORDERS_CLIENT_SECRET="s3cret")
    assert 0 == checked.returncode, checked.stderr


def test_the_table_names_every_command():
    """The table of commands and the program agree."""
    table = set(re.findall(r"^\| `bearer-proxy ([a-z]+)", README, re.MULTILINE))
    (commands,) = (action.choices for action in _parser()._actions if isinstance(action.choices, dict))
    assert set(commands) == table


def test_the_yaml_is_a_configuration(tmp_path: Path):
    """The README's YAML loads as it stands."""
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "proxy.yaml"
    file.write_text(text, encoding="utf-8")
    loaded = load(file, environ={}, use_env_file=False, check_files=False)
    assert ["orders"] == [route.name for route in loaded.settings.routes]


async def test_the_endpoints_answer(servers: DemoServers, tmp_path: Path):
    """Every path of the README's table of endpoints is there."""
    paths = re.findall(r"^\| `(/[a-z.]+)`", README, re.MULTILINE)
    assert {"/metrics", "/livez", "/readyz", "/status.json"} == set(paths)
    async with program.serving(
        "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", cwd=tmp_path, env=servers.settings()
    ) as gateway:
        port = int(gateway.admin.rpartition(":")[2])
        assert 200 == (await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")).status
        for path in paths:
            answer = await ask(port, b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (path.encode(), port))
            assert 200 == answer.status, path
        status = await ask(port, b"GET /status.json HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        assert "Bearer" not in json.dumps(json.loads(status.body))
