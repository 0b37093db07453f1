"""The demonstration as a user sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

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


async def test_it_stays_up_until_ctrl_c(tmp_path: Path):
    """Without --once it prints what to try and waits."""
    process = await program.start("demo", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert process.stdout is not None
    while b"It stays up until Ctrl-C" not in (line := await process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 20)
    assert 0 == process.returncode
