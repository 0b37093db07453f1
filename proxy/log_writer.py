"""The writer of log lines: a bounded queue in front of a stream, emptied by a thread of its own.

Whoever logs only appends: a full pipe, a stopped terminal or a slow disk holds up the thread and nobody else. What does
not fit is dropped, counted, and reported in a later line. ``stop`` waits no longer than it is told to, so that a blocked
pipe cannot keep the process from ending.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

from proxy.units import KIB, MIB, MILLISECONDS

CAPACITY = 10_000  # lines
CAPACITY_CHARACTERS = 8 * MIB
_BATCH_CHARACTERS = 256 * KIB  # written in one call: what the busiest gateway logs while the thread rests
# After a write the thread rests: under load one wake-up serves many lines, instead of one hand-over of the interpreter
# lock a line.
_REST_S = 20 * MILLISECONDS
_LAST_WORDS_S = 200 * MILLISECONDS


class LineWriter:
    """Writes lines to a stream in the order given. All methods are safe to call from any thread."""

    def __init__(
        self,
        stream: TextIO | None,
        *,
        report: Callable[[int], str],
        capacity: int = CAPACITY,
        capacity_characters: int = CAPACITY_CHARACTERS,
    ) -> None:
        """Starts the thread.

        Args:
            stream: where lines go; written below its buffer where it has a descriptor. None drops all.
            report: makes the line that tells of so many lines dropped since the last report.
            capacity: lines that wait at most.
            capacity_characters: characters that wait at most.
        """
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._report = report
        self._capacity = capacity
        self._capacity_characters = capacity_characters
        self._lines: deque[str] = deque()
        self._characters = 0
        self._dropped = 0
        self._reported = 0
        # re-entrant: a finaliser or a signal handler may log while this very thread is appending
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._closed = stream is None
        # a daemon, because a thread blocked in write() must not keep the process alive
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were never written, since the start."""
        return self._dropped

    def put(self, line: str) -> None:
        """Appends a line without its end, or counts it as dropped. Never waits for the stream. O(1)."""
        with self._lock:
            characters = self._characters + len(line)
            if self._closed or characters > self._capacity_characters or len(self._lines) >= self._capacity:
                self._dropped += 1
                return
            self._lines.append(line)
            self._characters = characters
        if not self._wake.is_set():
            self._wake.set()

    def stop(self, timeout_s: float) -> bool:
        """Takes no more lines and waits up to so many seconds until those taken are written.

        Returns False if the stream still blocks; what waits then counts as dropped.
        """
        with self._lock:
            self._closed = True
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)
        with self._lock:
            self._dropped += len(self._lines)
            self._lines.clear()
            self._characters = 0
        return not self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether no more lines are taken."""
        return self._closed

    def put_last(self, line: str) -> None:
        """Writes a line after `stop`, on the caller's thread, if the stream takes it within a moment."""
        if self._descriptor is None or self._thread.is_alive():
            return
        with contextlib.suppress(OSError):
            data = f"{line}\n".encode(self._encoding, "backslashreplace")
            if len(data) <= select.PIPE_BUF and _writable(self._descriptor, _LAST_WORDS_S):
                # so much goes into a pipe that polls as writable without waiting for its reader
                os.write(self._descriptor, data)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while (batch := self._take())[0]:
                self._write(*batch)
            if self._stopping.is_set():
                return
            self._stopping.wait(_REST_S)

    def _take(self) -> tuple[list[str], int]:
        """Returns what one write carries: the oldest lines, and how many dropped ones to report after them."""
        with self._lock:
            if self._characters <= _BATCH_CHARACTERS:
                lines = list(self._lines)
                self._lines.clear()
                self._characters = 0
            else:
                lines = self._take_some()
            # at the end of what waits, so that a queue that stays full is not filled with reports
            missing = 0 if self._lines else self._dropped - self._reported
        return lines, missing

    def _take_some(self) -> list[str]:
        """Returns as many of the oldest lines as one write carries, one at least. The lock is held."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= _BATCH_CHARACTERS:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._characters -= size
        return lines

    def _write(self, lines: list[str], missing: int) -> None:
        reports = [self._report(missing)] if missing else []
        text = "\n".join(lines + reports) + "\n"
        try:
            if self._descriptor is None:
                assert self._stream is not None
                self._stream.write(text)
                self._stream.flush()
            else:
                # Below the stream's buffer: its lock, held by a thread that is blocked in a write, aborts the
                # interpreter when it flushes its standard streams on the way out.
                _write_all(self._descriptor, text.encode(self._encoding, "backslashreplace"))
        except (OSError, ValueError):  # the reader is gone, the disk is full, the stream is closed
            with self._lock:
                self._dropped += len(lines)
        else:
            self._reported += missing


def _descriptor(stream: TextIO | None) -> int | None:
    """Returns the stream's descriptor, or None where it has none (a text buffer)."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
            return stream.fileno()
    return None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _writable(descriptor, None)  # a terminal or pipe that another process made non-blocking


def _writable(descriptor: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
