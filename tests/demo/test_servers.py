"""Both servers together, as the demonstration and the end-to-end tests use them."""

from __future__ import annotations

import aiohttp
import pytest

from proxy.demo import DemoServers
from tests.demo.moving_clock import MovingClock


async def test_from_a_grant_to_an_answer(http):
    """The settings are all that a gateway needs: a token got with them opens the API."""
    async with DemoServers(clock=MovingClock()) as servers:
        settings = servers.settings()
        data = {
            "grant_type": "client_credentials",
            "client_id": settings["CLIENT_ID"],
            "client_secret": settings["CLIENT_SECRET"],
        }
        async with http.post(settings["TOKEN_URL"], data=data) as reply:
            token = (await reply.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with http.get(settings["UPSTREAM_URL"] + "/orders", headers=headers) as reply:
            assert reply.status == 200


async def test_after_the_end(http):
    """Both ports are closed when the block ends."""
    async with DemoServers(clock=MovingClock()) as servers:
        settings = servers.settings()
    for url in (settings["TOKEN_URL"], settings["UPSTREAM_URL"]):
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(url)


async def test_two_at_once():
    """Nothing is shared: not ports, not secrets, not keys."""
    async with DemoServers(clock=MovingClock()) as one, DemoServers(clock=MovingClock()) as two:
        assert not set(one.settings().values()) & set(two.settings().values()) - {"legacy-app"}


async def test_the_secret_is_in_no_repr():
    """What is printed by accident shows nothing."""
    servers = DemoServers(clock=MovingClock())

    assert servers.client.client_secret.reveal() not in repr(servers) + repr(servers.client)
