"""The one place that reads clocks and sleeps.

Deadlines count on ``now()``: CLOCK_BOOTTIME, which runs through suspend, where it exists, else the monotonic clock; the
wall clock serves display and the detection of jumps only. Everything that needs time takes a ``Clock`` argument, so
that tests can move it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Time as the gateway sees it."""

    def now(self) -> float:
        """Returns seconds on a clock that never jumps and runs through suspend; its zero has no meaning."""

    def wall(self) -> float:
        """Returns seconds since the Unix epoch; may jump."""

    async def sleep(self, seconds: float) -> None:
        """Waits that many seconds; zero or less only yields."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ("now", "wall")

    def __init__(self) -> None:
        # attributes, since each request reads them several times; on CLOCK_BOOTTIME where it is known, else monotonic
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        self.now: Callable[[], float] = (
            time.monotonic if boot is None else partial(time.clock_gettime, boot)  # noqa: TID251
        )
        self.wall: Callable[[], float] = time.time  # noqa: TID251

    async def sleep(self, seconds: float) -> None:
        """Waits on the event loop."""
        await asyncio.sleep(seconds)  # noqa: TID251


class HttpDate:
    """The value of a Date field for now, made once a second. Source: RFC 9110 §5.6.7 (IMF-fixdate)."""

    __slots__ = ("_second", "_value", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        """`wall` gives seconds since the Unix epoch."""
        self._wall = wall
        self._second = -1
        self._value = b""

    def __call__(self) -> bytes:
        """Returns the value."""
        second = int(self._wall())
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode("ascii")
        return self._value


http_date = HttpDate(SystemClock().wall)
