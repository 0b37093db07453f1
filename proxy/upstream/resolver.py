"""Names to addresses: one look-up at a time per name, shared by all who wait for it, and nothing kept afterwards.

Look-ups run on threads, of which there are few; a hundred connections opened at once while the resolver is slow must
not occupy them all. An address needs no look-up.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address

from proxy.tasks import Tasks
from proxy.upstream.origin import Origin

# as getaddrinfo returns it; the last form is for Pythons built without IPv6
AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


class Resolver:
    """Looks names up."""

    __slots__ = ("_running", "_tasks")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._running: dict[tuple[str, int, int], asyncio.Task[list[AddressInfo]]] = {}

    async def addresses(self, origin: Origin, family: int) -> list[AddressInfo]:
        """Returns where to connect to; never empty. `family` is AF_UNSPEC, AF_INET or AF_INET6.

        Raises socket.gaierror, or UnicodeError for a name that no name server could know. Whoever is cancelled leaves
        the look-up to the others.
        """
        address = origin.address
        if address is not None and "%" not in origin.host:  # a zone is for the system to number
            if isinstance(address, IPv4Address):
                return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (origin.host, origin.port))]
            return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (origin.host, origin.port, 0, 0))]
        key = (origin.host, origin.port, family)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = self._tasks.start(self._look_up(key), name="look-up of an upstream's name")
        return await asyncio.shield(running)

    async def _look_up(self, key: tuple[str, int, int]) -> list[AddressInfo]:
        host, port, family = key
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        finally:
            del self._running[key]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return [(int(kind), int(type_), proto, name, address) for kind, type_, proto, name, address in found]
