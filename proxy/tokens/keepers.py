"""All credentials of one gateway: a keeper for each token, a source for each credential, a governor for each endpoint.

Credentials whose token requests are alike in every input share a keeper and with it one token. Whoever makes this starts
and stops it, and closes the token client afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType

from proxy.clock import Clock
from proxy.oauth.registration import TokenKey, identity
from proxy.tasks import Tasks
from proxy.tokens.access_token import CredentialName
from proxy.tokens.credential_source import CredentialSource
from proxy.tokens.governor import Governor, endpoint
from proxy.tokens.keeper import Keeper, TokenRequest
from proxy.tokens.source import CredentialSettings, TokenSource, TokenStatus
from proxy.tokens.static_source import StaticCredential, StaticSource


class Keepers:
    """The tokens of a gateway. Used on one event loop."""

    __slots__ = ("_eager", "_keepers", "_static", "sources")

    def __init__(
        self,
        credentials: Iterable[CredentialSettings | StaticCredential],
        *,
        request: TokenRequest,
        clock: Clock,
        tasks: Tasks,
        random: Callable[[], float],
    ) -> None:
        alike: dict[TokenKey, list[CredentialSettings]] = {}
        sources: dict[CredentialName, TokenSource] = {}
        self._static: list[StaticSource] = []
        for credential in credentials:
            if isinstance(credential, StaticCredential):
                source = StaticSource(credential, clock=clock)
                self._static.append(source)
                sources[credential.name] = source
                continue
            alike.setdefault(identity(credential.registration), []).append(credential)
        self._keepers: list[Keeper] = []
        self._eager: list[Keeper] = []
        governors: dict[Hashable, Governor] = {}
        for group in alike.values():
            asked = endpoint(group[0].registration)
            governor = governors[asked] = governors.get(asked) or Governor(clock)
            keeper = Keeper(group, request=request, governor=governor, clock=clock, tasks=tasks, random=random)
            self._keepers.append(keeper)
            if any(credential.required for credential in group):
                self._eager.append(keeper)
            for credential in group:
                sources[credential.name] = CredentialSource(
                    credential.name, keeper, required=credential.required, clock=clock
                )
        self.sources: Mapping[CredentialName, TokenSource] = MappingProxyType(sources)

    def start(self) -> None:
        """Asks for the first token of every required credential, in the background; returns at once."""
        for keeper in self._eager:
            keeper.start()

    async def stop(self) -> None:
        """Ends all token requests under way; those who wait for one get TokenUnavailable."""
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers))

    @property
    def ready(self) -> bool:
        """Tells whether every required credential had its first token; once true, it stays true."""
        return all(keeper.ready for keeper in self._eager) and all(s.ready for s in self._static if s.required)

    def statuses(self) -> list[TokenStatus]:
        """Returns the facts of every credential at this moment."""
        return [source.status() for source in self.sources.values()]
