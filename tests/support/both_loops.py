"""Runs a test on both event loops: asyncio's and uvloop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
import uvloop

_LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes two tests of an asynchronous one, each on an event loop of its own.

    Its fixtures are not asynchronous ones: those would live on another loop.
    """

    @pytest.mark.parametrize("new_loop", _LOOPS)
    @wraps(test)
    def on_a_loop(*, new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**fixtures))

    del on_a_loop.__wrapped__  # else pytest would find the coroutine function behind it
    signature = inspect.signature(test)
    added = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    on_a_loop.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    return on_a_loop
