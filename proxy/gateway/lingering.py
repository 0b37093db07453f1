"""Reading on after an early answer: a close with unread input would reset the connection, and the answer would be lost.

As nginx does it (`lingering_close`): for as long as octets keep coming, in bounds, so that a client that uploads all it
has before it reads gets its answer, and one that only wants to stay does not stay for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.units import MIB, SECONDS

IDLE_S = 2 * SECONDS  # without an octet
TOTAL_S = 30 * SECONDS
HALF_CLOSED_S = 5 * SECONDS  # in which an answer has to begin for a client that has ended its sending
MAX_OCTETS = 256 * MIB


class Lingering:
    """Counts what comes after the answer, drops it, and closes in the end."""

    __slots__ = ("_close", "_end_s", "_heard_s", "_left", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        now_s = loop.time()
        self._loop = loop
        self._close = close
        self._heard_s = now_s
        self._end_s = now_s + TOTAL_S
        self._left = MAX_OCTETS
        self._timer: asyncio.TimerHandle | None = loop.call_later(IDLE_S, self._look)

    def heard(self, octets: int) -> None:
        """Notes that so many octets came."""
        self._heard_s = self._loop.time()
        self._left -= octets
        if self._left < 0:
            self._look()

    def cancel(self) -> None:
        """Ends it without closing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.cancel()
        now_s = self._loop.time()
        due_s = min(self._heard_s + IDLE_S, self._end_s)
        if self._left < 0 or now_s >= due_s:
            self._close()
        else:
            self._timer = self._loop.call_at(due_s, self._look)
