"""The requests being served now, so that draining can wait for them and, at last, end them."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Serving(Protocol):
    """What serves a request: a task, or a connection on the direct path."""

    def cancel(self) -> object:
        """Ends the request soon: with 503 `draining`, if its answer has not begun."""


class Traffic:
    """The requests under way, by what serves them; draining is a state of it."""

    __slots__ = ("_idle", "_serving", "cut_off", "draining")

    def __init__(self) -> None:
        self._serving: set[Serving] = set()
        self._idle: asyncio.Event | None = None  # while somebody waits until nothing is served
        self.draining = False  # answers close their connections
        self.cut_off = False  # the drain timeout has passed

    def __len__(self) -> int:
        return len(self._serving)

    def begin(self, serving: Serving) -> None:
        """Counts a request."""
        self._serving.add(serving)

    def end(self, serving: Serving) -> None:
        """Counts the request's end."""
        self._serving.discard(serving)
        if self._idle is not None and not self._serving:
            self._idle.set()

    async def cut(self) -> None:
        """Ends what is still being served; requests without an answer yet get 503 `draining`."""
        self.cut_off = True
        idle = self._idle = asyncio.Event()
        for serving in list(self._serving):
            serving.cancel()
        if self._serving:
            await idle.wait()
