"""What the gateway counts: plain integers on objects that the request path reaches without a look-up.

No label is a client's choice: routes are configuration names, methods and errors closed sets, codes numbers of three
digits; so the number of series is bounded whatever a client sends. ``admin/exposition.py`` renders them when asked.
Everything here is used from one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from proxy.errors import ErrorType, Problem

DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

OTHER_METHOD = "other"
# RFC 9110, RFC 5789, QUERY, and WebDAV (RFC 3253, 3744, 4918, 5323, 5842). A method that is refused counts as other.
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY",
    "ACL", "BIND", "CHECKOUT", "COPY", "LOCK", "MERGE", "MKACTIVITY", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH",
    "REBIND", "REPORT", "SEARCH", "UNBIND", "UNLOCK",
)  # fmt: skip
_METHOD_LABELS = {method.encode("ascii"): method for method in METHODS}

# What came of a request whose token the upstream refused.
REPLAY_RESULTS = ("ok", "still_unauthorized", "not_replayable", "suppressed", "failed")

# What an exchange with an upstream fails with; present from the start, so that a first failure shows as an increase.
_UPSTREAM_ERRORS = (
    ErrorType.DNS_TIMEOUT,
    ErrorType.DNS_ERROR,
    ErrorType.CONNECTION_REFUSED,
    ErrorType.CONNECTION_TERMINATED,
    ErrorType.CONNECTION_TIMEOUT,
    ErrorType.CONNECTION_READ_TIMEOUT,
    ErrorType.CONNECTION_WRITE_TIMEOUT,
    ErrorType.TLS_PROTOCOL_ERROR,
    ErrorType.TLS_CERTIFICATE_ERROR,
    ErrorType.HTTP_RESPONSE_INCOMPLETE,
    ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE,
    ErrorType.HTTP_RESPONSE_TIMEOUT,
    ErrorType.HTTP_PROTOCOL_ERROR,
)


class Histogram:
    """Durations counted by bucket; a bucket holds what is at most its bound, the last one all beyond."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = DURATION_BUCKETS_S) -> None:
        """Bounds are in seconds and ascend."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0  # seconds

    def observe(self, seconds: float) -> None:
        """Counts one duration. O(log buckets)."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Returns for each bound, and last for infinity, how many durations were at most that."""
        return list(accumulate(self.counts))


class RouteMetrics:
    """The counters of one route, or of the requests that matched none."""

    __slots__ = (
        "durations",
        "in_flight",
        "replays",
        "request_body_bytes",
        "requests",
        "response_body_bytes",
        "upstream_durations",
        "upstream_errors",
    )

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}  # (method label, code) -> finished requests
        self.in_flight = 0
        self.durations = Histogram()
        self.upstream_durations = Histogram()  # to the first byte of the response
        self.request_body_bytes = 0
        self.response_body_bytes = 0
        self.upstream_errors: dict[ErrorType, int] = dict.fromkeys(_UPSTREAM_ERRORS, 0)
        self.replays: dict[str, int] = dict.fromkeys(REPLAY_RESULTS, 0)

    def count_request(self, method: bytes, code: int) -> None:
        """Counts a finished request; a method outside METHODS is `other`, a code outside 100-599 a 500."""
        key = (_METHOD_LABELS.get(method, OTHER_METHOD), code if 100 <= code <= 599 else 500)
        self.requests[key] = self.requests.get(key, 0) + 1

    def count_upstream_error(self, error: ErrorType) -> None:
        """Counts an exchange with the upstream that failed."""
        self.upstream_errors[error] = self.upstream_errors.get(error, 0) + 1

    def count_replay(self, result: str) -> None:
        """Counts what came of a refused token. Raises KeyError for a result outside REPLAY_RESULTS."""
        self.replays[result] += 1


class GatewayMetrics:
    """All counters of one gateway."""

    __slots__ = ("refused", "routes", "unmatched")

    def __init__(self, routes: Iterable[str]) -> None:
        """`routes`: the configured names."""
        self.unmatched = RouteMetrics()
        self.routes: dict[str, RouteMetrics] = {"": self.unmatched, **{name: RouteMetrics() for name in routes}}
        self.refused: dict[str, int] = {problem.suffix: 0 for problem in Problem}

    def route(self, name: str) -> RouteMetrics:
        """Returns a configured route's counters. Raises KeyError for any other name."""
        return self.routes[name]

    def count_refused(self, problem: Problem) -> None:
        """Counts a reply that the gateway made itself."""
        self.refused[problem.suffix] += 1
