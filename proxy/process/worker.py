"""One process's life: harden, start, serve, and on SIGTERM or SIGINT drain and end with exit code 0.

Order of the end: not ready but still accepting for ``shutdown_delay``, then no new connections while requests under way
finish within ``drain_timeout``, then the rest is closed. A second signal skips the waiting.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from proxy import hardening, log
from proxy.clock import SystemClock
from proxy.errors import ConfigurationError
from proxy.gateway.settings import Settings
from proxy.process.assemble import Gateway
from proxy.splicing import AT_ONCE, DESCRIPTORS, Splice

_log = logging.getLogger("proxy.process")
_limited = log.RateLimited(_log)  # what peers can cause as often as they like: handshakes that fail, and the like
_T = TypeVar("_T")
_GC_THRESHOLD = 10_000  # more containers made than freed, before the youngest are looked through
_OTHER_DESCRIPTORS = 64  # listeners, admin connections, token requests, files


def run_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine on uvloop where it exists, on the standard loop otherwise."""
    try:
        import uvloop  # noqa: PLC0415  # optional

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:  # pragma: no cover
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def run(settings: Settings, *, source: str) -> int:
    """Serves until a signal says stop; returns the exit code. `source` tells where the configuration came from."""
    hardened = hardening.harden()
    log.configure(settings.log.format, settings.log.level)
    settings = _clamped(settings, hardened.descriptors)
    Splice.at_once = _splices(settings, hardened.descriptors)
    try:
        return run_loop(_serve(settings, source))
    finally:
        log.stop()


def _clamped(settings: Settings, descriptors: int) -> Settings:
    """Returns settings whose connection limit the process can hold: each connection may need two descriptors.

    A limit that is too high anyway is lowered a little more, so that there may be splices.
    """
    free = descriptors - _OTHER_DESCRIPTORS
    if 0 < settings.limits.connections <= free // 2:
        return settings
    possible = max(1, (free - min(AT_ONCE * DESCRIPTORS, free // 8)) // 2)
    _log.warning(
        "limits.connections is more than the descriptor limit (ulimit -n) allows; it is lowered",
        extra={"fields": {"configured": settings.limits.connections, "in_force": possible}},
    )
    return replace(settings, limits=replace(settings.limits, connections=possible))


def _splices(settings: Settings, descriptors: int) -> int:
    """Returns how many splices there may be at once: the connections must never lack a descriptor for them."""
    return max(0, min(AT_ONCE, (descriptors - _OTHER_DESCRIPTORS - 2 * settings.limits.connections) // DESCRIPTORS))


def _settle_memory() -> None:
    """Spares the garbage collector what lives as long as the process, and most of its runs.

    Requests leave next to nothing to it, yet with Python's thresholds it runs every few requests and walks through all of
    the program's modules again and again: an eighth of the CPU time of a request, a quarter with 1000 connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)


async def _serve(settings: Settings, source: str) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    stop = asyncio.Event()
    hurry = asyncio.Event()
    gateway = Gateway(settings, SystemClock())

    def told_to_stop() -> None:
        if stop.is_set():
            hurry.set()
            gateway.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    try:
        await gateway.start()
    except ConfigurationError:
        await gateway.stop(0)
        raise
    _settle_memory()
    _log.info(
        "serving",
        extra={
            "fields": {
                "configuration": source,
                "listen": ", ".join(map(str, gateway.addresses)),
                "admin": str(gateway.admin_address or "off"),
                "routes": len(settings.routes),
                "credentials": len(settings.credentials),
            }
        },
    )
    await stop.wait()
    _log.info("stopping", extra={"fields": {"requests_in_flight": gateway.in_flight}})
    gateway.begin_draining()
    if settings.shutdown_delay_s:
        try:
            async with asyncio.timeout(settings.shutdown_delay_s):
                await hurry.wait()
        except TimeoutError:
            pass
    finished = await gateway.stop(0 if hurry.is_set() else settings.drain_timeout_s)
    _log.info("stopped", extra={"fields": {"every_request_finished": finished}})
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    """Logs what the event loop could not deliver by its type alone: its text may quote a peer or a secret."""
    error = context.get("exception")
    _limited.log(logging.ERROR, "event loop error", {"type": type(error).__name__ if error else "unknown"})
