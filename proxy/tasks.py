"""The one place that starts tasks: each has a name, is kept until it ends, and its failure is logged, never lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_log = logging.getLogger("proxy.tasks")


class Tasks:
    """A set of running tasks that end together."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, _T], *, name: str) -> asyncio.Task[_T]:
        """Starts a task, keeps a reference until it ends, and logs the type of an exception nobody else awaits."""
        task = asyncio.create_task(coroutine, name=name)  # noqa: TID251
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # the type alone: an exception's text may quote what the peer sent
            _log.debug("task %s ended with %s", task.get_name(), type(error).__name__)

    async def stop(self) -> None:
        """Cancels what still runs and waits until it has ended. Swallows their outcomes."""
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
