"""Plain counts of token requests and lookups; whoever renders metrics reads them through ``TokenStatus``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from proxy.oauth.response import Outcome
from proxy.tokens.source import DURATION_BUCKETS_S, Durations


class GrantCounters:
    """Token requests by outcome, and how long they took. Integers that only grow."""

    __slots__ = ("_buckets", "_sum_s", "requests")

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._buckets = [0] * (len(DURATION_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def count(self, outcome: Outcome, duration_s: float) -> None:
        """Counts one token request that ended; a bucket's upper bound belongs to it."""
        self.requests[outcome] += 1
        self._buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        self._sum_s += duration_s

    def requests_by_outcome(self) -> Mapping[Outcome, int]:
        """Returns the counts as they stand; every outcome is a key."""
        return dict(self.requests)

    def durations(self) -> Durations:
        """Returns the histogram as it stands."""
        return Durations(counts=tuple(self._buckets), sum_s=self._sum_s)
