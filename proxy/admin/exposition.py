"""The metrics in Prometheus's formats, rendered from plain values when somebody asks.

A custom collector turns the gateway's counters into metric families; prometheus_client writes them out. Labels are
configuration names or closed sets. Rendering gives the event loop back every millisecond or so, so that a scrape of a
gateway with many routes does not hold up its requests.

Source: Prometheus text format 0.0.4; OpenMetrics 1.0.0.
"""

from __future__ import annotations

import logging
import math
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from proxy.admin.facts import AdminFacts, ConnectionCounts
from proxy.clock import Clock
from proxy.log import RateLimited
from proxy.metrics import DURATION_BUCKETS_S, GatewayMetrics
from proxy.tokens.access_token import TokenState
from proxy.tokens.source import DURATION_BUCKETS_S as TOKEN_BUCKETS_S
from proxy.tokens.source import TokenStatus, outage_budget_s

PREFIX = "bearer_proxy_"
_ROWS = 75  # series of one piece: about a millisecond
_Row = tuple[Sequence[str], float]  # label values, value
_T = TypeVar("_T")
_OPENMETRICS = "application/openmetrics-text"  # without a version: prometheus_client then takes 1.0.0
_TEXT = "text/plain; version=0.0.4"
_END = b"# EOF\n"
_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)
_VERSION = re.compile(r"\s*version\s*=\s*\"?([^\"]*)\"?\s*", re.IGNORECASE)
_warnings = RateLimited(logging.getLogger("proxy.admin"), 0.1)


class Exposition:
    """Renders one gateway's metrics."""

    def __init__(self, facts: AdminFacts, clock: Clock, *, version: str) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._registry.register(_GatewayCollector(facts, version))
        self._registry.register(_ProcessMetrics())

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the document and its content type, in the format that an Accept field's value prefers."""
        # The field is reduced to one of two constants: choose_encoder repeats in the reply a version it does not know.
        encode, content_type = choose_encoder(preferred_format(accept))
        parts = []
        declared = ""
        for family in self._registry.collect():
            part = encode(_Single(family)).removesuffix(_END)
            while family.name == declared and part.startswith(b"# "):
                part = part.partition(b"\n")[2]  # a further piece is not declared again
            parts.append(part)
            declared = family.name
            await self._clock.sleep(0)
        if content_type.startswith("application/openmetrics-text"):
            parts.append(_END)
        return b"".join(parts), content_type


def preferred_format(accept: str) -> str:
    """Returns the media type to answer with: OpenMetrics if it is asked for by name and not less than text."""
    openmetrics_q = text_q = 0.0
    for item in accept.split(","):
        media_type, *parameters = item.split(";")
        quality, version = 1.0, ""
        for parameter in parameters:
            if match := _QUALITY.fullmatch(parameter):
                quality = min(1.0, float(match[1]))
            elif match := _VERSION.fullmatch(parameter):
                version = match[1]
        match media_type.strip().lower():
            case "application/openmetrics-text" if version in {"", "1.0.0"}:
                openmetrics_q = max(openmetrics_q, quality)
            case "text/plain" | "text/*" | "*/*" if version in {"", "0.0.4"}:
                text_q = max(text_q, quality)
    return _OPENMETRICS if openmetrics_q and openmetrics_q >= text_q else _TEXT


class _Single(Collector):
    """One family as a collector: what prometheus_client's encoders take."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class _ProcessMetrics(Collector):
    """The usual `process_*` of this process."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def collect(self) -> Iterable[Metric]:
        """Returns what the system tells; a sandbox's odd /proc must not cost the other metrics."""
        try:
            return list(self._collector.collect())
        except Exception as error:  # noqa: BLE001
            _warnings.warning("process metrics cannot be read", exc_info=(type(error), error, error.__traceback__))
            return ()


class _GatewayCollector(Collector):
    """The families of `bearer_proxy_*`; one with many series comes in several pieces of the same name."""

    def __init__(self, facts: AdminFacts, version: str) -> None:
        self._facts = facts
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yields the pieces; each is built without a pause."""
        metrics = self._facts.metrics()
        yield from _requests(metrics)
        yield from _upstreams(metrics, self._facts.connections())
        yield from _tokens(self._facts.tokens())
        yield from _counter(
            "log_lines_dropped",
            "Log lines that did not fit into the queue or could not be written.",
            (),
            [((), self._facts.log_lines_dropped())],
        )
        build = (self._version, platform.python_version())
        yield from _gauge("build_info", "The running version; always 1.", ("version", "python"), [(build, 1)])


def _requests(metrics: GatewayMetrics) -> Iterator[Metric]:
    routes = metrics.routes
    yield from _counter(
        "http_requests",
        "Finished requests.",
        ("route", "method", "code"),
        [
            ((name, method, str(code)), count)
            for name, route in routes.items()
            for (method, code), count in route.requests.items()
        ],
    )
    yield from _histogram(
        "http_request_duration_seconds",
        "From a request's head to the end of its answer.",
        "route",
        [(name, route.durations.cumulative(), route.durations.sum) for name, route in routes.items()],
    )
    yield from _gauge(
        "http_requests_in_flight",
        "Requests under way.",
        ("route",),
        [((name,), route.in_flight) for name, route in routes.items()],
    )
    yield from _counter(
        "request_body_bytes",
        "Octets of request bodies received.",
        ("route",),
        [((name,), route.request_body_bytes) for name, route in routes.items()],
    )
    yield from _counter(
        "response_body_bytes",
        "Octets of response bodies sent.",
        ("route",),
        [((name,), route.response_body_bytes) for name, route in routes.items()],
    )
    yield from _counter(
        "requests_refused",
        "Replies of the gateway's own, by the suffix of their type.",
        ("reason",),
        [((reason,), count) for reason, count in metrics.refused.items()],
    )


def _upstreams(metrics: GatewayMetrics, connections: Mapping[str, ConnectionCounts]) -> Iterator[Metric]:
    routes = {name: route for name, route in metrics.routes.items() if name}  # what matched none has no upstream
    yield from _histogram(
        "upstream_duration_seconds",
        "From sending a request to the first byte of the upstream's response.",
        "route",
        [(name, route.upstream_durations.cumulative(), route.upstream_durations.sum) for name, route in routes.items()],
    )
    yield from _counter(
        "upstream_errors",
        "Tries that failed at the upstream, those included after which another one went well (RFC 9209 words).",
        ("route", "error"),
        [
            ((name, error.value), count)
            for name, route in routes.items()
            for error, count in route.upstream_errors.items()
        ],
    )
    yield from _gauge(
        "upstream_connections",
        "Connections to the upstream; those that several routes share count under the first of them.",
        ("route", "state"),
        [
            ((name, state), count)
            for name, counts in connections.items()
            for state, count in (("connecting", counts.connecting), ("idle", counts.idle), ("busy", counts.busy))
        ],
    )
    yield from _counter(
        "token_replays",
        "Requests whose token the upstream refused.",
        ("route", "result"),
        [((name, result), count) for name, route in routes.items() for result, count in route.replays.items()],
    )


def _tokens(statuses: Sequence[TokenStatus]) -> Iterator[Metric]:
    yield from _counter(
        "token_requests",
        "Requests to the token endpoint.",
        ("credential", "outcome"),
        [((status.name, outcome.value), count) for status in statuses for outcome, count in status.requests.items()],
    )
    yield from _histogram(
        "token_request_duration_seconds",
        "How long requests to the token endpoint took.",
        "credential",
        [(status.name, list(accumulate(status.durations.counts)), status.durations.sum_s) for status in statuses],
        bounds=TOKEN_BUCKETS_S,
    )
    yield from _counter(
        "token_lookups",
        "Requests that needed a token.",
        ("credential", "result"),
        [
            ((status.name, result), count)
            for status in statuses
            for result, count in (
                ("ready", status.lookups.ready),
                ("waited", status.lookups.waited),
                ("failed", status.lookups.failed),
            )
        ],
    )
    yield from _gauge(
        "token_expiry_timestamp_seconds",
        "When the token expires (Unix time).",
        ("credential",),
        _known((status.name, status.expires_at_wall_s) for status in statuses),
    )
    yield from _gauge(
        "token_next_refresh_timestamp_seconds",
        "When the token is renewed (Unix time).",
        ("credential",),
        _known((status.name, status.next_refresh_at_wall_s) for status in statuses),
    )
    yield from _gauge(
        "token_state",
        "1 for the state that holds.",
        ("credential", "state"),
        [((status.name, state.value), int(status.state is state)) for status in statuses for state in TokenState],
    )
    yield from _gauge(
        "token_consecutive_failures",
        "Token requests that failed since the last success.",
        ("credential",),
        [((status.name,), status.consecutive_failures) for status in statuses],
    )
    yield from _gauge(
        "authorization_server_clock_skew_seconds",
        "The authorization server's clock minus ours.",
        ("credential",),
        _known((status.name, status.clock_skew_s) for status in statuses),
    )
    yield from _gauge(
        "token_scopes_missing",
        "Scopes that were asked for and not granted with the last token.",
        ("credential",),
        [((status.name,), len(status.scope_missing)) for status in statuses],
    )
    yield from _gauge(
        "client_secret_in_use",
        "1 for the one of several client secrets that brought the last token.",
        ("credential", "index"),
        [
            ((status.name, str(index)), int(index == status.client_secret_in_use))
            for status in statuses
            for index in range(status.client_secrets)
        ],
    )
    budget_s = outage_budget_s(statuses)
    yield from _gauge(
        "outage_budget_seconds",
        "For how long the gateway could run if every authorization server failed now.",
        (),
        [] if budget_s is None else [((), budget_s)],
    )


def _known(rows: Iterable[tuple[str, float | None]]) -> list[_Row]:
    """Returns the rows that have a value: none while there is no token, and none for an end that never comes."""
    return [((name,), value) for name, value in rows if value is not None and math.isfinite(value)]


def _counter(name: str, text: str, labels: Sequence[str], rows: list[_Row]) -> Iterator[Metric]:
    for piece in _pieces(rows, _ROWS):
        family = CounterMetricFamily(PREFIX + name, text, labels=labels)
        for values, value in piece:
            family.add_metric(values, value)
        yield family


def _gauge(name: str, text: str, labels: Sequence[str], rows: list[_Row]) -> Iterator[Metric]:
    for piece in _pieces(rows, _ROWS):
        family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
        for values, value in piece:
            family.add_metric(values, value)
        yield family


def _histogram(
    name: str,
    text: str,
    label: str,
    rows: list[tuple[str, list[int], float]],
    *,
    bounds: tuple[float, ...] = DURATION_BUCKETS_S,
) -> Iterator[Metric]:
    """Yields the pieces for rows of label value, cumulative counts (one more than bounds) and sum in seconds."""
    bucket_names = [*map(floatToGoString, bounds), "+Inf"]
    for piece in _pieces(rows, _ROWS // len(bucket_names)):
        family = HistogramMetricFamily(PREFIX + name, text, labels=[label])
        for value, counts, total in piece:
            family.add_metric([value], list(zip(bucket_names, counts, strict=True)), total)
        yield family


def _pieces(rows: list[_T], size: int) -> Iterator[list[_T]]:
    """Yields the rows, a bounded number at a time, and an empty piece if there are none: the family is declared."""
    for start in range(0, max(1, len(rows)), size):
        yield rows[start : start + size]
