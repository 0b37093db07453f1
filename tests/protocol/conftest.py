"""A scripted authorization server, and the client that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.clock import SystemClock
from proxy.oauth.client import TokenEndpointClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedAuthorizationServer]:
    async with ScriptedAuthorizationServer() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[TokenEndpointClient]:
    made = TokenEndpointClient(SystemClock())
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # configurations name their files by relative paths
