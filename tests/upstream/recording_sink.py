"""A sink that writes down what it was told, and connections without a pool whose owner does the same."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from proxy.errors import GatewayError
from proxy.http1.framing import Framing
from proxy.http1.wire import ResponseHead
from proxy.tasks import Tasks
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import KIB
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.dial import Dialer
from proxy.upstream.origin import Origin
from proxy.upstream.resolver import AddressInfo, Resolver
from tests.support.scripted_upstream import WITHIN_S

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class RecordingSink:
    """Keeps all it is told. The hooks, if set, run within the callback of that name."""

    def __init__(self) -> None:
        self.informational: list[int] = []
        self.head: ResponseHead | None = None
        self.framing: Framing | None = None
        self.pieces: list[bytes] = []
        self.ended = False
        self.error: GatewayError | None = None
        self.writable = True
        self.calls: list[str] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        self._changed = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def over(self) -> bool:
        return self.ended or self.error is not None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> None:
        """Waits for the exchange to be over, well or not."""
        await self.until(lambda: self.over)

    def on_head(self, head: ResponseHead, framing: Framing) -> None:
        assert self.head is None
        assert not self.over
        self.head, self.framing = head, framing
        self._called("on_head")

    def on_informational(self, head: ResponseHead) -> None:
        assert self.head is None
        assert not self.over
        self.informational.append(head.status)
        self._called("on_informational")

    def on_data(self, data: bytes) -> None:
        assert data
        assert self.head is not None
        assert not self.over
        self.pieces.append(data)
        self._called("on_data")

    def on_end(self) -> None:
        assert self.head is not None
        assert not self.over
        self.ended = True
        self._called("on_end")

    def on_error(self, error: GatewayError) -> None:
        assert not self.over
        self.error = error
        self._called("on_error")

    def on_writable(self) -> None:
        self.writable = True
        self._called("on_writable")

    def on_unwritable(self) -> None:
        self.writable = False
        self._called("on_unwritable")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.hooks:
            self.hooks[name]()
        self._changed.set()


class RecordingOwner:
    """Keeps which connections have closed and gone; each is told once."""

    def __init__(self) -> None:
        self.closed: list[UpstreamConnection] = []
        self.gone: list[UpstreamConnection] = []
        self._changed = asyncio.Event()

    def connection_closed(self, connection: UpstreamConnection) -> None:
        assert connection not in self.closed
        self.closed.append(connection)
        self._changed.set()

    def connection_gone(self, connection: UpstreamConnection) -> None:
        assert connection in self.closed
        assert connection not in self.gone
        self.gone.append(connection)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def all_gone(self, count: int = 1) -> None:
        await self.until(lambda: len(self.gone) == count)


class NameServer(Resolver):
    """Stands for the name server, which a test cannot have: every name has these ports of 127.0.0.1 as addresses."""

    def __init__(self, *ports: int) -> None:
        super().__init__(Tasks())
        self._ports = ports

    async def addresses(self, origin: Origin, family: int) -> list[AddressInfo]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port)) for port in self._ports
        ]


def dialer(
    port: int,
    *,
    tls: TlsSettings | None = None,
    host: str = "127.0.0.1",
    max_head_octets: int = 32 * KIB,
    max_fields: int = 100,
    contexts: TlsContexts | None = None,
    resolver: Resolver | None = None,
) -> Dialer:
    """Returns a dialer to this port; with `tls`, over TLS."""
    return Dialer(
        Origin("http" if tls is None else "https", host, port),
        tls,
        contexts=contexts or TlsContexts(),
        resolver=resolver or Resolver(Tasks()),
        max_head_octets=max_head_octets,
        max_fields=max_fields,
    )


async def connect(
    port: int,
    owner: RecordingOwner | None = None,
    *,
    tls: TlsSettings | None = None,
    host: str = "127.0.0.1",
    **limits: int,
) -> UpstreamConnection:
    """Opens a connection."""
    return await dialer(port, tls=tls, host=host, **limits).dial(owner or RecordingOwner(), WITHIN_S)


def start(
    connection: UpstreamConnection, head: bytes = GET, *, method: bytes | None = None, body_expected: bool = False
) -> RecordingSink:
    """Starts an exchange and returns its sink."""
    sink = RecordingSink()
    connection.start(head, method=method or head.split(b" ")[0], sink=sink, body_expected=body_expected)
    return sink


async def exchange(connection: UpstreamConnection, head: bytes = GET, *, body_expected: bool = False) -> RecordingSink:
    """Starts an exchange, waits until it is over, and returns its sink."""
    sink = start(connection, head, body_expected=body_expected)
    await sink.end()
    return sink
