"""Octets from socket to socket within the system: all of them, in order, whatever either end does."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest
import uvloop

from proxy import splicing
from proxy.splicing import Splice, splice
from proxy.units import KIB, MIB
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import settle, until
from tests.support.program import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice(2) is Linux's")
OCTETS = Random(5).randbytes(3 * MIB + 17)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No descriptor and no place is left over, whatever has happened; what the system said is forgotten."""
    monkeypatch.setattr(Splice, "possible", True)
    uvloop.new_event_loop().close()  # the first one opens descriptors for all that follow
    before = descriptors()
    yield
    assert (before, 0) == (descriptors(), Splice.under_way)


def descriptors() -> dict[str, str]:
    """Returns what every descriptor of this process stands for."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of what listed them
            found[entry.name] = str(entry.readlink())
    return found


class Told:
    """A party that writes down what it is told. A hook runs within the call of its name."""

    def __init__(self) -> None:
        self.moved = 0
        self.calls: list[str] = []
        self.end: tuple[str, object] | None = None
        self.hooks: dict[str, Callable[[], object]] = {}

    def on_moved(self, octets: int) -> None:
        assert octets > 0
        self.moved += octets
        self._called("moved")

    def on_stalled(self) -> None:
        self._called("stalled")

    def on_flowing(self) -> None:
        self._called("flowing")

    def on_spliced(self) -> None:
        self._ended("spliced", None)

    def on_source_lost(self, cause: OSError) -> None:
        self._ended("source lost", cause.errno)

    def on_target_lost(self) -> None:
        self._ended("target lost", None)

    def on_refused(self, held: bytes, left: int) -> None:
        self._ended("refused", (held, left))

    def _called(self, name: str) -> None:
        assert self.end is None
        self.calls.append(name)
        if name in self.hooks:
            self.hooks[name]()

    def _ended(self, how: str, detail: object) -> None:
        assert self.end is None
        self.end = (how, detail)

    @property
    def stalls(self) -> int:
        return self.calls.count("stalled") - self.calls.count("flowing")


class Way:
    """A TCP connection that is spliced to another: `sender` -> source, target -> `reader`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.sender, self.source = connected(host)
        self.reader, self.target = connected(host)
        self.told = Told()

    def begin(self, octets: int) -> Splice:
        begun = splice(self.source, self.target, octets, self.told)
        assert begun is not None
        return begun

    async def send(self, data: bytes, random: Random | None = None) -> None:
        """Sends all, in pieces of any size between turns of the loop."""
        view = memoryview(data)
        while view:
            piece = view[: random.choice((1, 17, 1448, 70_000, 300_000)) if random else None]
            await asyncio.get_running_loop().sock_sendall(self.sender, piece)
            view = view[len(piece) :]
            if random and random.random() < 0.3:
                await settle()

    async def read(self, octets: int, random: Random | None = None) -> bytes:
        """Reads so many octets, or less if the connection ends before."""
        data = bytearray()
        while len(data) < octets:
            most = random.choice((100, 5000, 200_000)) if random else MIB
            piece = await asyncio.get_running_loop().sock_recv(self.reader, min(most, octets - len(data)))
            if not piece:
                break
            data += piece
        return bytes(data)

    async def over(self) -> tuple[str, object]:
        """Waits for the end, and returns how it was."""
        await until(lambda: self.told.end is not None)
        assert self.told.end is not None
        return self.told.end

    async def stalled(self, octets: int = 50 * MIB) -> Splice:
        """Begins, and sends until the target takes nothing more and the source holds all that it can."""
        begun = self.begin(octets)
        while not self.told.stalls or select.select([], [self.sender], [], 0)[1]:
            try:
                self.sender.send(OCTETS[:100_000])
            except BlockingIOError:
                await settle()
        return begun


def connected(host: str) -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a TCP connection, as event loops want them."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        one = socket.create_connection(listener.getsockname()[:2])
        other, _ = listener.accept()
    for end in (one, other):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


@contextmanager
def way(host: str = "127.0.0.1") -> Iterator[Way]:
    made = Way(host)
    try:
        yield made
    finally:
        for end in (made.sender, made.source, made.target, made.reader):
            end.close()


def reset(end: socket.socket) -> None:
    """Closes with a RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


# ---- all of it


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("seed", [1, 2])
@on_both_loops
async def test_pieces_of_any_size(host: str, seed: int):
    """All arrives, in order; what follows in the source stays there."""
    with way(host) as one:
        one.begin(len(OCTETS))
        sending = asyncio.gather(one.send(OCTETS + b"the next", Random(seed)))
        assert OCTETS == await one.read(len(OCTETS), Random(-seed))
        assert ("spliced", None) == await one.over()
        await sending
        assert len(OCTETS) == one.told.moved
        assert b"the next" == await asyncio.get_running_loop().sock_recv(one.source, 100)
        one.target.send(b"behind it")
        assert b"behind it" == await one.read(9)


@pytest.mark.parametrize("octets", [1, 4095, 4096, 256 * KIB, 256 * KIB + 1, 1 * MIB])
@on_both_loops
async def test_as_many_as_were_there_before(octets: int):
    """Nothing more comes that could wake anybody up."""
    with way() as one:
        sending = asyncio.gather(one.send(OCTETS[:octets]))
        await settle()
        one.begin(octets)
        assert OCTETS[:octets] == await one.read(octets)
        assert ("spliced", None) == await one.over()
        await sending


@on_both_loops
async def test_many_at_the_same_time():
    """Each reader gets what was for it."""
    ways = [Way() for _ in range(8)]
    texts = [Random(number).randbytes(700_000 + number) for number in range(8)]
    for one, text in zip(ways, texts, strict=True):
        one.begin(len(text))
    assert Splice.under_way == 8
    sending = asyncio.gather(*(one.send(text, Random(2)) for one, text in zip(ways, texts, strict=True)))
    read = await asyncio.gather(*(one.read(len(text), Random(3)) for one, text in zip(ways, texts, strict=True)))
    await sending
    assert texts == read
    for one in ways:
        assert ("spliced", None) == await one.over()
        for end in (one.sender, one.source, one.target, one.reader):
            end.close()


@on_both_loops
async def test_a_target_that_takes_nothing_for_a_while():
    """The source is held back; that is told, as well as its end; all arrives."""
    octets = OCTETS * 8
    with way() as one:
        one.begin(len(octets))
        sending = asyncio.gather(one.send(octets))
        await until(lambda: one.told.stalls == 1)
        moved = one.told.moved
        await settle()
        assert (1, moved) == (one.told.stalls, one.told.moved)
        assert not sending.done()
        assert octets == await one.read(len(octets))
        assert ("spliced", None) == await one.over()
        await sending
        assert one.told.calls.count("stalled") == one.told.calls.count("flowing")


# ---- an end that breaks


@on_both_loops
async def test_a_source_that_ends_too_early():
    """What has come arrives; whoever reads on finds the end."""
    with way() as one:
        one.begin(1000)
        await one.send(b"x" * 600)
        one.sender.shutdown(socket.SHUT_WR)
        assert ("refused", (b"", 400)) == await one.over()
        assert b"x" * 600 == await one.read(600)
        assert b"" == await asyncio.get_running_loop().sock_recv(one.source, 100)


@on_both_loops
async def test_a_source_that_is_reset_behind_many_octets(monkeypatch: pytest.MonkeyPatch):
    """All that had come arrives, then the error is told: though uvloop tells but once that there is one."""
    monkeypatch.setattr(splicing, "_PIPE", 4 * KIB)  # as if the system held more than it usually does
    for _ in range(3):  # in the same event loop, on descriptors of the same numbers
        with way() as one:
            sent = one.sender.send(OCTETS[: 60 * KIB])
            reset(one.sender)
            one.begin(1 * MIB)
            assert ("source lost", errno.ECONNRESET) == await one.over()
            assert OCTETS[:sent] == await one.read(sent)
            assert sent == one.told.moved


@on_both_loops
async def test_a_source_that_is_reset_while_the_target_takes_nothing(monkeypatch: pytest.MonkeyPatch):
    """Likewise, when it takes octets again."""
    monkeypatch.setattr(splicing, "_PIPE", 4 * KIB)
    with way() as one:
        await one.stalled()
        reset(one.sender)
        await settle()
        assert one.told.end is None
        reading = asyncio.gather(one.read(50 * MIB))
        assert ("source lost", errno.ECONNRESET) == await one.over()
        one.target.close()
        assert [one.told.moved] == [len(octets) for octets in await reading]


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
@on_both_loops
async def test_a_target_that_leaves(leave: Callable[[socket.socket], None]):
    """It is told with the next octets."""
    with way() as one:
        one.begin(len(OCTETS))
        await one.send(b"first")
        assert b"first" == await one.read(5)
        leave(one.reader)
        while one.told.end is None:
            await one.send(b"more")
            await settle()
        assert ("target lost", None) == one.told.end


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
@on_both_loops
async def test_a_target_that_leaves_while_it_takes_nothing(leave: Callable[[socket.socket], None]):
    """It is told at once, though the source has nothing more to say."""
    with way() as one:
        await one.stalled()
        leave(one.reader)
        assert ("target lost", None) == await one.over()


# ---- what the system does not do


@on_both_loops
async def test_urgent_data():
    """No splice passes over it: it is given back instead of being tried for ever, and reading goes on behind it."""
    with way() as one:
        one.begin(1 * MIB)
        await one.send(b"before")
        assert b"before" == await one.read(6)
        one.sender.send(b"!", socket.MSG_OOB)
        await one.send(b"behind")
        assert ("refused", (b"", 1 * MIB - 6)) == await one.over()
        assert b"behind" == await asyncio.get_running_loop().sock_recv(one.source, 100)
        one.told = Told()
        again = one.begin(1 * MIB - 12)
        await one.send(b"and on")
        assert b"and on" == await one.read(6)
        again.close()


@on_both_loops
async def test_urgent_data_before_the_end():
    """What is behind it is not lost."""
    with way() as one:
        one.begin(1 * MIB)
        one.sender.send(b"!", socket.MSG_OOB)
        await one.send(b"behind")
        one.sender.shutdown(socket.SHUT_WR)
        assert ("refused", (b"", 1 * MIB)) == await one.over()
        assert b"behind" == await asyncio.get_running_loop().sock_recv(one.source, 100)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
@on_both_loops
async def test_a_system_that_does_not_do_it(error: int, monkeypatch: pytest.MonkeyPatch):
    """It is given back whole, and nobody tries again."""

    def refused(*_: object, **__: object) -> int:
        raise OSError(error, "refused")

    with way() as one:
        one.begin(1000)
        with monkeypatch.context() as patched:
            patched.setattr(os, "splice", refused)
            await one.send(b"x" * 1000)
            assert ("refused", (b"", 1000)) == await one.over()
        assert splice(one.source, one.target, 1000, Told()) is None
        assert b"x" * 1000 == await asyncio.get_running_loop().sock_recv(one.source, 2000)


@on_both_loops
async def test_a_target_that_refuses_it():
    """What was in the pipe by then is given back with the rest."""
    with way() as one:
        flags = fcntl.fcntl(one.target, fcntl.F_GETFL)
        fcntl.fcntl(one.target, fcntl.F_SETFL, flags | os.O_APPEND)  # to which the system does not splice
        await one.send(OCTETS[:1000])
        one.begin(1200)
        assert ("refused", (OCTETS[:1000], 200)) == await one.over()
        assert 0 == one.told.moved
        assert not Splice.available(one.target)


@on_both_loops
async def test_sockets_that_are_not_tcp():
    """None is spliced, on either side."""
    ends = socket.socketpair()
    with way() as one:
        assert splice(ends[0], one.target, 1000, Told()) is None
        assert splice(one.source, ends[0], 1000, Told()) is None
        assert not Splice.available(ends[0])
    for end in ends:
        end.close()


# ---- what it takes


@on_both_loops
async def test_more_than_there_may_be(monkeypatch: pytest.MonkeyPatch):
    """Whoever ends makes room."""
    monkeypatch.setattr(Splice, "at_once", 1)
    with way() as one, way() as other:
        first = one.begin(1000)
        assert splice(other.source, other.target, 1000, other.told) is None
        first.close()
        first.close()
        other.begin(1000).close()


@pytest.mark.parametrize("free", range(splicing.DESCRIPTORS))
@on_both_loops
async def test_too_few_descriptors(free: int):
    """None is begun, and those that were there still are."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with way() as one:
        taken = [os.dup(1) for _ in range(50)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, limits[1]))
        try:
            for number in taken[len(taken) - free :]:
                os.close(number)
            del taken[len(taken) - free :]
            assert splice(one.source, one.target, 1000, Told()) is None
            taken += [os.dup(1) for _ in range(free)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in taken:
                os.close(number)


@on_both_loops
async def test_a_pipe_that_is_too_small(monkeypatch: pytest.MonkeyPatch):
    """None is begun where the system gives no larger one."""
    monkeypatch.setattr(splicing, "_PIPE", -1)
    with way() as one:
        assert splice(one.source, one.target, 1000, Told()) is None


@pytest.mark.parametrize("call", ["moved", "stalled", "flowing"])
@on_both_loops
async def test_a_party_that_ends_it_when_it_is_told(call: str):
    """Nothing is told after that, and both sockets are free."""
    with way() as one:
        begun = one.begin(100 * MIB)
        one.told.hooks[call] = begun.close
        work = [asyncio.gather(one.send(OCTETS * 8))]
        if call != "moved":
            await until(lambda: "stalled" in one.told.calls)
        if call == "flowing":
            work.append(asyncio.gather(one.read(100 * MIB)))
        await until(lambda: call in one.told.calls)
        calls = list(one.told.calls)
        await settle()
        assert calls == one.told.calls
        assert call == calls[-1]
        for task in work:
            task.cancel()
        await asyncio.wait(work)


@on_both_loops
async def test_closed_before_its_next_turn(monkeypatch: pytest.MonkeyPatch):
    """What was to be done then is not done."""
    monkeypatch.setattr(splicing, "_PIPE", 4 * KIB)
    with way() as one:
        one.sender.send(OCTETS[: 60 * KIB])
        reset(one.sender)  # from now on it calls itself
        begun = one.begin(1 * MIB)

        def close_next() -> None:
            if len(one.told.calls) == splicing._STEPS:
                asyncio.get_running_loop().call_soon(begun.close)

        one.told.hooks["moved"] = close_next
        await until(lambda: Splice.under_way == 0)
        await settle()
        assert ["moved"] * splicing._STEPS == one.told.calls
        assert one.told.end is None


ELSEWHERE = """
import fcntl, os, socket, sys
sys.platform = {platform!r}
for module in (os, fcntl):
    for name in dir(module):
        if name.lower().startswith(("splice", "pipe2", "f_setpipe", "f_getpipe")):
            delattr(module, name)
from proxy.splicing import Splice, splice
one, other = socket.socketpair()
assert not Splice.available(one)
assert splice(one, other, 1, None) is None
import proxy.gateway.direct_exchange
"""


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_another_system(platform: str):
    """The module can be imported, and says no."""
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE.format(platform=platform)]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=50)
