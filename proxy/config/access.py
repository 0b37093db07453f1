"""The sections `access` of the gateway and of a route: who may come in.

A route's rules come on top of the gateway's and can only be narrower, so that no route opens what the gateway closes:
its networks lie inside the gateway's, its hosts are among the gateway's or its own `match.host`, browsers are refused
where the gateway lets them in but not the other way round, a key is asked for where the gateway asks for none.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any

from pydantic import ValidationInfo, field_validator

from proxy.config.headers import HeaderName, untouchable
from proxy.config.network import AllowedHost, HostList, NetworkList, NetworkText, OriginList, OriginText
from proxy.config.scalars import CommaList, words
from proxy.config.section import SecretValue, Section, faults_at, key, known
from proxy.gateway.settings import AccessRules, BrowserRequests, Network, RequiredHeader

_BROWSERS = words(*(word.value for word in BrowserRequests))
_HOSTS = (
    "Names that Host may have, without port; a route's match.host counts as listed. "
    '["*"] is any. Needed for a listener beyond loopback.'
)
_CLIENTS = "Networks that clients may connect from; unix-socket peers pass. Needed for a listener beyond loopback."


class RequireHeaderSection(SecretValue):
    """A shared key that each client shows in a header; it is removed before forwarding."""

    name: HeaderName = key(description="The header's name.", examples=["X-Gateway-Key"])

    @field_validator("name")
    @classmethod
    def _usable(cls, value: str) -> str:
        if (reason := untouchable(value)) is not None:
            raise ValueError(reason)
        return value


class AccessSection(Section):
    """Who may use the gateway: whoever reaches it acts with its tokens."""

    allowed_hosts: Annotated[tuple[AllowedHost, ...], CommaList, HostList] = key(
        ["localhost", "127.0.0.1", "[::1]"], description=_HOSTS, examples=[["gateway.internal"]]
    )
    allowed_clients: Annotated[tuple[NetworkText, ...], CommaList, NetworkList] = key(
        ["127.0.0.0/8", "::1/128"], description=_CLIENTS, examples=[["10.0.0.0/8"]]
    )
    browser_requests: Annotated[str, _BROWSERS] = key(
        "refuse", description="Requests that a web page of another origin makes a browser send."
    )
    allowed_origins: Annotated[tuple[OriginText, ...], CommaList, OriginList] = key(
        [], description="Origins whose pages may send requests all the same.", examples=[["https://app.example"]]
    )
    require_header: RequireHeaderSection | None = key(None, description="A shared key that each client must show.")
    trusted_proxies: Annotated[tuple[NetworkText, ...], CommaList, NetworkList] = key(
        [], description="Networks whose X-Forwarded-* headers are kept and appended to.", examples=[["10.0.0.5"]]
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _any_stands_alone(cls, value: tuple[bytes, ...]) -> tuple[bytes, ...]:
        if b"*" in value and len(value) > 1:
            raise ValueError('"*" stands alone: it is any host')
        return value


class RouteAccessSection(Section):
    """Narrows, for one route, who may use it."""

    allowed_hosts: Annotated[tuple[AllowedHost, ...] | None, CommaList, HostList] = key(
        None, description="Names that Host may have; each among the gateway's.", examples=[["orders.internal"]]
    )
    allowed_clients: Annotated[tuple[NetworkText, ...] | None, CommaList, NetworkList] = key(
        None,
        description="Networks that clients may connect from; each inside the gateway's.",
        examples=[["10.1.0.0/16"]],
    )
    browser_requests: Annotated[str | None, _BROWSERS] = key(
        None, description="`refuse`, where the gateway says `allow`."
    )
    allowed_origins: Annotated[tuple[OriginText, ...] | None, CommaList, OriginList] = key(
        None, description="Origins whose pages may send requests; each among the gateway's if that refuses browsers."
    )
    require_header: RequireHeaderSection | None = key(
        None, description="A shared key that each client must show, where the gateway asks for none."
    )

    @field_validator("allowed_clients")
    @classmethod
    def _inside(cls, value: tuple[Network, ...] | None, info: ValidationInfo) -> tuple[Network, ...] | None:
        if value is not None and (rules := known(info).access) is not None:
            faults_at(
                ((index,), "is not inside the gateway's access.allowed_clients; a route may only narrow them")
                for index, network in enumerate(value)
                if not any(_contains(outer, network) for outer in rules.allowed_clients)
            )
        return value

    @field_validator("browser_requests")
    @classmethod
    def _not_wider(cls, value: str | None, info: ValidationInfo) -> str | None:
        rules = known(info).access
        if value == BrowserRequests.ALLOW and rules is not None and rules.browser_requests is BrowserRequests.REFUSE:
            raise ValueError("the gateway's access.browser_requests is refuse; a route may only narrow it")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _among(cls, value: tuple[bytes, ...] | None, info: ValidationInfo) -> tuple[bytes, ...] | None:
        rules = known(info).access
        if value is not None and rules is not None and rules.browser_requests is BrowserRequests.REFUSE:
            faults_at(
                ((index,), "is not among the gateway's access.allowed_origins; a route may only narrow them")
                for index, origin in enumerate(value)
                if origin not in rules.allowed_origins
            )
        return value

    @field_validator("require_header")
    @classmethod
    def _only_one(cls, value: Any, info: ValidationInfo) -> Any:
        rules = known(info).access
        if value is not None and rules is not None and rules.required_header is not None:
            raise ValueError("the gateway asks for a key already, in access.require_header")
        return value


def covers(listed: tuple[bytes, ...], host: bytes) -> bool:
    """Tells whether every name that `host` stands for is among those listed."""
    return any(
        entry in (b"*", host) or (entry.startswith(b"*.") and host.removeprefix(b"*").endswith(entry[1:]))
        for entry in listed
        if host != b"*" or entry == b"*"
    )


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def gateway_rules(given: AccessSection) -> AccessRules:
    """Returns the gateway's rules."""
    return AccessRules(
        allowed_hosts=given.allowed_hosts,
        allowed_clients=given.allowed_clients,
        browser_requests=BrowserRequests(given.browser_requests),
        allowed_origins=given.allowed_origins,
        required_header=_required_header(given.require_header),
        trusted_proxies=given.trusted_proxies,
    )


def route_rules(given: RouteAccessSection, gateway: AccessRules, route_hosts: tuple[bytes, ...]) -> AccessRules:
    """Returns a route's own rules: what it says, and the gateway's where it says nothing.

    `route_hosts` are the hosts that routes are for, which count as listed at the gateway.
    """
    hosts, clients, origins = given.allowed_hosts, given.allowed_clients, given.allowed_origins
    browsers = given.browser_requests
    key_asked = _required_header(given.require_header)
    return AccessRules(
        allowed_hosts=(*gateway.allowed_hosts, *route_hosts) if hosts is None else hosts,
        allowed_clients=gateway.allowed_clients if clients is None else clients,
        browser_requests=gateway.browser_requests if browsers is None else BrowserRequests(browsers),
        allowed_origins=gateway.allowed_origins if origins is None else origins,
        required_header=key_asked or gateway.required_header,
        trusted_proxies=gateway.trusted_proxies,
    )


def _required_header(given: RequireHeaderSection | None) -> RequiredHeader | None:
    return None if given is None else RequiredHeader(name=given.name.encode("ascii"), value=given.source())
