"""Whether a Host names this listener: the defence against DNS rebinding, by which a web page could read it. Pure.

A page can give its own name any address, but it cannot make a browser send another name or an address: so the address
that the connection came in on, ``localhost`` on loopback, the configured name, and what the configuration lists pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxy.http1.target import Host

_HTTP_PORT = 80


def host_is_ours(host: Host, local: tuple[str, int], *, bound_host: str, allowed: Iterable[bytes]) -> bool:
    """Tells whether a request with this Host may be answered.

    Args:
        host: as parsed, its name in lower case.
        local: address and port at which the connection arrived.
        bound_host: the listener's host as configured.
        allowed: further names, lower-case, for any port; `*` allows all, `*.example` every name below.
    """
    for name in allowed:
        if name in {b"*", host.name} or (name.startswith(b"*.") and host.name.endswith(name[1:])):
            return True
    if (host.port or _HTTP_PORT) != local[1]:
        return False
    text = host.name.decode("latin-1").removeprefix("[").removesuffix("]")
    if text == bound_host.lower():
        return True
    address = _address(local[0])
    if address is not None and address.is_loopback:
        return text in {"localhost", "127.0.0.1", "::1"} or _address(text) == address
    return address is not None and _address(text) == address


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the address, an IPv4-mapped one as IPv4, without the zone of a link-local one; None for a name."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
