"""The sections of a route that bound and shape its traffic: times, retries, connections, rates and sizes."""

from __future__ import annotations

from typing import Annotated

from proxy.config.scalars import Boolean, count, duration, number, size
from proxy.config.section import Section, key


class ForwardingSection(Section):
    """What the upstream is told of the client."""

    via: Boolean = key("true", description="Adds the gateway to Via.")
    x_forwarded: Boolean = key("true", description="Sends X-Forwarded-For, -Proto and -Host.")


class OnUnauthorizedSection(Section):
    """What a 401 of the upstream sets going, beside renewing the token."""

    replay: Boolean = key("true", description="Sends the request once more, with the new token.")
    max_replay_body: Annotated[int, size("0", "64MiB")] = key(
        "64KiB", description="The largest body that is kept for that; with a larger one the 401 is relayed."
    )


class TimeoutsSection(Section):
    """Bounds of one request's steps."""

    token: Annotated[float, duration("10ms", "10m")] = key("5s", description="Waiting for a token, if there is none.")
    connect: Annotated[float, duration("10ms", "10m")] = key("5s", description="Opening a connection, TLS included.")
    first_byte: Annotated[float, duration("10ms", "24h")] = key(
        "60s", description="From the end of the request to the first byte of the response."
    )
    idle: Annotated[float, duration("10ms", "24h")] = key("60s", description="Between two bytes of the response.")
    tunnel_idle: Annotated[float, duration("10ms", "24h")] = key(
        "1h", description="Between two bytes through a tunnel (WebSocket and the like), either way."
    )
    total: Annotated[float, duration("10ms", "24h", zero=True)] = key(
        "0", description="For the whole request, but not for the tunnel that it may open; 0 = no bound."
    )


class RetriesSection(Section):
    """How often a request is sent again when nothing of it can have been processed."""

    connect: Annotated[int, count(0, 10)] = key("2", description="Tries after the first.")
    budget: Annotated[float, number(0, 1)] = key("0.2", description="Retries per request, in the long run.")


class PoolSection(Section):
    """Connections to the upstream."""

    max_connections: Annotated[int, count(1, 100_000)] = key("100", description="Open at the same time.")
    max_idle: Annotated[int, count(0, 100_000)] = key("100", description="Kept open without a request.")
    idle_timeout: Annotated[float, duration("100ms", "1h")] = key(
        "4s", description="An idle connection is closed after this; less than the upstream's own is best."
    )
    reuse: Boolean = key("true", description="false = a connection for each request.")
    max_pending: Annotated[int, count(0, 1_000_000)] = key("1000", description="Requests waiting for a connection.")
    pending_timeout: Annotated[float, duration("10ms", "10m")] = key("5s", description="How long they wait.")


class RateLimitSection(Section):
    """A bound for all of the route's requests together; more get 429."""

    requests_per_second: Annotated[float, number(0, 1_000_000, above=True)] = key(
        description="In the long run.", examples=[100]
    )
    burst: Annotated[int | None, count(1, 1_000_000)] = key(
        None, description="At once; by default as many as in one second.", examples=[200]
    )


class RouteLimitsSection(Section):
    """A route's own bounds, in place of the gateway's."""

    body_bytes: Annotated[int | None, size("1B", "1024GiB", zero=True)] = key(
        None, description="The largest request body; 0 = unlimited.", examples=["1MiB"]
    )
