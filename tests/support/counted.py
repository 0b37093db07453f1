"""A gateway on a thread of its own, of which every operation of Python's is counted, and the two ends it stands between.

Client and upstream are plain blocking sockets on other threads, so that nothing of theirs is counted or made on the
gateway's loop. Counted are the bytecodes of all Python code that the loop calls, but for the loop's own: how often that
goes round is a matter of time. A walk shows as bytecodes, whatever it walks over; a copy made in one bytecode
(`list(connections)`) shows as memory, which `peak` tells; a search by one bytecode in a list shows as neither.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from types import FrameType
from typing import Any, Self

from proxy.clock import SystemClock
from proxy.gateway.settings import Settings, TcpAddress
from proxy.process.assemble import Gateway
from tests.support.gateway import Taken

WITHIN_S = 30.0  # a bound for what takes moments
_LOOPS_OWN = ("/asyncio/", "/selectors.py", "/threading.py", "/concurrent/futures/")
_serial = count(1)


class Upstream:
    """Answers each request with the same octets, at once; those for a path with `/held` in it only after `release`."""

    def __init__(self) -> None:
        # heads are remembered in the whole process, and with each what a few routes make of it: this one is new to all
        self._answer = b"HTTP/1.1 200 OK\r\nServer: upstream-%06d\r\nContent-Length: 2\r\n\r\nok" % next(_serial)
        self._waiting: list[socket.socket] = []
        self._one_more = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._buffer = bytearray(4096)  # reused, as the client's: nothing is allocated while memory is counted
        self._thread = threading.Thread(target=self._serve, name="upstream")

    def until_held(self, number: int) -> None:
        """Waits until so many requests are held."""
        with self._one_more:
            assert self._one_more.wait_for(lambda: len(self._waiting) >= number, WITHIN_S)

    def release(self) -> None:
        """Answers what is held."""
        with self._one_more:
            waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.sendall(self._answer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for key in tuple(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # each is a socket
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is self._woken:
                    return
                if ready is self._listener:
                    accepted, _ = ready.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._selector.register(accepted, selectors.EVENT_READ)
                else:
                    self._heard(ready)

    def _heard(self, connection: socket.socket) -> None:
        size = 0
        with suppress(ConnectionError):
            size = connection.recv_into(self._buffer)  # requests here are small: one, whole
        if not size:
            self._selector.unregister(connection)
            connection.close()
        elif self._buffer.find(b"/held", 0, 20) >= 0:
            with self._one_more:
                self._waiting.append(connection)
                self._one_more.notify()
        else:
            connection.sendall(self._answer)


class Client:
    """One connection of a client's."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WITHIN_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4096)

    def send(self, request: bytes) -> None:
        """Sends octets."""
        self._socket.sendall(request)

    def answer(self) -> None:
        """Reads one answer, whose body is the upstream's. Raises EOFError, AssertionError if none comes."""
        end, room = 0, memoryview(self._buffer)
        while self._buffer.find(b"\r\n\r\nok", 0, end) < 0:
            size = self._socket.recv_into(room[end:])
            if not size:
                raise EOFError(f"closed after {bytes(room[:end])!r}")
            end += size
        assert self._buffer.startswith(b"HTTP/1.1 200 ")

    def ask(self, request: bytes) -> None:
        """Sends a request and reads its answer."""
        self.send(request)
        self.answer()

    def close(self) -> None:
        """Closes."""
        self._socket.close()


class Made:
    """What was made on a loop, for whatever reason."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.futures = 0
        self.timers: list[str] = []  # the qualified names of what they call

    def clear(self) -> None:
        """Forgets all."""
        self.tasks, self.futures, self.timers = [], 0, []


def telling(base: type[Any], made: Made) -> asyncio.AbstractEventLoop:
    """Returns an event loop that tells what is made on it: tasks, futures and timers, by its public methods."""

    class Loop(base):  # type: ignore[misc]
        def create_task(self, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Any:
            made.tasks.append(coroutine.__qualname__)
            return super().create_task(coroutine, **options)

        def create_future(self) -> Any:
            made.futures += 1
            return super().create_future()

        def call_later(self, delay: float, callback: Any, *arguments: Any, **options: Any) -> Any:
            made.timers.append(_name(callback))
            return super().call_later(delay, callback, *arguments, **options)

        def call_at(self, when: float, callback: Any, *arguments: Any, **options: Any) -> Any:
            made.timers.append(_name(callback))
            return super().call_at(when, callback, *arguments, **options)

    loop: asyncio.AbstractEventLoop = Loop()
    return loop


def _name(callback: object) -> str:
    return str(getattr(callback, "__qualname__", callback))


class CountedGateway:
    """A running gateway and its counts."""

    def __init__(self, settings: Settings, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._settings = settings
        self._new_loop = new_loop
        self._runner: asyncio.Runner
        self._loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self._over: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="gateway")
        self._failed: BaseException | None = None
        self.gateway: Gateway
        self.agent = b"test-%06d" % next(_serial)  # a User-Agent that makes a request's head new to the process
        self.operations = 0
        self.called: Counter[str] = Counter()  # functions of the gateway's, by qualified name

    @property
    def port(self) -> int:
        """The port of the proxy listener."""
        address = self.gateway.addresses[0]
        assert isinstance(address, TcpAddress)
        return address.port

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(WITHIN_S)
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def settled(self) -> None:
        """Waits until the loop has done all that is due."""
        for _ in range(3):
            done = threading.Event()
            self._loop.call_soon_threadsafe(done.set)
            assert done.wait(WITHIN_S)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is done meanwhile, in `operations` and `called`."""
        self._loop.call_soon_threadsafe(sys.settrace, self._enters)
        self.settled()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(sys.settrace, None)
            self.settled()

    def cost(self, action: Callable[[], object]) -> int:
        """Returns how many operations the gateway did for something, once it is done; within `counting`."""
        before = self.operations
        action()
        self.settled()
        return self.operations - before

    def peak(self, action: Callable[[], object]) -> int:
        """Returns by how many octets the process's memory has grown at most meanwhile; while `tracemalloc` runs."""
        self.settled()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        action()
        self.settled()
        return tracemalloc.get_traced_memory()[1] - before

    def _enters(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if event != "call" or any(own in code.co_filename for own in _LOOPS_OWN):
            return None
        self.called[code.co_qualname] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._does

    def _does(self, _frame: FrameType, event: str, _: object) -> Any:
        self.operations += event == "opcode"
        return self._does

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # told to whoever waits for this thread
            self._failed = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.gateway = Gateway(self._settings, SystemClock(), direct=Taken.direct)
        await self.gateway.start()
        self._started.set()
        try:
            await self._over.wait()
        finally:
            sys.settrace(None)
            await self.gateway.stop(5.0)
