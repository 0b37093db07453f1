"""Fixtures of the demonstration's tests: both servers on loopback, a moved clock, and an ordinary HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.demo import DemoServers
from tests.demo.moving_clock import MovingClock


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
async def servers(clock: MovingClock) -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=clock, lifetime_s=10) as servers:
        yield servers


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True), timeout=aiohttp.ClientTimeout(total=10)
    ) as session:
        yield session
