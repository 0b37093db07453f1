"""Who may use the gateway: anyone who can open the port acts as the service account, so these rules come first.

Pure checks over the peer's address and the request's fields. The answer is a ``Problem`` or nothing. The client's own
claims (``X-Forwarded-*``) never count: only the socket's peer does.

Source: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxy.errors import Problem
from proxy.gateway.settings import AccessRules, BrowserRequests, Network
from proxy.http1.fields import Known, list_members, values
from proxy.http1.wire import RequestHead

_FOREIGN_SITES = frozenset({b"cross-site", b"same-site"})


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a client's connection: an IP address, or None for a unix socket."""

    address: IPv4Address | IPv6Address | None
    key: bytes = field(
        init=False, repr=False, compare=False
    )  # the address as octets, b"" for none: cheaper to look up by

    def __post_init__(self) -> None:
        """Derives the key."""
        object.__setattr__(self, "key", b"" if self.address is None else self.address.packed)

    @classmethod
    def from_peername(cls, peername: object) -> Peer:
        """Returns the peer for what a transport of an IP socket tells as `peername`; IPv4-mapped counts as IPv4.

        Raises ValueError for anything else: who has no address must not pass for somebody on a unix socket.
        """
        if not isinstance(peername, tuple) or not peername:
            raise ValueError("not the name of an IP peer")
        return _peer(str(peername[0]))

    def __str__(self) -> str:
        return "unix" if self.address is None else str(self.address)

    def inside(self, networks: tuple[Network, ...]) -> bool:
        """Tells whether the peer's address lies in one of the networks; a unix-socket peer lies in none."""
        return self.address is not None and any(self.address in network for network in networks)


@lru_cache(maxsize=4096)
def _peer(text: str) -> Peer:
    address = ip_address(text.partition("%")[0])  # without the zone of a link-local address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Peer(address)


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """Access rules made ready for requests."""

    rules: AccessRules
    route_hosts: tuple[bytes, ...] = ()  # hosts of routes count as listed; "*.example" takes any label in front
    _hosts: frozenset[bytes] = field(init=False)
    _suffixes: tuple[bytes, ...] = field(init=False)
    _any_host: bool = field(init=False)
    _origins: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        hosts = (*self.rules.allowed_hosts, *self.route_hosts)
        object.__setattr__(self, "_hosts", frozenset(host for host in hosts if not host.startswith(b"*")))
        object.__setattr__(self, "_suffixes", tuple(host[1:] for host in hosts if host.startswith(b"*.")))
        object.__setattr__(self, "_any_host", b"*" in hosts)
        object.__setattr__(self, "_origins", frozenset(origin.lower() for origin in self.rules.allowed_origins))

    def client_refused(self, peer: Peer) -> Problem | None:
        """Refuses a peer outside the allowed networks; unix-socket peers pass (the file's mode guards those)."""
        if peer.address is None or peer.inside(self.rules.allowed_clients):
            return None
        return Problem.CLIENT_NOT_ALLOWED

    def host_refused(self, host: bytes | None) -> Problem | None:
        """Refuses a Host that is not listed (DNS rebinding); None is an HTTP/1.0 request without one, which passes."""
        if host is None or self._any_host or host in self._hosts or (self._suffixes and host.endswith(self._suffixes)):
            return None
        return Problem.HOST_NOT_ALLOWED

    def request_refused(self, head: RequestHead, authority: bytes | None) -> Problem | None:
        """Refuses what a foreign web page made a browser send, and a request without the shared key.

        `authority` is the request's own host and port, lower-case: an Origin equal to it is not foreign.
        """
        if self.rules.browser_requests is BrowserRequests.REFUSE and self._from_foreign_page(head.known, authority):
            return Problem.BROWSER_REFUSED
        key = self.rules.required_header
        if key is not None:
            shown = values(head.fields, key.name.lower())
            expected = key.value.read().reveal().encode()
            if len(shown) != 1 or not hmac.compare_digest(shown[0], expected):
                return Problem.KEY_REQUIRED
        return None

    def _from_foreign_page(self, found: Known, authority: bytes | None) -> bool:
        if b"origin" not in found and b"sec-fetch-site" not in found:
            return False
        origins = [origin.lower() for origin in found.get(b"origin", ())]
        if origins and all(origin in self._origins for origin in origins):
            return False
        if any(site in _FOREIGN_SITES for site in list_members(found.get(b"sec-fetch-site", ()))):
            return True
        return any(origin.partition(b"://")[2] != authority or authority is None for origin in origins)


@dataclass(frozen=True, slots=True, eq=False)
class Visitor:
    """The other end of one connection as the rules of one configuration see it. Made once for a connection."""

    peer: Peer
    secure: bool  # it spoke TLS
    refused: Problem | None  # it may not use the gateway at all
    trusted: bool  # it is a trusted proxy
    address: bytes | None  # IP address text, None for a unix socket
    name: str  # for the log
    derived: dict[object, list[bytes]] = field(default_factory=dict, repr=False)  # what is told of it, by whom

    @classmethod
    def of(cls, peer: Peer, access: Access, *, secure: bool) -> Visitor:
        """Returns what the rules say of a peer."""
        return cls(
            peer=peer,
            secure=secure,
            refused=access.client_refused(peer),
            trusted=peer.inside(access.rules.trusted_proxies),
            address=None if peer.address is None else str(peer.address).encode("ascii"),
            name=str(peer),
        )
