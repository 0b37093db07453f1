"""Opens connections: name, addresses, TLS, within one bound of time; what fails says so in the words of RFC 9209.

Addresses are tried by Happy Eyeballs, so that one that swallows packets does not eat the time. Nothing of a request was
sent when this fails. Cancelled at any point, it leaves no socket behind.

Source: RFC 8305 (Happy Eyeballs), RFC 9209 §2.3 (error types).
"""

from __future__ import annotations

import asyncio
import socket
import ssl

import aiohappyeyeballs

from proxy.gathering import Turn
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import KIB, MILLISECONDS, SECONDS
from proxy.upstream import failures
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.origin import Origin
from proxy.upstream.resolver import AddressInfo, Resolver
from proxy.upstream.sink import Owner

_NEXT_ADDRESS_S = 250 * MILLISECONDS  # RFC 8305 §5: before the next address is tried beside the first
_GOODBYE_S = 1 * SECONDS  # to wait for the upstream's close_notify after ours; asyncio's own bound is 30 s


class Dialer:
    """Opens connections to one origin, all alike."""

    __slots__ = ("_contexts", "_family", "_max_fields", "_max_head_octets", "_origin", "_resolver", "_tls", "_turn")

    def __init__(
        self,
        origin: Origin,
        tls: TlsSettings | None,
        *,
        contexts: TlsContexts,
        resolver: Resolver,
        family: int = socket.AF_UNSPEC,
        max_head_octets: int = 32 * KIB,
        max_fields: int = 100,
    ) -> None:
        """Raises ConfigurationError if the TLS files cannot be used."""
        self._origin = origin
        self._tls = tls or TlsSettings()
        self._contexts = contexts
        self._resolver = resolver
        self._family = family
        self._max_head_octets = max_head_octets
        self._max_fields = max_fields
        self._turn = Turn()
        self.context()

    def context(self) -> ssl.SSLContext | None:
        """Returns the TLS context now in force, None for plain http. One `stat` per file that the settings name."""
        return self._contexts.get(self._tls) if self._origin.secure else None

    async def dial(self, owner: Owner, timeout_s: float | None) -> UpstreamConnection:
        """Returns a connection; `timeout_s` covers name, TCP and TLS together, None or 0 is no bound.

        Raises GatewayError(UPSTREAM, NOTHING_SENT): dns_timeout, dns_error, connection_timeout, connection_refused,
        connection_terminated, destination_unavailable, tls_certificate_error, tls_alert_received, tls_protocol_error;
        or connection_limit_reached (GATEWAY) if this process has no descriptor left.
        """
        resolving = True
        try:
            async with asyncio.timeout(timeout_s or None):
                addresses = await self._resolver.addresses(self._origin, self._family)
                resolving = False
                return await self._connected(owner, addresses)
        except TimeoutError:
            raise failures.not_in_time(resolving=resolving) from None
        except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: uvloop's, for a socket that closed
            raise failures.not_opened(error) from error

    async def _connected(self, owner: Owner, addresses: list[AddressInfo]) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connected = await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=_NEXT_ADDRESS_S,
            interleave=1,
            loop=loop,
            socket_factory=_new_socket,
        )
        context = self.context()
        connection = UpstreamConnection(
            owner,
            connected,
            opened_with=context,
            turn=self._turn,
            max_head_octets=self._max_head_octets,
            max_fields=self._max_fields,
        )
        name = None if context is None else self._tls.server_name or self._origin.host.removesuffix(".")
        try:
            await loop.create_connection(
                lambda: connection,
                sock=connected,
                ssl=context,
                server_hostname=name,
                ssl_shutdown_timeout=None if context is None else _GOODBYE_S,
            )
        except BaseException:
            # The transport closes its socket in failure too. Before 0.23 uvloop did so behind the socket object's back,
            # which later closed the same number again, by then another connection's (uvloop#738).
            if not isinstance(loop, asyncio.BaseEventLoop):
                connected.detach()
            raise
        if connection.closed:
            raise failures.not_sent()
        return connection


def _new_socket(address: AddressInfo) -> socket.socket:
    family, type_, proto, _, _ = address
    made = socket.socket(family, type_, proto)
    # a head and a body may go out in two pieces; waiting for an acknowledgement between them costs 40 ms
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
