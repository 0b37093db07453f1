"""A clock that stands still until a test moves it; who sleeps on it wakes in order, at the very instant asked for."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

_TURNS = 12  # of the event loop: enough for a task to be woken, to run, and to wake the next, several times over


class FakeClock:
    """Both clocks start at round numbers. `now` moves by `advance` alone; the wall clock can be moved apart."""

    def __init__(self, *, now: float = 1_000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall_offset = wall - now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)  # noqa: TID251  # yields, as the real clock does
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    def jump_wall(self, seconds: float) -> None:
        """Moves the wall clock alone."""
        self._wall_offset += seconds

    def suspend(self, seconds: float) -> None:
        """Lets time pass while nothing runs: nobody wakes, both clocks are ahead afterwards."""
        self._now += seconds

    @property
    def sleepers(self) -> int:
        """How many sleep and were not cancelled."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Moves time and wakes, in order, who sleeps until then; lets each run before time goes on."""
        target = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            until, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._now = max(self._now, until)
            woken.set_result(None)
            await settle()
        self._now = max(self._now, target)
        await settle()


async def settle() -> None:
    """Lets every task run that can run without time or network."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)  # noqa: TID251  # turns of the loop, not time


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Waits, in turns of the loop, until something that sockets bring about is so; fails when it never is."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)  # noqa: TID251  # lets sockets work; nothing depends on its length
