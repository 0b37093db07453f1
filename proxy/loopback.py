"""Whether a host is surely this machine, so that nobody else reads what is sent to it in the clear."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Tells whether a lower-case name, or an address without brackets, is loopback: `localhost` too (RFC 6761 §6.3)."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
