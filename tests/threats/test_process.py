"""T18, T19, T23 to T25: the process, its files and its bounds, against a local user and against who takes too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy import cli
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.canaries import Canary, traces
from tests.support.fronting import connected, in_front_of, request
from tests.support.raw_client import RawClient, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
SECRET = Canary("client secret", "qV7tX2mK9rWz.u5NbY8cLd3FhJ")
NOBODY = 65534

CONFIGURATION = """\
version: 1
listen: 127.0.0.1:0
admin: off
credentials:
  main: {{token_endpoint: "http://127.0.0.1:{port}/token", client_id: a, {secret}, required: false}}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "http://127.0.0.1:{port}", credential: main}}
"""


def written(folder: Path, secret: str, *, port: int = 9) -> None:
    """Writes a configuration whose secret is given so."""
    (folder / "proxy.yaml").write_text(CONFIGURATION.format(secret=secret, port=port), encoding="utf-8")


# ---- T18: secrets that other users of the machine can read


@linux
@pytest.mark.parametrize("way", ["file", ".env"])
async def test_t18_command_line_and_environment(tmp_path: Path, way: str):
    """A secret in a file or in `.env` stands in neither of them, whoever may read them."""
    (tmp_path / "secret").write_text(SECRET.text, encoding="utf-8")
    (tmp_path / ".env").write_text(f"CLIENT_SECRET={SECRET.text}\n", encoding="utf-8")
    written(tmp_path, "client_secret_file: secret" if way == "file" else "client_secret: '${CLIENT_SECRET}'")
    async with program.serving("-c", "proxy.yaml", cwd=tmp_path) as gateway:
        process = Path(f"/proc/{gateway.process.pid}")
        shown = {name: (process / name).read_bytes() for name in ("cmdline", "status")}
        assert b"proxy.yaml" in shown["cmdline"]
        if os.geteuid() == 0:
            shown["environ"] = (process / "environ").read_bytes()
            assert b"PATH=" in shown["environ"]
        else:  # root's alone, since the process is closed to others
            with pytest.raises(PermissionError):
                (process / "environ").read_bytes()
        assert [] == traces([SECRET], shown)
        assert 0 == (await gateway.stop()).code


def test_t18_no_argument_takes_a_secret(capsys: pytest.CaptureFixture[str]):
    """No command has an option for one: what stands on a command line, every user of the machine can read."""
    for command in ("run", "demo", "check", "token", "call", "explain", "schema", "health"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert not {option for option in options if re.search("secret|password|key|token", option)}
    for option in ("--client-secret", "--token", "--password"):
        with contextlib.suppress(SystemExit):
            assert 2 == cli.main(["run", option, SECRET.text])
        assert SECRET.text not in (said := capsys.readouterr()).out
        assert "usage" in said.err.lower()


@pytest.mark.parametrize(
    ("secret", "mode", "warns"),
    [
        (f"client_secret: {SECRET.text}", 0o644, True),
        (f"client_secret: {SECRET.text}", 0o600, True),
        ("client_secret_file: secret", 0o644, True),
        ("client_secret_file: secret", 0o640, False),
        ("client_secret_file: secret", 0o600, False),
    ],
)
def test_t18_files_that_others_can_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    secret: str,
    mode: int,
    warns: bool,
):
    """A secret written into the configuration, or in a file that everybody can read, is warned of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text(SECRET.text, encoding="utf-8")
    written(tmp_path, secret)
    for name in ("secret", "proxy.yaml"):
        (tmp_path / name).chmod(mode)
    assert 0 == cli.main(["check", "--no-env-file", "-c", "proxy.yaml"])
    said = capsys.readouterr()
    assert warns == ("secret" in said.err + said.out and "warning" in said.err + said.out)
    assert [] == traces([SECRET], {"output": said.out.encode(), "errors": said.err.encode()})


# ---- T19: YAML that does more than it says


BOMB = "x-a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"x-{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("x-a: !!python/object/apply:os.system ['touch owned']", id="a tag of Python's"),
        pytest.param("x-a: !include /etc/passwd", id="a tag of its own"),
        pytest.param("x-a: !!binary aGVsbG8=", id="a tag of the standard"),
        pytest.param("version: 1", id="a key twice"),
        pytest.param("admn: off", id="an unknown key"),
        pytest.param(BOMB, id="an alias bomb"),
        pytest.param("x-a: " + "[" * 50_000, id="brackets without end"),
        pytest.param("x-a: '" + "a" * 3_000_000 + "'", id="three megabytes"),
        pytest.param("x-a: {? [a] : b}", id="a list as a key"),
        pytest.param('x-a: "\\ud800"\nx-b: \x07', id="no text"),
    ],
)
def test_t19_a_hostile_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str
):
    """It is refused, in less than a second of the processor's time, and does nothing."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "client_secret: '${S:-x}'")
    with (tmp_path / "proxy.yaml").open("a", encoding="utf-8") as file:
        file.write(more + "\n")
    started_s = time.process_time()
    assert 2 == cli.main(["check", "--no-env-file", "-c", "proxy.yaml"])
    assert 1 > time.process_time() - started_s
    assert "proxy.yaml:" in capsys.readouterr().err
    assert {"proxy.yaml"} == {path.name for path in tmp_path.iterdir()}


# ---- T23: who takes more than a share


LIMITS = """\
limits: {connections: 40, connections_per_client: 25, head_bytes: 4KiB, field_count: 20, body_bytes: 64KiB,
  head_timeout: 2s, body_idle_timeout: 2s, write_idle_timeout: 2s}
"""


@on_both_loops
async def test_t23_one_client_takes_all_it_can(tmp_path: Path):
    """Slow heads, slow bodies, huge heads and bodies: each is ended in time, and others are served meanwhile.

    Who does not read its answer is ended too: tests/gateway/test_streaming.py.
    """
    async with (
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, top=LIMITS) as gateway,
        AsyncExitStack() as stack,
    ):
        assert 200 == await honest(gateway.port)
        slow = [await stack.enter_async_context(connected(gateway.port)) for _ in range(25)]
        slow_body = request(b"POST", b"/", b"Content-Length: 1000") + b"x"
        for number, client in enumerate(slow):
            await client.send([b"GET / HT", slow_body][number % 2])
        assert 503 == (await ask(gateway.port, request(b"GET"))).status  # one connection too many
        assert 200 == await honest(gateway.port)  # another client's
        assert [408] * 25 == [(await client.answer()).status for client in slow]
        for client in slow:
            client.writer.transport.abort()
        while gateway.gateway.server.open_connections:
            await asyncio.sleep(0.01)  # noqa: TID251
        for octets, status in (
            (request(b"GET", b"/" + b"x" * 5000), 414),
            (request(b"GET", b"/", b"X: " + b"x" * 5000), 431),
            (request(b"GET", b"/", *[b"X: y"] * 30), 431),
            (request(b"POST", b"/", b"Content-Length: 65537"), 413),
            (request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"ffff0\r\n" + b"x" * 80_000, 413),
            (request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"1;" + b"x" * 80_000, 400),
        ):
            assert status == (await ask(gateway.port, octets)).status
        assert 200 == await honest(gateway.port)


async def honest(port: int) -> int:
    """Asks as another client, and returns the status."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)))
    try:
        await client.send(request(b"GET"))
        return (await client.answer()).status
    finally:
        await client.close()


@linux
async def test_t23_connections_leave_descriptors_for_the_rest(tmp_path: Path):
    """With few descriptors, connections beyond nearly half of them are refused at once; each that is in is served."""
    async with (
        ScriptedUpstream(always(ok())) as upstream,
        ScriptedAuthorizationServer() as server,
        AsyncExitStack() as stack,
    ):
        written(tmp_path, "client_secret: '${S:-x}'", port=upstream.port)
        text = (tmp_path / "proxy.yaml").read_text(encoding="utf-8")
        (tmp_path / "proxy.yaml").write_text(
            text.replace(f"{upstream.port}/token", f"{server.port}/token"), encoding="utf-8"
        )
        few = ("prlimit", "--nofile=200:200")
        gateway = await stack.enter_async_context(program.serving("-c", "proxy.yaml", cwd=tmp_path, wrapper=few))
        clients = [await stack.enter_async_context(connected(gateway.port)) for _ in range(120)]
        statuses = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                await client.send(request(b"GET"))
            statuses.append((await client.answer()).status)
        assert {200: 59, 503: 61} == {status: statuses.count(status) for status in set(statuses)}
        assert "event loop error" not in (await gateway.stop()).err


# ---- T24: memory that is dumped, or read by another process


ATTACKER = """
import ctypes, os, sys
if os.getuid() == 0:
    os.setgid({nobody}); os.setuid({nobody})
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for name in ("mem", "environ", "maps", "auxv"):
    try:
        with open(f"/proc/{{pid}}/{{name}}", "rb") as file:
            print(name)
    except PermissionError:
        pass
libc.ptrace.argtypes = [ctypes.c_long] * 4
if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
    print("ptrace")
"""
# Becomes another user where the tests run as root. That closes the memory as well, so it is opened again: what counts is
# what the gateway does at its start.
GATEWAY = """
import ctypes, os, sys, pkgutil, importlib, encodings.idna, encodings.utf_8_sig, uvloop
sys.path.insert(0, {project!r})
import proxy
for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
    if module.name != "proxy.__main__":
        importlib.import_module(module.name)
if os.getuid() == 0:
    os.setgid({nobody}); os.setuid({nobody})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
{then}
"""


@linux
async def test_t24_another_process_of_the_same_user(tmp_path: Path):
    """It cannot read the running gateway's memory or environment, nor attach to it; no core is dumped."""
    tmp_path.chmod(0o755)
    written(tmp_path, "client_secret: '${S:-x}'")
    (tmp_path / "proxy.yaml").chmod(0o644)
    run = "from proxy.cli import main; sys.exit(main(['run', '--no-env-file', '-c', 'proxy.yaml']))"
    everything = ["mem", "environ", "maps", "auxv", "ptrace"]
    async with started(tmp_path, "print('serving', flush=True); import time; time.sleep(60)") as pid:
        if everything != read_by_another(pid):
            pytest.skip("here, processes of one user cannot read each other in any case")
    async with started(tmp_path, run) as pid:
        assert [] == read_by_another(pid)
        limits = (
            Path(f"/proc/{pid}/limits").read_text(encoding="ascii") if os.geteuid() == 0 else "Max core file size 0 0 "
        )
        assert re.search(r"(?m)^Max core file size +0 +0 ", limits)
        assert 0 == Path(f"/proc/{pid}/environ").stat().st_uid  # all of it belongs to root, as of any such process


@asynccontextmanager
async def started(folder: Path, then: str) -> AsyncIterator[int]:
    """Runs a process up to the line that says `serving`; yields its number."""
    code = GATEWAY.format(project=str(program.PROJECT), nobody=NOBODY, then=then)
    process = await asyncio.create_subprocess_exec(
        *("prlimit", "--core=unlimited", sys.executable, "-c", code),
        cwd=folder, env=program.environment({}), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = line = b""
        while b"serving" not in line:
            said += (line := await process.stdout.readline())
            assert line, f"it ended: {said.decode()}"
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def read_by_another(pid: int) -> list[str]:
    """Returns what another process of the user of the gateway can get at."""
    code = ATTACKER.format(nobody=NOBODY)
    done = subprocess.run([sys.executable, "-c", code, str(pid)], capture_output=True, text=True, timeout=30)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


# ---- T25: what is installed is what was meant; see also tests/test_conventions.py, for the hashes


async def test_t25_no_start_without_the_c_parser(tmp_path: Path):
    """aiohttp's stand-in for it, which a wrong wheel brings, is refused at the start."""
    written(tmp_path, "client_secret: '${S:-x}'")
    ended = await program.run("run", "-c", "proxy.yaml", cwd=tmp_path, env={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert 2 == ended.code
    assert "C parser" in ended.err


def test_t25_every_requirement_is_locked_by_hashes():
    """The image installs nothing but what requirements.txt names, by version and hash."""
    text = (program.PROJECT / "requirements.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text))
    pins = [block for block in blocks if block.strip()]
    assert len(pins) > 10
    assert [] == [
        block.split()[0]
        for block in pins
        if not re.match(r"[a-z0-9._-]+==\S+[^\n]*\\\n\s+--hash=sha256:[0-9a-f]{64}", block)
    ]
    assert "--require-hashes" in (program.PROJECT / "Dockerfile").read_text(encoding="utf-8")
