"""The admin listener: metrics, health and status, apart from the listeners that clients use.

GET and HEAD only, and only under a Host that is this listener's own or allowed. It shows states, counts and names of the
configuration; it changes nothing, and repeats nothing that it was sent.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from aiohttp import web

from proxy import __version__
from proxy.admin.connection import AdminHttp, Answer
from proxy.admin.exposition import Exposition
from proxy.admin.facts import AdminFacts
from proxy.admin.health import readiness
from proxy.admin.host import host_is_ours
from proxy.admin.status import status_document
from proxy.clock import Clock, SystemClock
from proxy.errors import ConfigurationError, Refusal
from proxy.http1.target import parse_host
from proxy.unix_socket import private_unix_socket

_METHODS = ("GET", "HEAD")


@runtime_checkable
class TcpListen(Protocol):
    """A host and port to listen on; port 0 lets the system choose."""

    @property
    def host(self) -> str:
        """An IP address, IPv6 without brackets, or a name."""

    @property
    def port(self) -> int:
        """0-65535."""


@runtime_checkable
class UnixListen(Protocol):
    """A unix socket to listen on."""

    @property
    def path(self) -> Path:
        """Its file; made with mode 0600."""


class AdminServer:
    """Serves the admin listener from `start` to `stop`. Made inside the event loop."""

    def __init__(self, address: TcpListen | UnixListen, facts: AdminFacts, clock: Clock | None = None) -> None:
        """`facts` are asked at each request; the uptime counts from here."""
        self._address = address
        self._facts = facts
        self._clock = clock or SystemClock()
        self._started_s = self._clock.now()
        self._exposition = Exposition(facts, self._clock, version=__version__)
        self._http = AdminHttp(self._answer, self._clock)
        self._listener: asyncio.Server | None = None
        self.port: int | None = None  # as bound; None before `start` and for a unix socket

    @property
    def address(self) -> str:
        """Where it listens, as `host:port` (with the port bound) or `unix:/path`."""
        if isinstance(self._address, UnixListen):
            return f"unix:{self._address.path}"
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        return f"{host}:{self._address.port if self.port is None else self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._http.open)

    async def start(self) -> None:
        """Listens. Raises ConfigurationError, naming the address, if that cannot be."""
        loop = asyncio.get_running_loop()
        try:
            if isinstance(self._address, UnixListen):
                socket = private_unix_socket(self._address.path)
                self._listener = await loop.create_unix_server(self._http, sock=socket)
            else:
                self._listener = await loop.create_server(
                    self._http, self._address.host, self._address.port, reuse_address=True
                )
                self.port = self._listener.sockets[0].getsockname()[1]
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            if error.errno == errno.EADDRINUSE:
                reason = "the address is already in use (--admin names another)"
            raise ConfigurationError(f"admin {self.address}: {reason}") from None

    async def stop(self) -> None:
        """Stops listening and closes what is open. Idempotent."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        if isinstance(self._address, UnixListen):
            self._address.path.unlink(missing_ok=True)
        await self._http.end()

    async def _answer(self, request: web.BaseRequest) -> Answer:
        """Decides one request: method, Host, path."""
        if request.method not in _METHODS:
            return Answer.of_status(405, ("Allow", ", ".join(_METHODS)))
        target = request.raw_path
        if not target.startswith("/"):
            return Answer.of_status(400)  # absolute-form names a host of its own; only proxies are sent that
        refused = self._host_refused(request)
        if refused is not None:
            return refused
        path, _, query = target.partition("?")
        match path:
            case "/livez":
                return Answer(status=200, body=b"live\n")
            case "/readyz":
                state = readiness(self._facts.tokens(), draining=self._facts.draining())
                verbose = any(parameter.partition("=")[0] == "verbose" for parameter in query.split("&"))
                return Answer(status=200 if state.ready else 503, body=state.text(verbose=verbose).encode())
            case "/metrics":
                accept = ",".join(request.headers.getall("Accept", ()))
                body, content_type = await self._exposition.render(accept)
                return Answer(status=200, body=body, content_type=content_type)
            case "/status.json":
                document = status_document(
                    self._facts, version=__version__, uptime_s=self._clock.now() - self._started_s
                )
                body = json.dumps(document, indent=2).encode("ascii") + b"\n"
                return Answer(status=200, body=body, content_type="application/json")
            case _:
                return Answer.of_status(404)

    def _host_refused(self, request: web.BaseRequest) -> Answer | None:
        named = list(request.headers.getall("Host", ()))
        if not named and request.version < (1, 1):
            return None  # HTTP/1.0 needs none, and no browser speaks it
        if len(named) != 1:
            return Answer.of_status(400)
        try:
            host = parse_host(named[0].encode("latin-1"))
        except (UnicodeEncodeError, Refusal):
            return Answer.of_status(400)
        if isinstance(self._address, UnixListen):
            return None  # a web page cannot reach a unix socket, whose mode guards it
        transport = request.transport
        local = None if transport is None else transport.get_extra_info("sockname")
        allowed = self._facts.allowed_hosts()
        if local and host_is_ours(host, local[:2], bound_host=self._address.host, allowed=allowed):
            return None
        return Answer.of_status(421)
