"""What a request costs does not grow: not with the routes, nor with idle connections, nor with the pool's size.

Counted in operations, not in time, of one request from end to end over real sockets; among many requests, since once a
second the gateway looks after all of its connections, which is allowed to cost a step for each.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from proxy.clock import SystemClock
from proxy.config.load import load
from proxy.gateway.settings import Settings
from proxy.hardening import raise_descriptor_limit
from proxy.routing import Match, RouteName
from tests.support.counted import Client, CountedGateway, Made, Upstream, telling
from tests.support.gateway import Taken

WARM = 20  # requests before the first that counts: memos are filled, connections open
REQUESTS = 16
OFTEN = 12  # of those: what happens only once in a while is left out
NOISE = 2048  # octets; a copy of 1000 references takes 8000
CONFIGURATION = """\
version: 1
listen: 127.0.0.1:0
admin: off
limits: {{connections: 20000}}
access: {{allowed_hosts: ["*"]}}
credentials:
  main: {{grant_type: static, access_token_file: {folder}/token}}
routes:
  - name: all
    match: {{path_prefix: /}}
    upstream: http://127.0.0.1:{port}
    credential: main
    pool: {{max_connections: 2000, max_idle: 2000, idle_timeout: 1h}}
log: {{access: false}}
"""
LOOPS = [pytest.param(asyncio.SelectorEventLoop, id="asyncio"), pytest.param(uvloop.Loop, id="uvloop")]


def settings(upstream: Upstream, folder: Path) -> Settings:
    """Returns the settings of a gateway with one route."""
    (folder / "token").write_text("token-1\n")
    (folder / "token").chmod(0o600)
    file = folder / "proxy.yaml"
    file.write_text(CONFIGURATION.format(folder=folder, port=upstream.port))
    return load(file, environ={}, use_env_file=False).settings


def get(path: bytes = b"/x", host: bytes = b"localhost") -> bytes:
    """Returns a plain request."""
    return b"GET %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\nUser-Agent: test\r\n\r\n" % (path, host)


def operations(gateway: CountedGateway, request: bytes, warm: int = WARM, requests: int = REQUESTS) -> list[int]:
    """Returns the operations of one request after the other, without the dearest ones."""
    request = request.replace(b"User-Agent: test", b"User-Agent: " + gateway.agent)
    client = Client(gateway.port)
    with gateway.counting():
        for _ in range(warm):
            client.ask(request)
        costs = sorted(gateway.cost(lambda: client.ask(request)) for _ in range(requests))[:OFTEN]
    client.close()
    assert costs[0] > 100  # the count sees the gateway
    return costs


def memory(gateway: CountedGateway, request: bytes) -> int:
    """Returns by how many octets a request makes memory grow for a while."""
    request = request.replace(b"User-Agent: test", b"User-Agent: " + gateway.agent)
    client = Client(gateway.port)
    for _ in range(WARM):
        client.ask(request)
    tracemalloc.start(1)
    try:
        peaks = sorted(gateway.peak(lambda: client.ask(request)) for _ in range(REQUESTS))
    finally:
        tracemalloc.stop()
    client.close()
    return peaks[OFTEN // 2]


# ---- routes


def with_routes(base: Settings, number: int) -> Settings:
    """Returns settings with so many routes of each kind."""
    (only,) = base.routes
    matches = [
        *(Match(path_prefix=b"/orders/%06d" % i) for i in range(number)),
        *(Match(path_prefix=b"/orders/%06d/deep/%06d" % (i, i)) for i in range(number)),
        *(Match(path_exact=b"/exact/%06d" % i) for i in range(number)),
        *(Match(host=f"{i:06d}.example", path_prefix=b"/") for i in range(number)),
        *(Match(host=f"*.{i:06d}.example", path_prefix=b"/") for i in range(number)),
    ]
    more = (replace(only, name=RouteName(f"r{place}"), match=match) for place, match in enumerate(matches))
    return replace(base, routes=(only, *more))


ROUTED = [
    lambda last: get(b"/orders/%06d/7" % last),
    lambda last: get(b"/orders/%06d/deep/%06d/7" % (last, last)),
    lambda last: get(b"/orders/%06d/7" % (last // 2)),
    lambda last: get(b"/exact/%06d" % last),
    lambda last: get(b"/x", b"%06d.example" % last),
    lambda last: get(b"/x", b"a.b.%06d.example" % last),
    lambda _: get(b"/none/of/them"),
]


def test_routes(tmp_path: Path):
    """One of 6 routes, of 501 and of 10 001: the last, the middle, the deepest, by host, by none."""
    raise_descriptor_limit()
    costs: dict[int, list[list[int]]] = {}
    grown: dict[int, int] = {}
    for number in (1, 100, 2000):
        with (
            Upstream() as upstream,
            CountedGateway(with_routes(settings(upstream, tmp_path), number), uvloop.new_event_loop) as gateway,
        ):
            costs[number] = [operations(gateway, request(number - 1)) for request in ROUTED]
            grown[number] = memory(gateway, ROUTED[0](number - 1))

    assert costs[2000] == costs[100] == costs[1]
    assert grown[2000] <= grown[1] + NOISE


def test_routes_in_use(tmp_path: Path):
    """A route costs what the first one does, though fifty others have been asked by the same head before."""
    last = 49
    with (
        Upstream() as upstream,
        CountedGateway(with_routes(settings(upstream, tmp_path), last + 1), uvloop.new_event_loop) as gateway,
    ):
        first = operations(gateway, ROUTED[3](0))
        for number in range(last):
            operations(gateway, ROUTED[3](number), warm=1, requests=1)
        assert operations(gateway, ROUTED[3](last)) == first


# ---- idle connections of clients

IDLE_CLIENTS = """
import resource, socket, sys
port, number = map(int, sys.argv[1:])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
request = b"GET /x HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
idle = []
for _ in range(number):
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(request)
    answer = b""
    while not answer.endswith(b"\\r\\n\\r\\nok"):
        answer += one.recv(4096) or sys.exit("closed")
    idle.append(one)
print("idle", flush=True)
sys.stdin.read()
"""


@contextmanager
def idle_clients(port: int, number: int) -> Iterator[None]:
    """Keeps so many connections open, in a process of their own; each has had an answer."""
    command = [sys.executable, "-S", "-c", IDLE_CLIENTS, str(port), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"idle\n"
        try:
            yield
        finally:
            process.communicate(b"")


@pytest.mark.parametrize("most", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("base_loop", LOOPS)
def test_idle_clients(tmp_path: Path, base_loop: type[asyncio.AbstractEventLoop], most: int):
    """With one other connection open or with thousands; what is done for all of them is done once a tick."""
    if raise_descriptor_limit() < most + 200:
        pytest.skip(f"{most} connections need more descriptors than the hard limit of this process allows")
    costs: dict[int, list[int]] = {}
    grown: dict[int, int] = {}
    with Upstream() as upstream, CountedGateway(settings(upstream, tmp_path), base_loop) as gateway:
        for number in (1, most):
            with idle_clients(gateway.port, number):
                assert gateway.gateway.server.open_connections == number
                costs[number] = operations(gateway, get())
                if base_loop is uvloop.Loop:  # asyncio's reads take and give back more than is looked for
                    grown[number] = memory(gateway, get())

    assert costs[most] == costs[1]
    if grown:
        assert grown[most] <= grown[1] + NOISE


def test_looking_after_idle_clients(tmp_path: Path):
    """One look at each connection of the direct path in each tick, however many requests there are; else no look."""
    if not Taken.direct:
        pytest.skip("aiohttp has a timer for each connection")
    now = SystemClock().now
    idle, least_s = 50, 2.5
    requests = 0
    with Upstream() as upstream, CountedGateway(settings(upstream, tmp_path), uvloop.new_event_loop) as gateway:
        client = Client(gateway.port)
        with idle_clients(gateway.port, idle):
            client.ask(get())
            with gateway.counting():
                begun_s = now()
                while now() - begun_s < least_s or requests < 100:
                    client.ask(get())
                    requests += 1
                lasted_s = now() - begun_s
        client.close()

    ticks = gateway.called["DirectServer._look"]
    assert 1 <= ticks <= lasted_s + 1
    assert gateway.called["DirectConnection.look"] == ticks * (idle + 1)


# ---- connections of the pool


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_pools(tmp_path: Path, state: str):
    """With one other connection to the upstream, a hundred and a thousand, idle or busy."""
    if raise_descriptor_limit() < 4000:
        pytest.skip("1000 connections on both sides need more descriptors than the hard limit allows")
    costs: dict[int, list[int]] = {}
    grown: dict[int, int] = {}
    for number in (1, 100, 1000):
        with (
            Upstream() as upstream,
            CountedGateway(settings(upstream, tmp_path), uvloop.new_event_loop) as gateway,
        ):
            with others(gateway, upstream, number):
                if state == "busy":
                    measured(gateway, number, costs, grown)
                    assert gateway_counts(gateway) == (1, number)
            if state == "idle":
                measured(gateway, number, costs, grown)
                assert gateway_counts(gateway) == (number, 0)

    assert costs[1000] == costs[100] == costs[1]
    assert grown[1000] <= grown[1] + NOISE


@contextmanager
def others(gateway: CountedGateway, upstream: Upstream, number: int) -> Iterator[None]:
    """Keeps so many requests with the upstream, each on a connection of its own."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(gateway.port))) for _ in range(number)]
        for client in clients:
            client.send(get(b"/held"))
        upstream.until_held(number)
        yield
        upstream.release()
        for client in clients:
            client.answer()
    gateway.settled()


def measured(gateway: CountedGateway, number: int, costs: dict[int, list[int]], grown: dict[int, int]) -> None:
    """Notes the cost of a request with so many other connections."""
    costs[number] = operations(gateway, get())
    grown[number] = memory(gateway, get())


def gateway_counts(gateway: CountedGateway) -> tuple[int, int]:
    """Returns how many connections of the pool are idle, and how many are busy."""
    (plan,) = gateway.gateway.snapshot.plans.values()
    counts = plan.pool.counts()
    return counts.idle, counts.busy


# ---- what a request makes


@pytest.mark.parametrize("base_loop", LOOPS)
def test_what_a_plain_request_makes(tmp_path: Path, base_loop: type[asyncio.AbstractEventLoop]):
    """On the direct path no task, no future and no timer; the general path, which has them, shows that they are seen."""
    made = Made()
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        gateway = stack.enter_context(CountedGateway(settings(upstream, tmp_path), lambda: telling(base_loop, made)))
        client = stack.enter_context(closing(Client(gateway.port)))
        for request in (
            get(),
            get().replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
        ):
            for _ in range(WARM):
                client.ask(request)
            gateway.settled()
            made.clear()
            for _ in range(100):
                client.ask(request)
            gateway.settled()
            for_requests = [name for name in made.timers if name != "DirectServer._look"]  # that one once a tick
            if Taken.direct:
                assert (made.tasks, made.futures, for_requests) == ([], 0, [])
            else:
                assert for_requests
