"""A client's connection on the direct path, as its request uses it: while it waits for its connection, and under way."""

from __future__ import annotations

import socket
from typing import Protocol

from proxy.gateway.begun import Begun
from proxy.gateway.decide import Forward
from proxy.upstream.connection import UpstreamConnection


class Client(Protocol):
    """Where the answer goes, and the request's body comes from."""

    active: bool
    """Something happened since the last look."""

    @property
    def unwritable(self) -> bool:
        """It does not take what was written."""

    @property
    def body_left(self) -> int:
        """Octets of the request's body that have not come."""

    @property
    def body_complete(self) -> bool:
        """All of the request's body has come, and was sent."""

    def read_nowait(self) -> bytes:
        """Returns what has come of the request's body."""

    def untaken(self) -> int:
        """Returns how many octets were written that the client's side has not taken yet, the system's included."""

    def send(self, data: bytes) -> None:
        """Writes octets, as far as the client is still there."""

    def bare_socket(self) -> socket.socket | None:
        """Returns the socket, if what is written to it goes out as it is and nothing waits to be written."""

    def pause_writing(self) -> None:
        """It takes nothing for now: as the event loop calls it."""

    def resume_writing(self) -> None:
        """It takes octets again: likewise."""

    def pause_client(self) -> None:
        """Stops reading. Idempotent."""

    def resume_client(self) -> None:
        """Reads again. Idempotent."""

    def ended(self, *, stays: bool) -> None:
        """The answer is whole; the next request may come, if the connection stays."""

    def dispatch(self, forward: Forward, body: bytes, upstream: UpstreamConnection | None) -> None:
        """Sends the request, with what has come of its body: on this connection, or when it has got one."""

    def go_on(self, begun: Begun | Exception) -> None:
        """The handler serves the rest, or tells of a fault of ours."""

    def cancel(self) -> None:
        """Ends what the handler does."""

    def cut(self) -> None:
        """Closes at once, so that the client sees that its answer is not whole."""
