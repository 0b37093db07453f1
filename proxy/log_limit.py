"""A bound on warnings that a peer can cause as often as it likes: so many a second, the rest counted, not written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from proxy.clock import SystemClock
from proxy.log_format import ExceptionInfo

_ONE = 1 - 1e-9  # ten times a tenth of a line are one, in floating point too


class RateLimited:
    """Logs repeated warnings at most so many times a second each; how many it held back stands in the next line.

    Messages are constant texts, so that there are few; what varies goes into the fields.
    """

    __slots__ = ("_allowance", "_burst", "_logger", "_now", "_per_second", "_suppressed", "suppressed")

    _MAX_MESSAGES = 64

    def __init__(
        self,
        logger: logging.Logger,
        per_second: float = 1.0,
        *,
        burst: float = 1.0,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Admits so many lines of one message a second, and as many (at least `burst`) at once."""
        self._logger = logger
        self._per_second = per_second
        self._burst = max(burst, per_second)
        self._now = now or SystemClock().now
        self._allowance: dict[str, tuple[float, float]] = {}  # message -> (lines left, seconds when that was so)
        self._suppressed: dict[str, int] = {}
        self.suppressed = 0  # lines held back since the start

    def warning(
        self, message: str, fields: Mapping[str, object] | None = None, *, exc_info: ExceptionInfo = None
    ) -> None:
        """Logs the message at WARNING, or counts it as held back."""
        self.log(logging.WARNING, message, fields, exc_info=exc_info)

    def log(
        self, level: int, message: str, fields: Mapping[str, object] | None = None, *, exc_info: ExceptionInfo = None
    ) -> None:
        """Logs the message at the level, or counts it as held back."""
        if not self._logger.isEnabledFor(level):
            return
        held_back = self.admit(message)
        if held_back is None:
            return
        shown = dict(fields or {})
        if held_back:
            shown["suppressed"] = held_back
        self._logger.log(level, message, exc_info=exc_info, extra={"fields": shown})

    def admit(self, key: str) -> int | None:
        """Returns None if the line must be held back, else how many like it were held back before it."""
        if key not in self._allowance and len(self._allowance) >= self._MAX_MESSAGES:
            key = ""  # one allowance for all beyond: a mistaken caller cannot make this grow
        now = self._now()
        left, since = self._allowance.get(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        if left < _ONE:
            self._allowance[key] = (left, now)
            self._suppressed[key] = self._suppressed.get(key, 0) + 1
            self.suppressed += 1
            return None
        self._allowance[key] = (left - 1, now)
        return self._suppressed.pop(key, 0)
