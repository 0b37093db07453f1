"""The scripted authorization server, running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.scripted_authorization_server import ScriptedAuthorizationServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedAuthorizationServer]:
    async with ScriptedAuthorizationServer() as running:
        yield running
