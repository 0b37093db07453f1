"""What asyncio's transports leave to their users, once: nothing here knows what is spoken on them."""

from __future__ import annotations

import asyncio
from contextlib import suppress


def abort(transport: asyncio.BaseTransport) -> None:
    """Closes a transport at once, whatever it still had to send. Idempotent.

    Of a TLS transport that has closed, asyncio in Python 3.11.2 (Debian 12's) raises AttributeError instead.
    """
    with suppress(AttributeError):
        transport.abort()  # type: ignore[attr-defined]  # of transports that read and write
