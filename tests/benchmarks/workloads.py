"""The workloads: what is asked for, over how many connections. Names are those of the budget."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.units import GIB, KIB, MIB

SIZES = {"/api/1k": 1 * KIB, "/api/64k": 64 * KIB, "/api/10m": 10 * MIB}
"""The upstream's files and their octets."""
LARGE_BODY = 10 * GIB
"""What /api/large is, and what is sent to /api/count, to see whether memory grows with a body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of load."""

    name: str
    about: str
    path: str
    connections: int
    method: str = "GET"
    body: int = 0  # octets of the request's body
    close: bool = False  # a connection for each request
    more_headers: int = 0
    unlike: bool = False  # no head is like another, in either direction
    rate: int = 0  # requests a second, whatever comes back (open loop); 0 = as many as are answered (closed loop)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(name="W1", about="GET 1 KiB, 64 kept connections", path="/api/1k", connections=64),
        Workload(
            name="W2",
            about="POST 10 KiB, 1 KiB back, 64 kept connections",
            path="/api/post",
            connections=64,
            method="POST",
            body=10 * KIB,
        ),
        Workload(name="W3", about="GET 64 KiB, 64 kept connections", path="/api/64k", connections=64),
        Workload(name="W4", about="GET 10 MiB, 4 kept connections", path="/api/10m", connections=4),
        Workload(name="W5", about="GET 1 KiB, 1000 kept connections", path="/api/1k", connections=1000),
        Workload(name="W6", about="GET 1 KiB, a connection for each", path="/api/1k", connections=64, close=True),
        Workload(
            name="W7",
            about="W1 with 20 more header fields in the request",
            path="/api/1k",
            connections=64,
            more_headers=20,
        ),
        Workload(
            name="W8",
            about="W1 with heads of which none is like another, both ways",
            path="/api/unlike",
            connections=64,
            unlike=True,
        ),
        Workload(
            name="L1",
            about="GET 1 KiB, 1000 a second, open loop, 16 connections",
            path="/api/1k",
            connections=16,
            rate=1000,
        ),
    )
}
