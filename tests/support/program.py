"""The program as a user runs it: a process of its own, with its own environment and working directory."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
_SERVES = re.compile(r'\bserving\b.*\blisten[=":]+(?P<listen>[^"]+?)"?[ ,]"?admin[=":]+(?P<admin>[^" ,]+)')
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment that holds nothing of this machine's gateway settings."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONPATH": str(PROJECT)} | dict(extra)


async def start(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
) -> asyncio.subprocess.Process:
    """Starts the program, by a command that starts others if one is given."""
    return await asyncio.create_subprocess_exec(
        *wrapper,
        sys.executable,
        "-m",
        "proxy",
        *arguments,
        cwd=cwd,
        env=environment(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Runs the program to its end."""
    process = await start(*arguments, cwd=cwd, env=env)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Serving:
    """A gateway process that serves."""

    def __init__(self, process: asyncio.subprocess.Process, listen: str, admin: str, lines: list[str]) -> None:
        self.process = process
        self.listen = listen
        self.admin = admin
        self.lines = lines  # of standard error, up to the present

    @property
    def port(self) -> int:
        """The port of the proxy listener."""
        return int(self.listen.rpartition(":")[2])

    async def stop(self, number: int = signal.SIGTERM) -> Ended:
        """Sends a signal and waits for the end."""
        self.process.send_signal(number)
        out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(), "\n".join([*self.lines, err.decode()]))


@asynccontextmanager
async def serving(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
) -> AsyncIterator[Serving]:
    """Runs `bearer-proxy run` until the block ends; its log, in either format, tells where it listens."""
    process = await start("run", *arguments, cwd=cwd, env=env, wrapper=wrapper)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        while True:
            line = (await process.stderr.readline()).decode()
            assert line, "the gateway ended:\n" + "".join(lines)
            lines.append(line.rstrip("\n"))
            if (serves := _SERVES.search(line)) is not None:
                break
        yield Serving(process, serves["listen"], serves["admin"], lines)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
