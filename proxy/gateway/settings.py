"""The gateway's settings as values: what the configuration builds and the request path reads.

Frozen: a change of configuration makes a new ``Settings``. No YAML and no defaults of the file format here beyond those
that tests need. Durations are seconds, sizes octets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from proxy.routing import Route, RouteName
from proxy.secret import SecretSource
from proxy.tls import ServerTlsSettings
from proxy.tokens.source import CredentialSettings
from proxy.tokens.static_source import StaticCredential
from proxy.units import KIB, SECONDS

Network = IPv4Network | IPv6Network
LOOPBACK_NETWORKS: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
LOOPBACK_HOSTS: tuple[bytes, ...] = (b"localhost", b"127.0.0.1", b"[::1]")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A listening address; host is an IP address or a name, IPv6 without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A listening unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class BrowserRequests(StrEnum):
    """What becomes of requests that a web page of another origin makes a browser send."""

    REFUSE = "refuse"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredHeader:
    """A shared key that each client shows in a field; removed before forwarding."""

    name: bytes
    value: SecretSource = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who may use the gateway. Host names are lower-case without port; `*` alone admits any."""

    allowed_hosts: tuple[bytes, ...] = LOOPBACK_HOSTS
    allowed_clients: tuple[Network, ...] = LOOPBACK_NETWORKS
    browser_requests: BrowserRequests = BrowserRequests.REFUSE
    allowed_origins: tuple[bytes, ...] = ()
    required_header: RequiredHeader | None = None
    trusted_proxies: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds for the whole gateway; zero means no bound where noted."""

    head_bytes: int = 32 * KIB  # request line and fields, both directions
    field_count: int = 100
    body_bytes: int = 0  # 0 = unlimited
    connections: int = 10_000
    connections_per_client: int = 0  # 0 = unlimited
    head_timeout_s: float = 10 * SECONDS
    body_idle_timeout_s: float = 30 * SECONDS
    write_idle_timeout_s: float = 30 * SECONDS
    keepalive_timeout_s: float = 75 * SECONDS


class LogFormat(StrEnum):
    """How a log line looks; `auto` is text on a terminal and JSON otherwise."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, and how."""

    format: LogFormat = LogFormat.AUTO
    level: LogLevel = LogLevel.INFO
    access: bool = True
    redact_query: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One whole configuration."""

    listen: tuple[Address, ...]
    admin: Address | None
    access: AccessRules
    limits: Limits
    log: LogSettings
    credentials: tuple[CredentialSettings | StaticCredential, ...]
    routes: tuple[Route, ...]
    route_access: dict[RouteName, AccessRules] = field(default_factory=dict)  # a route's own, narrower rules
    route_body_bytes: dict[RouteName, int] = field(default_factory=dict)  # a route's own body limit, octets
    tls: ServerTlsSettings | None = None  # towards clients, on every listening address; None = plain http
    shutdown_delay_s: float = 0.0
    drain_timeout_s: float = 20 * SECONDS
