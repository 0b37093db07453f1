"""The two sides that a connection calls back into: the sink of its exchange, and the owner who keeps account of it.

Callbacks are plain calls from the event loop; they wait for nothing and raise nothing. The direct path makes a client's
connection the sink; ``exchange.Exchange`` is the sink that can be awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxy.errors import GatewayError
from proxy.http1.framing import Framing
from proxy.http1.wire import ResponseHead

if TYPE_CHECKING:
    from proxy.upstream.connection import UpstreamConnection


class Sink(Protocol):
    """Where a response goes.

    In order: any number of on_informational, one on_head, any number of on_data, one on_end; or on_error at any point
    instead of the rest, also from within `write`. Nothing comes after `abort`, nor once a connection is given away, after
    the on_head of a 101 that was asked for. Any call may use the connection in any
    way; on_end and on_error are the last, and from on_end another exchange may be started.
    """

    def on_head(self, head: ResponseHead, framing: Framing) -> None:
        """The final response's head, and how its body is framed."""

    def on_informational(self, head: ResponseHead) -> None:
        """An interim response (1xx) other than 100 and 101."""

    def on_data(self, data: bytes) -> None:
        """Octets of the body, chunked coding removed; never empty. Some may still come after `pause_reading`."""

    def on_end(self) -> None:
        """The response is whole. `connection.reusable` tells whether another exchange may follow."""

    def on_error(self, error: GatewayError) -> None:
        """The exchange failed; the connection is closed."""

    def on_unwritable(self) -> None:
        """The upstream reads too slowly: the request body is to be held back."""

    def on_writable(self) -> None:
        """The upstream reads again."""


class Owner(Protocol):
    """Who keeps account of connections: their pool."""

    def connection_closed(self, connection: UpstreamConnection) -> None:
        """Called once, as soon as the connection can serve no more, whoever decided it."""

    def connection_gone(self, connection: UpstreamConnection) -> None:
        """Called once, later or at once: the transport has let go of its socket."""
