"""Credentials kept against a scripted authorization server, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.oauth.client import TokenEndpointClient
from proxy.tasks import Tasks
from proxy.tokens.access_token import CredentialName
from proxy.tokens.keepers import Keepers
from proxy.tokens.source import CredentialSettings, TokenSource, TokenStatus
from tests.oauth.registrations import registration
from tests.support.fake_clock import FakeClock, settle
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer

ORDERS = CredentialName("orders")
WAIT_S = 20.0  # far beyond what anything here takes


class Chance:
    """What stands in for chance: the number that the test sets."""

    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


@dataclass
class Kept:
    """Running keepers and what they stand on."""

    server: ScriptedAuthorizationServer
    clock: FakeClock
    chance: Chance
    tasks: Tasks
    keepers: Keepers

    @property
    def source(self) -> TokenSource:
        """The source of `orders`."""
        return self.keepers.sources[ORDERS]

    @property
    def status(self) -> TokenStatus:
        """The facts of `orders`."""
        return self.source.status()

    def nothing_under_way(self) -> bool:
        """Tells whether no token request of `orders` is running."""
        return self.status.next_try_in_s != 0

    def text(self) -> str | None:
        """Returns what `current` would send."""
        token = self.source.current()
        return None if token is None else token.field_value.decode().removeprefix("Bearer ")


def settings(server: ScriptedAuthorizationServer, name: str = "orders", **members: Any) -> CredentialSettings:
    """Returns a credential at this server; members of its registration are given as a dictionary `asks`."""
    asks = members.pop("asks", {})
    return CredentialSettings(
        name=CredentialName(name), registration=registration(server.url, **asks), **{"required": False, **members}
    )


@asynccontextmanager
async def kept(server: ScriptedAuthorizationServer, *credentials: CredentialSettings) -> AsyncIterator[Kept]:
    """Runs keepers for these credentials, or for one lazy `orders`; afterwards no task is left."""
    clock, chance, tasks = FakeClock(), Chance(), Tasks()
    client = TokenEndpointClient(clock)
    keepers = Keepers(
        credentials or [settings(server)], request=client.request, clock=clock, tasks=tasks, random=chance
    )
    try:
        yield Kept(server, clock, chance, tasks, keepers)
    finally:
        await keepers.stop()
        await settle()
        assert not tasks._running
        await client.close()
