"""The requests being served now, so that draining can wait for them and, at last, end them."""

from __future__ import annotations

import asyncio


class Traffic:
    """A set of request tasks; draining is a state of it."""

    __slots__ = ("_idle", "_serving", "cut_off", "draining")

    def __init__(self) -> None:
        self._serving: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False  # answers close their connections
        self.cut_off = False  # the drain timeout has passed

    def __len__(self) -> int:
        return len(self._serving)

    def begin(self, task: asyncio.Task[None]) -> None:
        """Counts a request."""
        self._serving.add(task)
        self._idle.clear()

    def end(self, task: asyncio.Task[None]) -> None:
        """Counts the request's end."""
        self._serving.discard(task)
        if not self._serving:
            self._idle.set()

    async def cut(self) -> None:
        """Ends what is still being served; requests without an answer yet get 503 `draining`."""
        self.cut_off = True
        for task in list(self._serving):
            task.cancel()
        await self._idle.wait()
