"""The access line that is made in one pass: octet by octet what the general rules make of the same fields."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import log
from proxy.log_format import MAX_VALUE, JsonLines
from proxy.served_lines import ACCESS, ServedLines, milliseconds
from tests.support.fake_clock import until
from tests.support.fronting import in_front_of, request
from tests.support.gateway import Taken
from tests.support.raw_client import ask
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

HOSTILE = "".join(map(chr, range(256)))
times = st.floats(min_value=0, max_value=1e7)
octets = st.binary(max_size=40) | st.just(HOSTILE.encode("latin-1"))


@dataclass
class Told:
    """What is told of a request."""

    request_id: bytes = b"1f"
    peer: str = "127.0.0.1"
    method: bytes = b"GET"
    status: int = 200
    request_octets: int = 0
    response_octets: int = 1024
    tries: int = 1
    started_s: float = 0.0
    sent_s: float | None = 0.0001
    upstream_s: float | None = 0.25
    first_byte_s: float | None = 0.26


def general(told: Told, duration_s: float, target: str, about: tuple[str, str], created_s: float) -> str:
    assert told.sent_s is not None
    assert told.upstream_s is not None
    assert told.first_byte_s is not None
    fields = {
        "request_id": told.request_id.decode("latin-1"),
        "client": told.peer,
        "method": told.method.decode("latin-1"),
        "target": target,
        "status": told.status,
        "duration_ms": milliseconds(duration_s),
        "request_bytes": told.request_octets,
        "response_bytes": told.response_octets,
        "route": about[0],
        "credential": about[1],
        "tries": told.tries,
        "before_upstream_ms": milliseconds(told.sent_s - told.started_s),
        "upstream_ms": milliseconds(told.upstream_s),
        "first_byte_ms": milliseconds(told.first_byte_s),
    }
    return JsonLines().line(created_s, *ACCESS, fields=fields)


@given(
    st.builds(
        Told,
        octets,
        st.text(max_size=40),
        octets,
        st.integers(100, 999),
        st.integers(0, 2**70),
        st.integers(0, 2**70),
        st.integers(0, 99),
        st.just(0.0),
        times,
        times,
        times,
    ),
    times,
    st.text(alphabet=st.characters(max_codepoint=255), max_size=80) | st.just(HOSTILE),
    st.tuples(st.text(max_size=9), st.text(max_size=9)),
    st.integers(0, 2**33),
)
def test_a_line_in_one_pass(told: Told, duration_s: float, target: str, about: tuple[str, str], created_s: int):
    """Whatever a peer, a name or a clock puts into it; the first time as ever after."""
    lines = ServedLines(JsonLines())
    expected = general(told, duration_s, target, about, created_s)
    for _ in range(2):
        assert expected == lines.line(created_s, told, duration_s, target, about)
    assert expected.isascii()
    assert expected.isprintable()


def test_the_instant_of_a_line():
    """It goes on with the clock, to the millisecond, and back with it; like the general one, it is never ahead."""
    lines = ServedLines(JsonLines())
    for created_s in (1_700_000_000.9995, 1_700_000_001.0005, 1_700_000_001.9995, 1_700_000_000.9995, 7.0625):
        line = lines.line(created_s, Told(), 1.0, "/", ("all", "main"))
        assert general(Told(), 1.0, "/", ("all", "main"), created_s) == line


def test_a_time_in_milliseconds():
    """Tenths are rounded."""
    assert [0.0, 0.0, 0.1, 0.1, 12.3, 1000.0] == [milliseconds(s) for s in (0, 0.00004, 0.00006, 0.0001, 0.0123, 1.0)]


@pytest.mark.parametrize(
    ("told", "target"),
    [
        (Told(sent_s=None), "/"),
        (Told(upstream_s=None), "/"),
        (Told(first_byte_s=None), "/"),
        (Told(), "x" * (MAX_VALUE + 1)),
        (Told(request_id=b"x" * (MAX_VALUE + 1)), "/"),
        (Told(method=b"x" * (MAX_VALUE + 1)), "/"),
    ],
    ids=["never sent", "never answered", "nothing passed on", "long target", "long number", "long method"],
)
def test_what_needs_the_general_rules(told: Told, target: str):
    """It is left to them: a part is missing, or a value is to be cut."""
    assert ServedLines(JsonLines()).line(5.0, told, 1.0, target, ("all", "main")) is None


def test_what_is_remembered_is_bounded():
    """However many durations and routes there were; and it goes on being right."""
    lines = ServedLines(JsonLines())
    for number in range(5000):
        about = (f"route-{number}", "main")
        line = lines.line(5.0, Told(), number / 10_000, "/", about)
        assert line is not None
        assert (number / 10, f"route-{number}") == (json.loads(line)["duration_ms"], json.loads(line)["route"])
    assert len(lines._tenths) <= 1024
    assert len(lines._routes) <= 1024


ASKED = {
    "as usual": request(),
    "with values": request(b"GET", b"/a%20b?key=s3cret&s3cret", b"X-Request-Id: r-1"),
    "with a body": request(b"POST", b"/", body=b"four"),
    "an odd method": request(b"BREW", b"/"),
    "a long target": request(b"GET", b"/" + b"x" * 2000),
    "refused": request(b"GET", b"/", b"Host: twice"),
    "of another kind": request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"4\r\nfour\r\n0\r\n\r\n",
}


async def line_of(asked: bytes, folder: Path, stream: io.StringIO, *, direct: bool) -> dict[str, object]:
    """Returns the last access line."""
    before = len(stream.getvalue())
    Taken.direct = direct
    try:
        async with ScriptedUpstream(always(ok(b"fine"))) as upstream, in_front_of(upstream.port, folder) as gateway:
            await ask(gateway.port, asked)
            await until(lambda: '"proxy.access"' in stream.getvalue()[before:])
    finally:
        Taken.direct = True
    (line,) = [line for line in stream.getvalue()[before:].splitlines() if '"proxy.access"' in line]
    document: dict[str, object] = json.loads(line)
    return document


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "general"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_a_gateway_writes_either_line(
    asked: bytes, direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same fields in the same order and with the same values, whichever way the line was made."""
    stream = io.StringIO()
    handle = log.configure("json", "info", stream)
    try:
        in_one_pass = await line_of(asked, tmp_path, stream, direct=direct)
        monkeypatch.setattr(handle, "served", None)
        generally = await line_of(asked, tmp_path, stream, direct=direct)
    finally:
        handle.detach()
    assert list(in_one_pass) == list(generally)
    varying = {key for key in in_one_pass if key == "ts" or key.endswith("_ms")}
    if b"X-Request-Id" not in asked:
        varying.add("request_id")
    assert {key: value for key, value in in_one_pass.items() if key not in varying} == {
        key: value for key, value in generally.items() if key not in varying
    }


def test_a_line_that_cannot_be_made():
    """Nothing is raised into the request that it tells of; what is wrong is told as of every line, and the next one is made."""
    stream = io.StringIO()
    handle = log.configure("json", "info", stream)
    try:
        assert not log.served_line(Told(peer=None), 1.0, "/", ("all", "main"))  # type: ignore[arg-type]
        assert log.served_line(Told(), 1.0, "/", ("all", "main"))
    finally:
        handle.detach()
    assert json.loads(stream.getvalue())["client"] == "127.0.0.1"


def test_a_level_above_info():
    """No access line is written, however it would be made."""
    stream = io.StringIO()
    handle = log.configure("json", "warning", stream)
    try:
        assert not log.served_line(Told(), 1.0, "/", ("all", "main"))
        log.access_line({"status": 200})
    finally:
        handle.detach()
    assert stream.getvalue() == ""


def test_a_handler_of_somebody_elses():
    """It gets the records, as of every logger."""
    handle = log.configure("json", "info", io.StringIO())
    somebodys = logging.NullHandler()
    logging.getLogger("proxy.access").addHandler(somebodys)
    try:
        assert not log.served_line(Told(), 1.0, "/", ("all", "main"))
    finally:
        logging.getLogger("proxy.access").removeHandler(somebodys)
        handle.detach()
