"""The health probe: standard library only, one answer within its time, whatever listens at the address."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading

import pytest

from proxy.errors import ConfigurationError
from proxy.probe import parse_address, probe


@contextlib.contextmanager
def listener(answer=b"", *, family=socket.AF_INET, address=("127.0.0.1", 0), keep_open=False):
    """Answers one connection with these octets and closes; yields its address and the request it saw."""
    seen: list[bytes] = []
    over = threading.Event()

    def serve():
        connection, _ = server.accept()
        with connection:
            seen.append(connection.recv(65536))
            connection.sendall(answer)
            if keep_open:
                over.wait(30)

    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname(), seen
        finally:
            over.set()
            thread.join(30)


def response(status, body=b""):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


def test_importing_the_probe():
    """It brings in nothing from outside the standard library."""
    script = (
        "import sys, proxy.probe; print([m for m in sys.modules if m.split('.')[0] not in sys.stdlib_module_names])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert sorted(name for name in eval(done.stdout) if name != "__main__") == ["proxy", "proxy.errors", "proxy.probe"]


def test_importing_the_probe_is_quick():
    """It does not bring in asyncio either."""
    script = "import sys, proxy.probe; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("ready", "expected", "path"), [(False, "live", b"/livez"), (True, "ready", b"/readyz?verbose")]
)
def test_a_gateway_that_is_well(ready, expected, path):
    """One request to the listener under its own name."""
    with listener(response(200)) as (address, seen):
        assert probe(f"127.0.0.1:{address[1]}", ready=ready) == (True, expected)
    assert seen[0].startswith(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (path, address[1]))


def test_a_gateway_that_is_not_ready():
    """The message tells why."""
    with listener(response(503, b"[-] credential orders: waits for its first token\nnot ready\n")) as (address, _):
        assert probe(f"127.0.0.1:{address[1]}", ready=True) == (
            False,
            "not ready: 503 [-] credential orders: waits for its first token; not ready",
        )


def test_something_else_listens():
    """What it says is cleaned and cut."""
    with listener(response(500, b"\x1b[31m\xff\r\n" * 2000)) as (address, _):
        ok, message = probe(f"127.0.0.1:{address[1]}")
    assert not ok
    assert message.startswith("not live: 500 ?[31m?; ?[31m?;")
    assert message.isprintable()
    assert len(message) <= 400


@pytest.mark.parametrize(
    "answer", [b"", b"220 mail.example ESMTP\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n"]
)
def test_what_listens_is_no_http_server(answer):
    """It is not live."""
    with listener(answer) as (address, _):
        ok, message = probe(f"127.0.0.1:{address[1]}")
    assert (ok, message) == (False, f"what answers at 127.0.0.1:{address[1]} does not speak HTTP")


def test_nothing_listens():
    """The message names address and reason."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert probe(f"127.0.0.1:{port}") == (False, f"cannot reach 127.0.0.1:{port}: Connection refused")


def test_no_answer_in_time():
    """The whole exchange has one deadline, however slowly octets come."""
    with listener(b"HTTP/1.1 ", keep_open=True) as (address, _):
        ok, message = probe(f"127.0.0.1:{address[1]}", timeout_s=0.2)
    assert (ok, message) == (False, f"no answer from 127.0.0.1:{address[1]} within 0.2 s")


def test_an_endless_answer():
    """What is read is bounded."""
    with listener(response(503, b"x" * 200_000)) as (address, _):
        ok, message = probe(f"127.0.0.1:{address[1]}")
    assert not ok
    assert len(message) <= 400


def test_a_unix_socket(tmp_path):
    """It is asked by its path."""
    path = str(tmp_path / "admin.sock")
    with listener(response(200), family=socket.AF_UNIX, address=path) as (_, seen):
        assert probe(f"unix:{path}") == (True, "live")
    assert b"\r\nHost: localhost\r\n" in seen[0]


def test_a_unix_socket_that_is_not_there(tmp_path):
    """The message names it."""
    address = f"unix:{tmp_path}/admin.sock"
    assert probe(address) == (False, f"cannot reach {address}: No such file or directory")


def test_a_unix_socket_whose_path_is_too_long():
    """It is unreachable, not a crash."""
    ok, message = probe("unix:/" + "x" * 200)
    assert not ok
    assert message.startswith("cannot reach unix:/")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("127.0.0.1", 9464)),
        ("*:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("[::]:9464", ("::1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("pod-1.example:65535", ("pod-1.example", 65535)),
        ("unix:/run/admin.sock", "/run/admin.sock"),
    ],
)
def test_an_address(text, where):
    """An any-address is asked on loopback."""
    assert parse_address(text) == where


@pytest.mark.parametrize(
    "text", ["", "9464", "localhost", "localhost:", "localhost:0", "localhost:65536", "::1:9464", "unix:", "unix:/a\0b",
             "http://localhost:9464", "a b:1", "off", "host\r\nX: y:1", "u@h:1"],
)  # fmt: skip
def test_an_address_that_is_none(text):
    """It is a configuration error."""
    with pytest.raises(ConfigurationError, match="host:port"):
        probe(text)
