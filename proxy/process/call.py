"""One request through the gateway's own path, without a listener: for `bearer-proxy call`.

The request goes over a socket pair into the same front protocol, handler, token keeper and upstream pool that `run`
uses, so what works here works there. The answer's body is passed on as it comes. What failed is read from the request's
own line of the access log, which knows more than the client is told.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway.settings import Settings
from proxy.http1.fields import Field
from proxy.http1.framing import BodyKind, ChunkedDecoder, response_framing
from proxy.http1.wire import RequestHead, ResponseHead, parse_response_head, request_head
from proxy.process import explain, hints
from proxy.process.assemble import Gateway
from proxy.units import KIB, MIB, SECONDS

_MAX_HEAD = 1 * MIB
_PIECE = 64 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send."""

    method: str
    url: str  # a path, or a URL whose host and path count
    fields: tuple[Field, ...] = ()
    body: bytes | None = None


async def call(
    settings: Settings,
    clock: Clock,
    request: Request,
    *,
    on_head: Callable[[ResponseHead], None],
    on_data: Callable[[bytes], None],
) -> GatewayError | None:
    """Sends one request and passes the answer on; returns what failed, if the answer is no good because of it."""
    head = explain.request_head(request.method, request.url, request.fields, settings)
    if request.body is not None:
        fields = (*head.fields, (b"Content-Length", b"%d" % len(request.body)))
        head = RequestHead(head.method, head.target, head.version, fields)
    settings = replace(settings, listen=(), admin=None, log=replace(settings.log, access=True))
    cut_off: GatewayError | None = None
    with _access_lines() as lines:
        try:
            await _through(Gateway(settings, clock), head, request.body, on_head=on_head, on_data=on_data)
        except BrokenPipeError:
            raise  # who reads our output went away
        except (asyncio.IncompleteReadError, ConnectionError):
            cut_off = GatewayError(ErrorType.HTTP_RESPONSE_INCOMPLETE, Side.UPSTREAM, "the answer was cut off")
    for line in lines:
        if "error" in line and (cut_off is not None or int(str(line["status"])) >= 400):  # else another try went well
            return _failure(line)
    return cut_off


def told(error: GatewayError) -> list[str]:
    """Returns a failure for people, and what to look at."""
    if isinstance(error, Refusal):
        word, what = error.problem.suffix, "refused"
    else:
        word, what = error.error_type.value, f"failed at the {error.side.replace('_', ' ')}"
    lines = [f"{what}: {word}" if error.detail in {word, ""} else f"{what}: {word} ({error.detail})"]
    if (hint := hints.hint(error)) is not None:
        lines.append(f"hint: {hint}")
    return lines


@contextmanager
def _access_lines() -> Iterator[list[dict[str, object]]]:
    """Takes the lines of the access log meanwhile."""
    lines: list[dict[str, object]] = []
    taker = logging.Handler()
    taker.emit = lambda record: lines.append(getattr(record, "fields", {}))  # type: ignore[method-assign]
    logger = logging.getLogger("proxy.access")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(taker)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(taker)
        logger.setLevel(level)
        logger.propagate = propagate


def _failure(line: dict[str, object]) -> GatewayError:
    """Returns the failure that a line tells of."""
    side, detail = Side(str(line["failed"])), str(line["detail"])
    if side is Side.CLIENT and "problem" in line:
        (problem,) = (problem for problem in Problem if problem.suffix == line["problem"])
        return Refusal(problem, detail)
    return GatewayError(ErrorType(str(line["error"])), side, detail)


async def _through(
    gateway: Gateway,
    head: RequestHead,
    body: bytes | None,
    *,
    on_head: Callable[[ResponseHead], None],
    on_data: Callable[[bytes], None],
) -> None:
    await gateway.start()
    ours, theirs = socket.socketpair()
    try:
        await asyncio.get_running_loop().connect_accepted_socket(gateway.server.receiver(unix=True), theirs)
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_HEAD)
        try:
            await _exchange(head, body, reader, writer, on_head=on_head, on_data=on_data)
        finally:
            writer.close()
    finally:
        await gateway.stop(1 * SECONDS)


async def _exchange(
    head: RequestHead,
    body: bytes | None,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    on_head: Callable[[ResponseHead], None],
    on_data: Callable[[bytes], None],
) -> None:
    fields = (*head.fields, (b"Connection", b"close"))
    writer.write(request_head(head.method, head.target, fields) + (body or b""))
    while True:
        raw = await reader.readuntil(b"\r\n\r\n")
        answer = parse_response_head(raw, max_fields=raw.count(b"\n"))
        if answer.status >= 200:
            break
    on_head(answer)
    framing = response_framing(method=head.method, status=answer.status, version=answer.version, found=answer.known)
    match framing.kind:
        case BodyKind.LENGTH:
            left = framing.length
            while left:
                data = await reader.read(min(left, _PIECE))
                if not data:
                    raise asyncio.IncompleteReadError(data, left)
                left -= len(data)
                on_data(data)
        case BodyKind.CHUNKED:
            decoder = ChunkedDecoder()
            while not decoder.done:
                data = await reader.read(_PIECE)
                if not data:
                    raise asyncio.IncompleteReadError(data, None)
                for piece in decoder.feed(data):
                    on_data(piece)
        case BodyKind.UNTIL_CLOSE:
            while data := await reader.read(_PIECE):
                on_data(data)
        case BodyKind.NONE:
            pass
