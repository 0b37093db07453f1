"""A route's rate limit: a token bucket kept as one number (GCRA), so that a decision costs two additions."""

from __future__ import annotations

from proxy.routing import RateLimit


class Bucket:
    """Admits `requests_per_second` in the long run and `burst` at once."""

    __slots__ = ("_interval_s", "_next_s", "_tolerance_s")

    def __init__(self, limit: RateLimit) -> None:
        self._interval_s = 1.0 / limit.requests_per_second
        self._tolerance_s = self._interval_s * max(limit.burst - 1, 0)
        self._next_s = float("-inf")  # when the next request would conform without any burst

    def take(self, now: float) -> float:
        """Admits one request (returns 0.0) or returns the seconds until one would be admitted. O(1)."""
        due = max(self._next_s, now)
        if due - self._tolerance_s > now:
            return due - self._tolerance_s - now
        self._next_s = due + self._interval_s
        return 0.0
