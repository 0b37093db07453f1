"""The two servers of the demonstration, started and stopped together, and what a gateway needs to use them."""

from __future__ import annotations

import secrets
from types import TracebackType
from typing import Self

from proxy.clock import Clock
from proxy.demo.authorization_server import AuthorizationServer, DemoClient
from proxy.demo.protected_api import ProtectedApi
from proxy.demo.tokens import TokenAuthority
from proxy.secret import Secret

_AUDIENCE = "urn:demo:orders"
_CLIENT_ID = "legacy-app"
_SCOPES = ("orders.read", "orders.write")


class DemoServers:
    """An authorization server and a protected API that trusts it, on free loopback ports; an async context manager.

    ``async with DemoServers(clock=clock, lifetime_s=10) as servers: ... servers.settings()``
    The client's secret is made at random for each instance.
    """

    def __init__(self, *, clock: Clock, lifetime_s: float = 60.0, host: str = "127.0.0.1") -> None:
        # reserved characters are in it so that a client which does not encode them fails here (RFC 6749 §2.3.1)
        self.client = DemoClient(
            client_id=_CLIENT_ID,
            client_secret=Secret(f"{secrets.token_urlsafe(24)}+%:&"),
            scopes=_SCOPES,
        )
        self.tokens = TokenAuthority(clock=clock, audience=_AUDIENCE)
        self.authorization_server = AuthorizationServer(
            [self.client], tokens=self.tokens, clock=clock, lifetime_s=lifetime_s
        )
        self.protected_api = ProtectedApi(tokens=self.tokens, clock=clock)
        self._host = host

    async def __aenter__(self) -> Self:
        await self.authorization_server.start(self._host)
        try:
            await self.protected_api.start(self._host)
        except BaseException:
            await self.authorization_server.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.protected_api.stop()
        await self.authorization_server.stop()

    def settings(self) -> dict[str, str]:
        """Returns the variables that configure a gateway without a file. CLIENT_SECRET is the secret in clear."""
        return {
            "TOKEN_URL": self.authorization_server.token_endpoint,
            "CLIENT_ID": self.client.client_id,
            "CLIENT_SECRET": self.client.client_secret.reveal(),
            "UPSTREAM_URL": self.protected_api.url,
        }
