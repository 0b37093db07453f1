"""Those who wait for a connection without a task: told in order, within the call that frees it, and never twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import pytest

from proxy.errors import GatewayError, Side
from proxy.upstream.connection import UpstreamConnection
from tests.support.fake_clock import settle, until
from tests.support.scripted_upstream import WITHIN_S, always, ok
from tests.upstream.pool_scene import Scene, operations, overloaded, scene
from tests.upstream.recording_sink import RecordingSink, exchange, start

CLOSING = always(ok(b"x", b"Connection: close"))
SLACK_S = 0.002  # that the loops' clocks may be coarser than what they are asked for


class Recording:
    """A waiter that notes what it was told, and when; `told` is shared by those whose order matters."""

    def __init__(self, name: str = "", told: list[str] | None = None, *, takes: bool = True) -> None:
        self.name = name
        self.told = [] if told is None else told
        self.takes = takes
        self.given: UpstreamConnection | None = None
        self.error: GatewayError | None = None
        self.began_s = asyncio.get_running_loop().time()
        self.told_s = 0.0
        self.then: Callable[[UpstreamConnection], object] | None = None

    def served(self, connection: UpstreamConnection) -> bool:
        self._note("served")
        if self.takes:
            self.given = connection
            if self.then is not None:
                self.then(connection)
        return self.takes

    def may_open(self) -> bool:
        self._note("may open")
        return self.takes

    def failed(self, error: GatewayError) -> None:
        self._note("failed")
        self.error = error

    def _note(self, what: str) -> None:
        self.told.append(f"{self.name} {what}".strip())
        self.told_s = asyncio.get_running_loop().time()


def waiting(at: Scene, *names: str, takes: bool = True) -> tuple[list[str], list[Recording]]:
    """Has some wait, one behind the other; returns what they are told, and themselves."""
    told: list[str] = []
    waiters = [Recording(name, told, takes=takes) for name in names]
    for waiter in waiters:
        at.pool.ask(waiter)
    return told, waiters


# ---- its turn


async def test_one_who_need_not_wait():
    """It may open a connection, and is told so at once; its place is taken from then on."""
    async with scene(max_connections=1) as at:
        told, _ = waiting(at, "first", "second")
        assert (told, at.counts(), at.pool.pending) == (["first may open"], (1, 0, 0), 1)
        connection = await at.pool.open(WITHIN_S)
        assert (at.counts(), connection.reused) == ((0, 0, 1), False)


async def test_a_connection_that_comes_back():
    """It serves the first within the call that releases it, and nobody else."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        told, waiters = waiting(at, "a", "b", "c")
        assert (told, at.pool.pending) == ([], 3)
        at.pool.release(connection)
        assert (told, waiters[0].given, at.pool.pending, at.counts()) == (["a served"], connection, 2, (0, 0, 1))
        at.pool.release(connection)
        assert told == ["a served", "b served"]
        at.pool.leave(waiters[2])


async def test_tasks_and_others_in_one_queue():
    """First come, first served, in whichever way they wait."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        told: list[str] = []

        async def in_a_task(name: str) -> None:
            taken = await at.acquire()
            told.append(f"{name} served")
            at.pool.release(taken)

        waiters = [Recording(name, told) for name in ("b", "d")]
        for waiter in waiters:
            waiter.then = at.pool.release
        tasks = [at.tasks.start(in_a_task("a"), name="a")]
        await settle()
        at.pool.ask(waiters[0])
        tasks.append(at.tasks.start(in_a_task("c"), name="c"))
        await settle()
        at.pool.ask(waiters[1])
        at.pool.release(connection)
        await asyncio.gather(*tasks)
        assert told == ["a served", "b served", "c served", "d served"]
        assert at.counts() == (0, 1, 0)


async def test_an_exchange_that_begins_within_the_end_of_another():
    """As in a chain of requests, each of which gives its connection to the next: all answers are whole."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        sinks: list[RecordingSink] = []

        def begin(taken: UpstreamConnection) -> None:
            sink = start(taken)
            sink.hooks["on_end"] = partial(at.pool.release, taken)
            sinks.append(sink)

        for _ in range(50):
            waiter = Recording()
            waiter.then = begin
            at.pool.ask(waiter)
        begin(connection)
        while len(sinks) < 51 or not sinks[-1].over:
            await sinks[-1].end()
        assert [sink.body for sink in sinks] == [b"x"] * 51
        assert at.counts() == (0, 1, 0)
        assert len(at.upstream.connections) == 1


@pytest.mark.parametrize("many", [3, 3000])
async def test_waiters_that_need_no_connection_any_more(many: int):
    """It goes on to the next who does, or is idle; no number of them is too much for the stack."""
    async with scene(max_connections=1, max_pending=2 * many) as at:
        connection = await at.acquire()
        told, _ = waiting(at, *map(str, range(many)), takes=False)
        last = Recording("last", told)
        at.pool.ask(last)
        at.pool.release(connection)
        assert told == [*(f"{number} served" for number in range(many)), "last served"]
        told, _ = waiting(at, "a", "b", takes=False)
        at.pool.release(connection)
        assert (told, at.counts()) == (["a served", "b served"], (0, 1, 0))


async def test_a_place_nobody_needs_any_more():
    """It goes on to the next who does, or is free."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        told, _ = waiting(at, "a", "b", takes=False)
        last = Recording("last", told)
        at.pool.ask(last)
        connection.abort()
        assert (told, at.counts()) == (["a may open", "b may open", "last may open"], (1, 0, 0))
        connection = await at.pool.open(WITHIN_S)
        waiting(at, "a", "b", takes=False)
        connection.abort()
        assert at.counts() == (0, 0, 0)


async def test_a_connection_on_which_something_waits_to_be_read():
    """It would pass for the waiter's answer: it is closed, and the waiter opens another in its place."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with scene(port=server.getsockname()[1], max_connections=1) as at:
            connection = await at.acquire()
            accepted, _ = server.accept()
            with accepted:
                told, _ = waiting(at, "a", "b")
                accepted.sendall(ok(b"poison"))
                while connection.quiet():  # the event loop does not run here, so that it cannot see it
                    pass
                at.pool.release(connection)
                assert (told, connection.closed, at.counts()) == (["a may open"], True, (1, 0, 0))
                fresh = await at.pool.open(WITHIN_S)
                at.pool.release(fresh)
                assert told == ["a may open", "b served"]


async def test_connections_that_serve_once():
    """Each answer frees a place, in which the next opens its own."""
    async with scene(CLOSING, max_connections=1) as at:
        connection = await at.acquire()
        told, _ = waiting(at, "a", "b")
        await exchange(connection)
        at.pool.release(connection)
        assert told == ["a may open"]
        connection = await at.pool.open(WITHIN_S)
        await exchange(connection)
        assert told == ["a may open", "b may open"]
        await at.pool.open(WITHIN_S)


async def test_one_who_wants_a_fresh_connection():
    """What comes back is closed for it, when it is its turn; those before it take what comes."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        told, _ = waiting(at, "a")
        fresh, behind = Recording("fresh", told), Recording("behind", told)
        at.pool.ask(fresh, fresh=True)
        at.pool.ask(behind)
        at.pool.release(connection)
        assert (told, connection.closed) == (["a served"], False)
        at.pool.release(connection)
        assert (told, connection.closed) == (["a served", "fresh may open"], True)
        opened = await at.pool.open(WITHIN_S)
        at.pool.release(opened)
        assert told == ["a served", "fresh may open", "behind served"]


async def test_a_place_that_cannot_be_used():
    """Who fails to open a connection gives the place to the next."""
    async with scene(port=1, max_connections=1) as at:
        told, _ = waiting(at, "a", "b", "c")
        for count in (1, 2, 3):
            assert told == [f"{name} may open" for name in "abc"[:count]]
            with pytest.raises(GatewayError):
                await at.pool.open(WITHIN_S)
        assert at.counts() == (0, 0, 0)


# ---- its leaving


async def test_one_who_leaves():
    """It is told nothing any more, and those behind it move up; to leave twice, or unasked, does no harm."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        told, waiters = waiting(at, "a", "b", "c")
        for waiter in (waiters[0], waiters[1], waiters[0], Recording()):
            at.pool.leave(waiter)
        assert at.pool.pending == 1
        at.pool.release(connection)
        assert told == ["c served"]


# ---- its bounds


async def test_too_many_who_wait():
    """One more is told at once that it may not; when one has left, another may."""
    async with scene(max_connections=1, max_pending=2) as at:
        await at.acquire()
        told, waiters = waiting(at, "a", "b", "c")
        assert told == ["c failed"]
        assert overloaded(waiters[2].error)
        at.pool.leave(waiters[0])
        told, _ = waiting(at, "d", "e")
        assert told == ["e failed"]


async def test_those_whose_time_is_over():
    """Each after its own time, not sooner; one timer watches all, and stops when nobody waits any more."""
    async with scene(max_connections=1, pending_timeout_s=0.1) as at:
        await at.acquire()
        queue = at.pool._waiters
        assert queue._timer is None
        told, early = waiting(at, "a", "b")
        timer = queue._timer
        assert timer is not None
        await asyncio.sleep(0.05)  # noqa: TID251  # so that those who come now have more time left
        late = [Recording(name, told) for name in ("c", "d")]
        for waiter in late:
            at.pool.ask(waiter)
        assert queue._timer is timer
        await until(lambda: len(told) == 4)
        assert told == ["a failed", "b failed", "c failed", "d failed"]
        assert all(overloaded(waiter.error) for waiter in [*early, *late])
        assert all(waiter.told_s - waiter.began_s >= 0.1 - SLACK_S for waiter in [*early, *late])
        assert (at.pool.pending, queue._timer) == (0, None)


async def test_one_whose_time_is_over_behind_one_who_was_served():
    """The timer that was set for the one before it comes back for it."""
    async with scene(max_connections=1, pending_timeout_s=0.05) as at:
        connection = await at.acquire()
        told, waiters = waiting(at, "a", "b")
        at.pool.release(connection)
        await until(lambda: len(told) == 2)
        assert told == ["a served", "b failed"]
        assert waiters[1].told_s - waiters[1].began_s >= 0.05 - SLACK_S


async def test_waiting_without_a_bound():
    """`pending_timeout_s` 0 sets no timer."""
    async with scene(max_connections=1, pending_timeout_s=0) as at:
        connection = await at.acquire()
        told, _ = waiting(at, "a")
        assert at.pool._waiters._timer is None
        at.pool.release(connection)
        assert told == ["a served"]


async def test_a_pool_that_closes_while_some_wait():
    """All are told, in order, that nothing comes, as is who asks later; no timer is left."""
    async with scene(max_connections=1) as at:
        await at.acquire()
        told, waiters = waiting(at, "a", "b")
        await at.pool.close()
        waiters.append(Recording("c", told))
        at.pool.ask(waiters[2])
        assert told == ["a failed", "b failed", "c failed"]
        assert all(waiter.error is not None and waiter.error.side is Side.GATEWAY for waiter in waiters)
        assert at.pool._waiters._timer is None


async def test_a_pool_that_closes_while_one_may_open():
    """Its connection is closed as soon as it is open."""
    async with scene(max_connections=1) as at:
        told, _ = waiting(at, "a")
        await at.pool.close()
        with pytest.raises(GatewayError):
            await at.pool.open(WITHIN_S)
        assert (told, at.counts()) == (["a may open"], (0, 0, 0))


# ---- cost


async def test_a_turn_costs_the_same_in_a_queue_of_any_length():
    """Counted in Python's own operations: to join, to leave and to be served, with 1, 100 or 1000 who wait."""
    costs: dict[int, tuple[int, int, int]] = {}
    for size in (1, 100, 1000):
        async with scene(max_connections=1, max_pending=2000) as at:
            connection = await at.acquire()
            waiting(at, *map(str, range(size)))
            one = Recording()
            costs[size] = (
                operations(partial(at.pool.ask, one)),
                operations(partial(at.pool.leave, one)),
                operations(partial(at.pool.release, connection)),
            )
    assert costs[1] == costs[100] == costs[1000]
    assert all(cost < 200 for cost in costs[1])
