"""The gateway that the rows of one module share, once on each event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.gateway.http.world import World, running_world


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Has each row run on asyncio's loop and on uvloop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _world(tmp_path_factory: pytest.TempPathFactory, path: None) -> AsyncIterator[World]:
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    async with running_world(tmp_path_factory.mktemp("world")) as world:
        yield world
    assert [] == raised


@pytest.fixture
def world(_world: World, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """The world at its beginning. Whatever a row sends, nothing is logged as an error of the gateway's own."""
    _world.begin()
    yield _world
    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
