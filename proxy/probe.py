"""A health probe for container engines: asks the admin listener and tells whether it answered 200.

Imports the standard library only, and little of it: it is started every few seconds, beside a gateway that may be short
of memory. What it says is cleaned and cut, since anything could be listening at the address.

Source: RFC 9112 (one request, one response, closed by the server).
"""

from __future__ import annotations

import re
import socket
import time

from proxy.errors import ConfigurationError

TIMEOUT_S = 3.0  # below what container engines wait for a probe
_MAX_ANSWER = 16 * 1024  # octets
_MAX_MESSAGE = 400  # characters
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._*-]{0,253})):(\d{1,5})")
_ANY_ADDRESSES = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # asked, not bound


def probe(address: str, *, ready: bool = False, timeout_s: float = TIMEOUT_S) -> tuple[bool, str]:
    """Returns whether the gateway is live (or ready), and a line for people.

    Args:
        address: `host:port` or `unix:/path`, as configured; an any-address is asked on loopback.
        ready: asks whether it serves, and not only whether it lives.
        timeout_s: for the whole exchange, seconds.

    Raises:
        ConfigurationError: the address has neither form.
    """
    where = parse_address(address)
    deadline_s = time.monotonic() + timeout_s  # noqa: TID251  # proxy.clock imports asyncio
    try:
        answer = _exchange(where, "/readyz?verbose" if ready else "/livez", deadline_s)
    except TimeoutError:
        return False, f"no answer from {address} within {timeout_s:g} s"
    except OSError as error:
        return False, f"cannot reach {address}: {error.strerror or type(error).__name__}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = _STATUS_LINE.match(head)
    if status is None:
        return False, f"what answers at {address} does not speak HTTP"
    if status[1] == b"200":
        return True, "ready" if ready else "live"
    reason = "; ".join(filter(None, map(_printable, body.decode("latin-1").splitlines())))
    text = f"{'not ready' if ready else 'not live'}: {status[1].decode()} {reason}".rstrip()
    return False, text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"


def parse_address(text: str) -> str | tuple[str, int]:
    """Returns a socket's path, or the host and port to ask. Raises ConfigurationError if the text is neither."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path and "\0" not in path:
            return path
    elif match := _HOST_PORT.fullmatch(text):
        host = match[1] or match[2]
        port = int(match[3])
        if 0 < port < 65536:
            return _ANY_ADDRESSES.get(host, host), port
    raise ConfigurationError("the admin address is host:port or unix:/path")


def _exchange(where: str | tuple[str, int], path: str, deadline_s: float) -> bytes:
    """Returns the whole answer, or its first octets. Raises OSError, TimeoutError included."""
    if isinstance(where, str):
        host = "localhost"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        host = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
        connection = socket.create_connection(where, timeout=_left(deadline_s))
    with connection:
        connection.settimeout(_left(deadline_s))
        if isinstance(where, str):
            connection.connect(where)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        answer = bytearray()
        while len(answer) < _MAX_ANSWER:
            connection.settimeout(_left(deadline_s))
            data = connection.recv(_MAX_ANSWER)
            if not data:
                break
            answer += data
    return bytes(answer)


def _left(deadline_s: float) -> float:
    """Returns the seconds until the deadline. Raises TimeoutError past it."""
    left_s = deadline_s - time.monotonic()  # noqa: TID251
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _printable(line: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in line).strip()
