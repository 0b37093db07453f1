"""What asyncio's transports leave to their users, once: nothing here knows what is spoken on them."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from proxy.units import KIB

_SALVAGE_READS = 8
_SALVAGE_OCTETS = 64 * KIB  # each; as much as a TLS layer may have held back, and then some
_TCP = {socket.AF_INET, socket.AF_INET6}
_MORE = getattr(socket, "MSG_MORE", 0)  # Linux's
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s


def abort(transport: asyncio.BaseTransport) -> None:
    """Closes a transport at once, whatever it still had to send. Idempotent.

    Of a TLS transport that has closed, asyncio in Python 3.11.2 (Debian 12's) raises AttributeError instead.
    """
    with suppress(AttributeError):
        transport.abort()  # type: ignore[attr-defined]  # of transports that read and write


def reset(transport: asyncio.BaseTransport) -> None:
    """Closes at once and so that the peer sees an error: no orderly end of what was being sent. Idempotent."""
    with suppress(OSError, AttributeError, ValueError):  # of a socket that is closed already; the last is uvloop's
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    abort(transport)


def send_last(transport: asyncio.Transport, data: bytes) -> bytes:
    """Sends the last octets and the end behind them, of TCP in one segment; returns what is still to be sent by the transport.

    That is all of it under TLS, where something waits before it, and where the system takes nothing at once. Sent by
    itself, the end would be a segment of its own, which has its own way through the system and wakes the peer again.
    """
    end = transport.get_extra_info("socket")
    if end is None or transport.is_closing() or transport.get_write_buffer_size() or end.family not in _TCP:
        return data
    if transport.get_extra_info("sslcontext") is not None:
        return data
    try:
        shared = socket.SocketType(end.family, socket.SOCK_STREAM, 0, end.fileno())
    except OSError:
        return data
    sent = 0
    try:
        sent = shared.send(data, _MORE)
        if sent == len(data):
            shared.shutdown(socket.SHUT_WR)
    except OSError:  # a full buffer, or a peer that is gone: the transport finds out
        pass
    finally:
        shared.detach()  # the descriptor stays the transport's, whatever is raised
    return data[sent:]


def arrivals(connected: socket.socket) -> Callable[[float], list[tuple[int, int]]]:
    """Returns a function that tells what has arrived on a socket and was not read, an end included, within so many ms."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return poll.poll


def ended_cleanly(transport: asyncio.BaseTransport) -> bool:
    """Tells whether an end of data is one. Under TLS only close_notify is: anyone can cut a TCP connection.

    Source: RFC 9112 §9.8. asyncio reports both alike; uvloop calls `connection_lost` for a cut connection.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except (OSError, ValueError):
        return False


def remains(transport: asyncio.BaseTransport, connected: socket.socket) -> Iterator[bytes]:
    """Yields what had arrived when a connection broke, and b"" at last if an end of data follows.

    A peer that answers early and closes resets the connection (RFC 9112 §9.6); when our own writing meets that first,
    the answer still lies in the socket. And uvloop drops what its TLS layer held back for a slow reader when the end of
    the stream comes. Bounded: the connection is at its end, so no more can follow.
    """
    tls = transport.get_extra_info("ssl_object")
    read = connected.recv if tls is None else tls.read
    for _ in range(_SALVAGE_READS):
        try:
            data = read(_SALVAGE_OCTETS)
        except (OSError, ValueError):
            return
        yield data
        if not data:
            return
