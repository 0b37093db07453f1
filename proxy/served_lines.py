"""The access line of a request that was served as usual, made in one pass: a busy gateway writes hardly any other.

The line is, octet by octet, what ``JsonLines`` makes of the same fields, at a quarter of the cost. Whatever is not
usual - a failure, a reply of the gateway's own, a value that would be cut - is left to that.
"""

from __future__ import annotations

import json
import logging
from typing import Protocol, TypeVar

from proxy.log_format import MAX_VALUE, JsonLines

_K = TypeVar("_K")
ACCESS = (logging.INFO, "proxy.access", "request")  # level, logger and message of every access line
_quoted = json.encoder.encode_basestring_ascii
_MAX_REMEMBERED = 1024


class Served(Protocol):
    """What is told of a request. Times are of one clock, in seconds."""

    request_id: bytes
    peer: str
    method: bytes
    status: int
    request_octets: int
    response_octets: int
    tries: int
    started_s: float
    sent_s: float | None
    upstream_s: float | None
    first_byte_s: float | None


def milliseconds(seconds: float) -> float:
    """Returns a time in milliseconds, to a tenth."""
    return int(seconds * 10_000 + 0.5) / 10


class ServedLines:
    """Makes the lines. What recurs is remembered, a bounded number of it."""

    __slots__ = ("_before", "_behind", "_lines", "_millisecond", "_opening", "_routes", "_second", "_tenths")

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines
        self._millisecond = self._second = -1
        self._before = self._behind = ""  # of the lines of this second, before and behind the fraction
        self._opening = ""  # of the lines of this millisecond, up to the request's number
        self._tenths: dict[int, str] = {}
        self._routes: dict[tuple[str, str], str] = {}

    def line(
        self, created_s: float, served: Served, duration_s: float, target: str, about: tuple[str, str]
    ) -> str | None:
        """Returns the line without its end; None if one of the general rules is needed.

        `created_s` is of the wall clock; `target` what may be shown; `about` the names of the route and its credential.
        """
        request_id, method = served.request_id, served.method
        sent_s, upstream_s, first_byte_s = served.sent_s, served.upstream_s, served.first_byte_s
        if sent_s is None or upstream_s is None or first_byte_s is None:
            return None
        if len(request_id) + len(method) + len(target) > MAX_VALUE:
            return None
        millisecond = int(created_s * 1000)
        if millisecond != self._millisecond:
            self._open(millisecond)
        route = self._routes.get(about) or self._route(about)
        before_s = sent_s - served.started_s
        tenth = self._tenths.get
        return (
            f'{self._opening}{_quoted(request_id.decode("latin-1"))},"client":{_quoted(served.peer)}'
            f',"method":{_quoted(method.decode("latin-1"))},"target":{_quoted(target)},"status":{served.status}'
            f',"duration_ms":{tenth(number := int(duration_s * 10_000 + 0.5)) or self._tenth(number)}'
            f',"request_bytes":{served.request_octets},"response_bytes":{served.response_octets}'
            f"{route}{served.tries}"
            f',"before_upstream_ms":{tenth(number := int(before_s * 10_000 + 0.5)) or self._tenth(number)}'
            f',"upstream_ms":{tenth(number := int(upstream_s * 10_000 + 0.5)) or self._tenth(number)}'
            f',"first_byte_ms":{tenth(number := int(first_byte_s * 10_000 + 0.5)) or self._tenth(number)}}}'
        )

    def _open(self, millisecond: int) -> None:
        """Notes how the lines of this millisecond begin."""
        second, thousandths = divmod(millisecond, 1000)
        if second != self._second:
            line = self._lines.line(second, *ACCESS, fields={"request_id": ""})
            self._before, _, self._behind = line.removesuffix('""}').partition(".000Z")
            self._second = second
        self._opening = f"{self._before}.{thousandths:03d}Z{self._behind}"
        self._millisecond = millisecond

    def _route(self, about: tuple[str, str]) -> str:
        """Returns what stands between the octets and the number of tries."""
        without = self._lines.line(0.0, *ACCESS, fields={})
        line = self._lines.line(0.0, *ACCESS, fields={"route": about[0], "credential": about[1], "tries": 0})
        text = line[len(without) - 1 : -2]
        _remember(self._routes, about, text)
        return text

    def _tenth(self, number: int) -> str:
        text = str(number / 10)
        _remember(self._tenths, number, text)
        return text


def _remember(known: dict[_K, str], key: _K, text: str) -> None:
    if len(known) >= _MAX_REMEMBERED:
        known.clear()
    known[key] = text
