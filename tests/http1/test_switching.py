"""Who asks for another protocol, for which, and what grants it."""

from __future__ import annotations

import pytest

from proxy.errors import Problem, Refusal
from proxy.http1.fields import Field
from proxy.http1.framing import request_framing
from proxy.http1.switching import asked, granted
from proxy.http1.wire import RequestHead, ResponseHead

CONNECTION = (b"Connection", b"Upgrade")
WEBSOCKET = (b"Upgrade", b"websocket")


def asking(*fields: Field, method: bytes = b"GET", version: tuple[int, int] = (1, 1)) -> bytes:
    head = RequestHead(method, b"/", version, ((b"Host", b"h"), *fields))
    return asked(head, request_framing(version, head.known))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([CONNECTION, WEBSOCKET], b"websocket", id="as browsers do"),
        pytest.param([(b"connection", b"keep-alive, UPGRADE"), (b"upgrade", b"WebSocket")], b"WebSocket", id="case"),
        pytest.param([CONNECTION, (b"Upgrade", b"chess/1 ,  go")], b"chess/1 ,  go", id="as it was sent"),
        pytest.param([CONNECTION, (b"Upgrade", b"chess/1"), (b"Upgrade", b"go")], b"chess/1, go", id="two lines"),
        pytest.param([CONNECTION, WEBSOCKET, (b"Content-Length", b"0")], b"websocket", id="a body of no octets"),
        pytest.param([CONNECTION, (b"Upgrade", b"h2c, websocket, TLS/1.0")], b"websocket", id="the rest is left out"),
        pytest.param([CONNECTION, (b"Upgrade", b"h2c")], b"", id="h2c"),
        pytest.param([CONNECTION, (b"Upgrade", b"H2C")], b"", id="H2C"),
        pytest.param([CONNECTION, (b"Upgrade", b"HTTP/2.0")], b"", id="HTTP/2.0"),
        pytest.param([CONNECTION, (b"Upgrade", b"TLS/1.0, HTTP/1.1")], b"", id="TLS (RFC 2817)"),
        pytest.param([WEBSOCKET], b"", id="no option"),
        pytest.param([(b"Connection", b"close, upgrade"), WEBSOCKET], b"", id="close"),
        pytest.param([CONNECTION], b"", id="no protocol"),
        pytest.param([CONNECTION, (b"Upgrade", b" , ")], b"", id="an empty list"),
        pytest.param([CONNECTION, (b"Upgrade", b"web socket")], b"", id="no protocol by its grammar"),
        pytest.param([CONNECTION, (b"Upgrade", b"websocket/13/x")], b"", id="two versions"),
        pytest.param([CONNECTION, (b"Upgrade", b'"h2c", websocket')], b"", id="quoted"),
    ],
)
def test_what_is_asked_for(fields: list[Field], expected: bytes):
    """The value of Upgrade that goes on: the client's own, without what would let unseen requests through."""
    assert expected == asking(*fields)


def test_http_1_0_asks_for_nothing():
    """RFC 9110 §7.8: Upgrade in HTTP/1.0 is ignored."""
    assert b"" == asking(CONNECTION, WEBSOCKET, version=(1, 0))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (b"GET", [CONNECTION, WEBSOCKET, (b"Content-Length", b"1")]),
        (b"POST", [CONNECTION, (b"Upgrade", b"chess"), (b"Transfer-Encoding", b"chunked")]),
        (b"POST", [CONNECTION, WEBSOCKET]),
        (b"HEAD", [CONNECTION, (b"Upgrade", b"chess, WebSocket/13")]),
    ],
)
def test_what_is_refused(method: bytes, fields: list[Field]):
    """A body in front of another protocol, and websocket but by GET (RFC 6455 §4.1)."""
    with pytest.raises(Refusal) as refused:
        asking(*fields, method=method)
    assert Problem.BAD_REQUEST is refused.value.problem


@pytest.mark.parametrize(
    ("upgrade", "fields", "expected"),
    [
        pytest.param(b"websocket", [(b"Upgrade", b"WebSocket")], True, id="in any case"),
        pytest.param(b"chess/1 , go", [(b"upgrade", b"go")], True, id="one of two"),
        pytest.param(b"chess/1", [(b"Upgrade", b"chess/2")], False, id="another version"),
        pytest.param(b"chess/1", [(b"Upgrade", b"chess/1, h2c")], False, id="more than was asked"),
        pytest.param(b"websocket", [], False, id="none named"),
        pytest.param(b"", [(b"Upgrade", b"websocket")], False, id="unasked"),
        pytest.param(b"", [], False, id="unasked, none named"),
    ],
)
def test_what_grants_it(upgrade: bytes, fields: list[Field], expected: bool):
    """A 101 names what was asked for, and nothing else."""
    assert expected is granted(ResponseHead((1, 1), 101, b"", tuple(fields)), upgrade)
