"""The metadata documents of issuers: fetched when one is first needed, then now and then, and kept while that fails.

One document serves every credential that names the issuer and reaches it in the same way. A document that was good stays
in use for as long as no newer one can be had; only without one does a failure become the token request's own, so that
the next try follows the same back-off.

Source: RFC 8414 §3.1 and §3.2.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.oauth import metadata
from proxy.oauth.metadata import ServerMetadata
from proxy.oauth.registration import Registration
from proxy.oauth.response import TokenRequestError
from proxy.oauth.transport import Sent, Transport
from proxy.units import HOURS, SECONDS

_log = logging.getLogger("proxy.oauth.discovery")

REFRESHED_AFTER_S = 24 * HOURS
RETRIED_AFTER_S = 60 * SECONDS  # while a document is in hand, a newer one is asked for no more often
_SHARE_OF_TIMEOUT = 0.3  # ... and takes no more of the token request's time


@dataclass(slots=True)
class _Kept:
    document: ServerMetadata | None = None
    fetched_at_s: float = 0.0
    asked_at_s: float = 0.0
    doubted: bool = False  # a token request to its endpoint failed: it may have moved


class Discovery:
    """The documents in hand. Used on one event loop."""

    __slots__ = ("_clock", "_kept", "_transport")

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._kept: dict[Hashable, _Kept] = {}

    async def document(self, registration: Registration) -> ServerMetadata:
        """Returns what the registration's issuer publishes. Raises TokenRequestError if it never could be had."""
        kept = self._kept.setdefault(_key(registration), _Kept())
        now_s = self._clock.now()
        if kept.document is not None:
            if not kept.doubted and now_s - kept.fetched_at_s < REFRESHED_AFTER_S:
                return kept.document
            if now_s - kept.asked_at_s < RETRIED_AFTER_S:
                return kept.document
        kept.asked_at_s = now_s
        if kept.document is None:
            document = await self._fetched(registration)
        else:
            try:
                async with asyncio.timeout(registration.timeout_s * _SHARE_OF_TIMEOUT):
                    document = await self._fetched(registration)
            except (TokenRequestError, TimeoutError) as error:
                reason = error.explained() if isinstance(error, TokenRequestError) else "no whole reply in time"
                _log.warning(
                    "the issuer's metadata cannot be had, the former stays in use", extra=_fields(registration, reason)
                )
                return kept.document
        kept.document, kept.fetched_at_s, kept.doubted = document, now_s, False
        return document

    def doubt(self, registration: Registration) -> None:
        """Tells that a token request failed in a way that a moved endpoint would explain."""
        kept = self._kept.get(_key(registration))
        if kept is not None:
            kept.doubted = True

    async def _fetched(self, registration: Registration) -> ServerMetadata:
        """Tries both places in turn; of two failures the more telling one is raised."""
        assert registration.issuer is not None
        told: TokenRequestError | None = None
        for url in metadata.locations(registration.issuer):
            sent = Sent(
                method="GET",
                url=url,
                headers=[("Accept", "application/json"), ("Accept-Encoding", "identity")],
                place="the issuer",
            )
            received = await self._transport.exchanged(sent, registration)
            try:
                return metadata.parse(received.status, received.body, registration)
            except TokenRequestError as error:
                if told is None or told.status == 404:
                    told = error
        assert told is not None
        raise told


def _key(registration: Registration) -> Hashable:
    return (registration.issuer, registration.tls, registration.proxy, registration.allow_plain_http)


def _fields(registration: Registration, reason: str) -> dict[str, object]:
    return {"fields": {"issuer": registration.issuer, "reason": reason}}
