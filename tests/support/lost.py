"""A protocol that only notes the end of its connection."""

from __future__ import annotations

import asyncio


class Lost(asyncio.Protocol):
    """Sets `lost` when the transport has let go of its socket."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes it."""
        del exc
        self.lost.set()
