"""Octets that go from one TCP connection to another within the system, without a copy into this process: splice(2).

Of a body of megabytes, copying is what costs: out of the system, within the process, and back. Linux moves the pages
through a pipe instead. Whoever has a splice leaves both sockets alone until it has ended; at its end nothing is lost in
the pipe but what a target that is gone did not take. It knows nothing of what is spoken on the connections.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import sys
from contextlib import suppress
from typing import Protocol

from proxy.units import KIB

LEAST = 512 * KIB  # octets for which a pipe and two descriptors pay
AT_ONCE = 128  # at most in the process: all pipes of a user together have 64 MiB
DESCRIPTORS = 4  # that each has: a pipe, and both sockets once more
_PIPE = 256 * KIB  # as much as the event loop reads at once; what a slow target leaves waits in it
_STEPS = 4  # through the pipe in one turn of the event loop, so that everybody has one
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP}  # to this system, or forbidden by a sandbox
_FAMILIES = {socket.AF_INET, socket.AF_INET6}


class Party(Protocol):
    """Who has a splice. One of the last four calls ends it, and nothing comes after that."""

    def on_moved(self, octets: int) -> None:
        """The target's system has taken so many octets."""

    def on_stalled(self) -> None:
        """The target takes nothing for now."""

    def on_flowing(self) -> None:
        """The target takes octets again."""

    def on_spliced(self) -> None:
        """All octets were moved."""

    def on_source_lost(self, cause: OSError) -> None:
        """The source has broken."""

    def on_target_lost(self) -> None:
        """The target takes nothing any more."""

    def on_refused(self, held: bytes, left: int) -> None:
        """The system does not do it, or no further: the rest is the party's to read.

        `held` has left the source already, and so many octets follow there, or its end; all others were moved.
        """


class Splice:
    """One stream of a known number of octets, under way from the event loop's next turn on."""

    __slots__ = ("_broken", "_held", "_left", "_loop", "_party", "_reads", "_source", "_target", "_writes")

    # until the system says otherwise
    possible = sys.platform == "linux" and hasattr(os, "splice") and hasattr(fcntl, "F_SETPIPE_SZ")
    at_once = AT_ONCE  # or less, as many as there are descriptors for
    under_way = 0

    def __init__(self, source: int, target: int, pipe: tuple[int, int], octets: int, party: Party) -> None:
        """Takes four descriptors over; see ``splice``."""
        self._source = source
        self._target = target
        self._reads, self._writes = pipe
        self._left = octets  # that are still to leave the source
        self._held = 0  # octets in the pipe
        self._party = party
        broken = select.poll()
        broken.register(source, 0)  # a reset is told in any case
        self._broken = broken.poll
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._move)
        Splice.under_way += 1

    @classmethod
    def available(cls, target: socket.socket) -> bool:
        """Tells whether the system does it to such a target, and another one may begin."""
        return cls.possible and cls.under_way < cls.at_once and target.family in _FAMILIES

    def close(self) -> None:
        """Lets go of both sockets, whatever is under way; the party hears nothing more. Idempotent."""
        if self._source >= 0:
            Splice.under_way -= 1
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._target)
            _close(self._source, self._target, self._reads, self._writes)
            self._source = -1

    def _move(self) -> None:
        """Moves what has come, as far as the target takes it."""
        if self._source < 0:
            return
        for step in range(_STEPS):
            if not self._held and not self._fill(woken=step == 0):
                return
            while self._held:  # none may stay, since the source may have no more that would wake this up
                if not self._drain():
                    return
        # the source may have some: the event loop calls again, though uvloop only once for a source that was reset
        if self._broken(0):
            self._loop.remove_reader(self._source)
            self._loop.call_soon(self._move)

    def _fill(self, *, woken: bool) -> bool:
        """Moves octets from the source into the empty pipe; tells whether there were any. `woken` says there must be."""
        try:
            moved = os.splice(self._source, self._writes, min(self._left, _PIPE), flags=_FLAGS)
        except BlockingIOError:
            if woken:  # urgent data (MSG_OOB) is in the way, which only reading passes over
                self._give_back()
            return False
        except OSError as error:
            if not self._refused(error):
                self.close()
                self._party.on_source_lost(error)
            return False
        if not moved:  # its end, or urgent data before that
            self._give_back()
            return False
        self._left -= moved
        self._held = moved
        return True

    def _refused(self, error: OSError) -> bool:
        """Gives back what the system does not do at all; tells whether that is so."""
        if error.errno not in _UNKNOWN:
            return False
        Splice.possible = False
        self._give_back()
        return True

    def _give_back(self) -> None:
        """Ends it where it is, with nothing lost."""
        held = b""
        while len(held) < self._held:
            held += os.read(self._reads, self._held - len(held))
        self.close()
        self._party.on_refused(held, self._left)

    def _drain(self) -> bool:
        """Moves octets from the pipe to the target; tells whether more may come from the source."""
        try:
            moved = os.splice(self._reads, self._target, self._held, flags=_FLAGS)
        except BlockingIOError:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._go_on)
            self._party.on_stalled()
            return False
        except OSError as error:
            if not self._refused(error):
                self.close()
                self._party.on_target_lost()
            return False
        self._held -= moved
        self._party.on_moved(moved)
        if self._left or self._held:
            return self._source >= 0  # else the party has closed it
        self.close()
        self._party.on_spliced()
        return False

    def _go_on(self) -> None:
        """Goes on with a target that takes octets again."""
        self._loop.remove_writer(self._target)
        self._loop.add_reader(self._source, self._move)
        self._party.on_flowing()
        if self._source >= 0:
            self._move()


_FLAGS = (os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK) if Splice.possible else 0


def splice(source: socket.socket, target: socket.socket, octets: int, party: Party) -> Splice | None:
    """Returns a splice of the next octets of one TCP connection to another; None where none can be had.

    Neither connection's transport may read or write meanwhile, nor have octets that it still holds.
    """
    if not Splice.available(target) or source.family not in _FAMILIES:
        return None
    made: list[int] = []
    with suppress(OSError):  # no descriptor left, or too many pipes for this user
        made += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if fcntl.fcntl(made[1], fcntl.F_SETPIPE_SZ, _PIPE) < _PIPE:
            raise OSError
        # of their own, since event loops watch no descriptor of a transport for anybody else
        made.append(os.dup(source.fileno()))
        made.append(os.dup(target.fileno()))
        return Splice(made[2], made[3], (made[0], made[1]), octets, party)
    _close(*made)
    return None


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
