"""Peers for bodies that are too big to hold: they send and read hundreds of MiB from one small buffer, on threads.

Both sides keep a running CRC-32, so that what was read can be compared with what was sent. A reader can be told to stop
after so many octets until it is let go on.
"""

from __future__ import annotations

import random
import socket
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from proxy.units import KIB

WITHIN_S = 50.0  # a send or receive that takes longer has failed
_PIECE = 256 * KIB
_OCTETS = memoryview(random.Random(7).randbytes(_PIECE + 17))  # an odd length, so that no boundary repeats


@dataclass
class BulkSender:
    """Sends `size` octets over a connection."""

    size: int
    chunked: bool = False
    sent: int = 0  # octets of the body that the system has taken
    crc: int = 0

    def run(self, connection: socket.socket) -> None:
        """Sends all of it. Blocks."""
        while self.sent < self.size:
            piece = _OCTETS[: self.size - self.sent]
            if self.chunked:
                connection.sendall(b"%x\r\n" % len(piece))
            self.crc = zlib.crc32(piece, self.crc)
            rest = piece
            while rest:
                taken = connection.send(rest)
                self.sent += taken
                rest = rest[taken:]
            if self.chunked:
                connection.sendall(b"\r\n")
        if self.chunked:
            connection.sendall(b"0\r\n\r\n")


@dataclass
class BulkReader:
    """Reads a body of `size` octets from a connection; stops after `stop_at` until `go_on` is set."""

    size: int
    stop_at: int
    chunked: bool = False
    received: int = 0
    crc: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def run(self, connection: socket.socket) -> None:
        """Reads all of it. Blocks. Raises EOFError if it ends before."""
        with connection.makefile("rb", buffering=_PIECE) as stream:
            self._past_head(stream)
            buffer = memoryview(bytearray(_PIECE))
            while self.received < self.size:
                left = self._chunk_size(stream) if self.chunked else self.size - self.received
                if left == 0:
                    raise EOFError("the last chunk came before the body's end")
                while left:
                    self._maybe_stop()
                    count = stream.readinto1(buffer[:left])  # type: ignore[attr-defined]
                    if not count:
                        raise EOFError("the connection ended within the body")
                    self.crc = zlib.crc32(buffer[:count], self.crc)
                    self.received += count
                    left -= count
                if self.chunked:
                    stream.readline()

    def _maybe_stop(self) -> None:
        if not self.stopped.is_set() and self.received >= self.stop_at:
            self.stopped.set()
            assert self.go_on.wait(WITHIN_S)

    @staticmethod
    def _past_head(stream: object) -> None:
        while stream.readline() not in {b"\r\n", b""}:  # type: ignore[attr-defined]
            pass

    @staticmethod
    def _chunk_size(stream: object) -> int:
        return int(stream.readline(), 16)  # type: ignore[attr-defined]


def resident_octets(pid: int) -> int:
    """Returns how much memory a process has in RAM (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no VmRSS")
