"""The demonstration as a user sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.support import program


async def test_every_step_is_shown(tmp_path: Path):
    """Refused without a token, answered through the gateway, one Authorization, renewed; exit code 0."""
    ended = await program.run("demo", "--once", cwd=tmp_path)
    assert 0 == ended.code, ended.err
    for shown in ("-> 401", "-> 200", "Authorization: ", "all answered 200", "It works."):
        assert shown in ended.out
    assert "Bearer ey" not in ended.out


async def test_it_finds_other_ports_if_the_usual_are_taken(tmp_path: Path):
    """With 8080 and 9464 taken it works all the same, and says where it listens."""
    with contextlib.ExitStack() as taken:
        for port in (8080, 9464):
            holder = taken.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # somebody else has it: as good
                holder.bind(("127.0.0.1", port))
                holder.listen()
        ended = await program.run("demo", "--once", cwd=tmp_path)
    assert 0 == ended.code, ended.err
    assert "127.0.0.1:8080 " not in ended.out


@pytest.mark.parametrize("moment", ["Three programs are running", "The same request"])
async def test_it_ends_with_ctrl_c(tmp_path: Path, moment: str):
    """As soon as it speaks; what it has not told yet, it leaves untold."""
    process = await program.start("demo", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert process.stdout is not None
    while moment.encode() not in (line := await process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (0, "") == (process.returncode, err.decode())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (apt-get install -y curl)")
async def test_what_it_says_to_try(tmp_path: Path):
    """Every command that it prints works as it stands; the token that one of them gets opens the API to another.

    It stays up for that, until Ctrl-C.
    """
    process = await program.start("demo", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert process.stdout is not None
    told = ""
    while "THE-TOKEN" not in told:
        line = (await process.stdout.readline()).decode()
        assert line
        told += line
    tried = re.sub(r" \\\n +", " ", told.partition("It stays up until Ctrl-C. Try:\n")[2])
    # two or more blanks stand before a remark
    commands = [re.split(r" {2,}", text.strip())[0] for text in tried.splitlines() if text.startswith("  curl ")]
    assert 8 == len(commands)

    said = await asyncio.gather(*map(shell, commands[:-1]))
    granted = json.loads(said[-1])
    said.append(await shell(commands[-1].replace("THE-TOKEN", granted["access_token"])))
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 20)

    assert 0 == process.returncode
    assert said[0].startswith("HTTP/1.1 401")
    assert all(said[number].startswith("HTTP/1.1 200") for number in (1, 2, 3, 7))
    assert "Bearer mine" not in said[2]
    assert "bearer_proxy_token_expiry" in said[4]
    assert "ok" in said[5]
    assert "Bearer" == granted["token_type"]


async def shell(command: str) -> str:
    running = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, _ = await running.communicate()
    return out.decode()
