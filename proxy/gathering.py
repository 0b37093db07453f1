"""Writes of one turn of the event loop, done one behind the other at its end.

A write to a process that sleeps wakes it, which costs the writer as much as the rest of the write. Done one behind the
other, only the first wakes it; done between other work, nearly every one does, since a fast peer is asleep again by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.transports import abort, send_last
from proxy.units import KIB

_LARGE = 16 * KIB  # octets from which on copying them costs more than waking somebody


class Turn:
    """What is to be written at the end of the present turn. One for everything that writes to the same kind of peer."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[GatheredTransport] = []

    def add(self, transport: GatheredTransport) -> None:
        """Has a transport write what it holds at the end of this turn."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._end)
        self._due.append(transport)

    def _end(self) -> None:
        due, self._due = self._due, []
        for transport in due:
            try:
                transport.flush()
            except Exception as fault:  # noqa: BLE001  # whatever it is, the others are written
                context = {"message": "a held write failed", "exception": fault}
                asyncio.get_running_loop().call_exception_handler(context)
                transport.abort()


class GatheredTransport:
    """A transport of which small writes wait until the turn's end; whatever else is done to it comes behind them."""

    __slots__ = ("_closes", "_turn", "fit", "held", "inner", "is_closing")

    def __init__(self, transport: asyncio.Transport, turn: Turn, fit: Callable[[], bool] | None = None) -> None:
        """`fit` is asked just before what was held is written; if it is not, the transport is aborted by then."""
        self.inner = transport
        self.fit = fit
        self._turn = turn
        self._closes = False  # when what is held has been written
        self.held = b""  # octets that wait
        self.is_closing = transport.is_closing  # an attribute, since each request asks several times

    def write(self, data: bytes) -> None:
        """Writes at the end of the turn, or at once what is large. What a closed handle does not take stays held."""
        if len(data) >= _LARGE:
            self.flush()
            self.held += data
            self.flush()
        elif self.held:
            self.held += data
        else:
            self.held = data
            self._turn.add(self)

    def write_now(self, data: bytes) -> None:
        """Writes at once, behind what waits. Raises RuntimeError for a closed handle, as uvloop does."""
        self.flush()
        self.inner.write(data)

    def flush(self) -> None:
        """Writes what is held, as far as the handle is not closed; a close that waited for that comes behind."""
        if self._closes and self.held and self.fit is None:
            self.held = send_last(self.inner, self.held)
        if self.held and not self.is_closing() and (self.fit is None or self.fit()):
            try:  # not `suppress`, which costs as much as all else here
                self.inner.write(self.held)
                self.held = b""
            except RuntimeError:  # uvloop: "the handler is closed" (uvloop#68, #506)
                pass
        if self._closes:
            self.inner.close()

    def get_extra_info(self, name: str) -> object:
        """Returns what the transport tells of itself."""
        return self.inner.get_extra_info(name)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Lets another protocol have what comes."""
        self.inner.set_protocol(protocol)

    def pause_reading(self) -> None:
        """Stops reading. Raises RuntimeError for a closed handle, as uvloop does."""
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        """Reads again. Raises likewise."""
        self.inner.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Returns how many octets were written that the system has not taken."""
        return len(self.held) + self.inner.get_write_buffer_size()

    def close(self) -> None:
        """Closes behind what was written: at the end of the turn, if that waits until then. Idempotent."""
        self._closes = True
        if not self.held:
            self.inner.close()

    def abort(self) -> None:
        """Closes at once, whatever was still to be written. Idempotent."""
        self.held = b""
        self._closes = False
        abort(self.inner)

    def cut(self) -> None:
        """Closes at once, behind what waits: a client of which the answer began must not take it for unheard. Idempotent."""
        self.flush()
        self.abort()

    def released(self) -> asyncio.Transport:
        """Returns the transport itself, for somebody else; all that was written here is with it."""
        self.flush()
        return self.inner
