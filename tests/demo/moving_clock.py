"""A clock that a test moves; sleeping on it takes no time."""

from __future__ import annotations

import asyncio


class MovingClock:
    """Both clocks start at a round number and move by `advance` and by sleeping."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)  # noqa: TID251  # yields, as the real one does
