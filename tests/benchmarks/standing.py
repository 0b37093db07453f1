"""What a contender does beside its speed: its answers, its start, its memory when nothing happens and with large bodies."""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass

from proxy.units import KIB
from tests.benchmarks.contenders import Running
from tests.benchmarks.load import LoadError
from tests.benchmarks.workloads import LARGE_BODY, SIZES

IDLE_CONNECTIONS = 1000
_PIECE = 256 * KIB
_SETTLE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one contender needs to stand there; memory in MiB."""

    start_s: float  # median, from process start to the first good answer
    idle_mib: float
    connections_mib: float  # more, with 1000 idle connections that were used once
    download_mib: float | None = None  # more, at most, while a large response passed
    upload_mib: float | None = None  # more, at most, while a large request passed


def wrong_answers(port: int) -> list[str]:
    """Asks for one of each and returns what came back other than it should."""
    faults = []
    for path, octets in {**SIZES, "/api/post": 1 * KIB}.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            if path == "/api/post":
                connection.request("POST", path, b"x" * 10 * KIB)
            else:
                connection.request("GET", path, headers={"Authorization": "Basic client"})
            response = connection.getresponse()
            received = len(response.read())
            if (response.status, received) != (200, octets):
                faults.append(f"{path}: status {response.status}, {received} octets")
        except (OSError, http.client.HTTPException) as error:
            faults.append(f"{path}: {error!r}")
        finally:
            connection.close()
    return faults


def idle_connections_mib(running: Running) -> float:
    """Returns how much memory 1000 connections add that each had one request and then wait."""
    before = running.process.memory_mib()
    connections = []
    try:
        for _ in range(IDLE_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", running.port), timeout=10)
            connections.append(connection)
            connection.sendall(b"GET /api/1k HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = 0
            while received < 1 * KIB:
                received += len(connection.recv(64 * KIB))
        time.sleep(_SETTLE_S)
        return running.process.memory_mib() - before
    finally:
        for connection in connections:
            connection.close()


def download_mib(running: Running) -> float:
    """Returns how far the memory rose at most while a response of 10 GiB passed. Raises LoadError."""
    before = _settled(running)
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(b"GET /api/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        piece = memoryview(bytearray(_PIECE))
        received = 0
        while octets := connection.recv_into(piece):
            received += octets
    if received < LARGE_BODY:
        raise LoadError(f"{running.name}: {received} octets of a large response")
    return running.process.peak_memory_mib() - before


def upload_mib(running: Running) -> float:
    """Returns how far the memory rose at most while a request of 10 GiB passed. Raises LoadError."""
    before = _settled(running)
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        head = (
            f"POST /api/count HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {LARGE_BODY}\r\n\r\n"
        )
        connection.sendall(head.encode())
        piece = bytes(_PIECE)
        for _ in range(LARGE_BODY // _PIECE):
            connection.sendall(piece)
        answer = b""
        while data := connection.recv(64 * KIB):
            answer += data
    if str(LARGE_BODY).encode() not in answer:
        raise LoadError(f"{running.name}: a large request was not counted whole: {answer[:200]!r}")
    return running.process.peak_memory_mib() - before


def _settled(running: Running) -> float:
    time.sleep(_SETTLE_S)
    running.process.forget_peak()
    return running.process.memory_mib()
