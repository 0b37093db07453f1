"""An upstream's origin: scheme, host and port, and nothing of a path.

A value that is compared by equality and written where an authority is due (Host, connecting, pool keys). It parses no
URL: configured URLs are parsed where the configuration is.

Source: RFC 9110 §4.3.1 (origin), §4.2 (default ports); RFC 3986 §3.2.2 (IPv6 in brackets).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from proxy.loopback import is_loopback

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go. `host` is a lower-case ASCII name or an address without brackets; `port` is 1 to 65535."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def authority(self) -> bytes:
        """The authority as a Host field says it: IPv6 in brackets, the scheme's default port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        text = host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
        return text.encode("ascii")

    @property
    def secure(self) -> bool:
        """Tells whether the upstream is spoken to over TLS."""
        return self.scheme == "https"

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as an address; None if it is a name. IPv6 may carry a zone (`fe80::1%eth0`)."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """Tells whether the upstream is surely this machine: a loopback address, or `localhost` (RFC 6761 §6.3)."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode('ascii')}"
