"""Real authorization servers as processes: npm's oidc-provider, and Authlib's for those who have no Node.

Each is told its clients, listens on a free loopback port, and is ended by its process id. Both speak to the program
through the same two lines of JSON, so that a test takes either. A server that this machine lacks ends the test with the
reason: skipped, or failed with CI=true.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.real.needs import missing
from tests.support.program import PROJECT, environment

API_CLIENT_ID = "protected-api"
API_CLIENT_SECRET = "for-introspection"

_NODE_FOLDER = Path(__file__).with_name("oidc_provider")
_OLDEST_NODE = 20
_STOPPED_WITHIN_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client to register. Its tokens live `lifetime_s` whole seconds."""

    client_id: str
    client_secret: str
    method: str = "client_secret_basic"
    scope: str = "orders.read orders.write"
    lifetime_s: int = 300
    metadata: dict[str, Any] = field(default_factory=dict)  # further members of the registration (RFC 7591 §2)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationServer:
    """A server that listens."""

    name: str
    issuer: str
    token_endpoint: str
    introspection_endpoint: str
    revocation_endpoint: str
    jwks_uri: str | None = None  # None where tokens are never JWTs
    mtls_token_endpoint: str | None = None  # for clients that show a certificate
    ca_file: Path | None = None  # of its certificate, where it speaks TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """What a server that speaks TLS shows, and whose client certificates it trusts; PEM files."""

    cert_file: Path
    key_file: Path
    ca_file: Path  # of its own certificate
    client_ca_file: Path


RealServer = Callable[[Sequence[Client], Path], AbstractContextManager[AuthorizationServer]]


@contextmanager
def oidc_provider(
    clients: Sequence[Client], folder: Path, *, tls: ServerTls | None = None
) -> Iterator[AuthorizationServer]:
    """Runs oidc-provider; its standard error goes into a file in the folder."""
    node = shutil.which("node")
    if node is None:
        missing("node is not installed: apt-get install -y nodejs npm, or see https://nodejs.org")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < _OLDEST_NODE:
        missing(f"oidc-provider needs node {_OLDEST_NODE} or newer, and this is {version}")
    if not (_NODE_FOLDER / "node_modules/oidc-provider").is_dir():
        missing("oidc-provider is not installed: make test does it, where npm is")
    with _served("oidc-provider", [node, str(_NODE_FOLDER / "server.mjs")], clients, folder, tls) as server:
        yield server


@contextmanager
def authlib_server(clients: Sequence[Client], folder: Path) -> Iterator[AuthorizationServer]:
    """Runs Authlib's server; its standard error goes into a file in the folder."""
    with _served("authlib", [sys.executable, "-m", "tests.real.authlib_server"], clients, folder) as server:
        yield server


@contextmanager
def _served(
    name: str, command: Sequence[str], clients: Sequence[Client], folder: Path, tls: ServerTls | None = None
) -> Iterator[AuthorizationServer]:
    api = {"client_id": API_CLIENT_ID, "client_secret": API_CLIENT_SECRET}
    settings: dict[str, Any] = {"clients": [asdict(client) for client in clients], "api": api}
    if tls is not None:
        files = {"cert": tls.cert_file, "key": tls.key_file, "client_ca": tls.client_ca_file}
        settings["tls"] = {name: file.read_text(encoding="ascii") for name, file in files.items()}
    log = folder / f"{name}.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()  # printed once it listens
            assert line, f"{name} ended:\n" + log.read_text(encoding="utf-8")
            yield AuthorizationServer(name=name, ca_file=None if tls is None else tls.ca_file, **json.loads(line))
        finally:
            process.terminate()
            try:
                process.wait(_STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
