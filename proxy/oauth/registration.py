"""A client's registration at an authorization server: all that goes into a token request, and the key made of it.

The values come from the configuration, which checks them with file and line; what would break the protocol is refused
here once more, so that no other way of building a ``Registration`` gets around it. No network, no clock.

Source: RFC 6749 §2.3, §3.2, §3.3 and §4.4; RFC 8707 §2 (`resource`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from urllib.parse import urlsplit

from proxy.errors import ConfigurationError
from proxy.secret import FixedSecret, SecretFile, SecretSource
from proxy.tls import TlsSettings
from proxy.units import SECONDS

# Sent by the grant or the client authentication; an extra parameter of that name would be sent twice (RFC 6749 §3.2).
RESERVED_PARAMETERS = frozenset(
    {
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
    }
)
# Sent by the token client itself, or by HTTP/1.1's framing.
RESERVED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+(?: [\x21\x23-\x5B\x5D-\x7E]+)*")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21\x24-\x7E]+")  # no space, quote or `#`
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7E\x80-\U0010FFFF\t]*")


class ClientAuthMethod(StrEnum):
    """How the client authenticates at the token endpoint (RFC 8414 §2, RFC 7591 §2)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105  # the method's registered name
    CLIENT_SECRET_POST = "client_secret_post"  # noqa: S105  # the method's registered name


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is said to a token endpoint. Raises ConfigurationError where it could not be said (see `__post_init__`)."""

    token_endpoint: str  # absolute URL; its query is kept
    client_id: str
    client_secret: SecretSource = field(repr=False)
    method: ClientAuthMethod = ClientAuthMethod.CLIENT_SECRET_BASIC
    basic_form_encoding: bool = True  # RFC 6749 §2.3.1; False for servers that do not decode
    scope: str | None = None  # space-delimited
    audience: str | None = None
    resource: tuple[str, ...] = ()
    endpoint_params: tuple[tuple[str, str], ...] = ()
    token_request_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 10 * SECONDS  # one call of the token endpoint, from connecting to the last byte
    tls: TlsSettings | None = None

    def __post_init__(self) -> None:
        """Refuses what no token request can carry; the texts hold no value but the parameter's or field's name."""
        try:
            endpoint = urlsplit(self.token_endpoint)
            absolute = endpoint.scheme in {"http", "https"} and bool(endpoint.hostname) and endpoint.port != 0
        except ValueError:
            absolute = False
        if not absolute:
            raise ConfigurationError("token_endpoint: must be an absolute http or https URL")
        if "#" in self.token_endpoint or endpoint.username is not None:
            raise ConfigurationError("token_endpoint: must have no fragment and no user info")
        if not self.client_id:
            raise ConfigurationError("client_id: is empty")
        if self.scope is not None and not is_scope(self.scope):
            raise ConfigurationError("scope: must be scope tokens, separated by one space each (RFC 6749, 3.3)")
        if not all(is_resource(resource) for resource in self.resource):
            raise ConfigurationError("resource: must be absolute URIs without fragment (RFC 8707, 2)")
        own = {"scope": self.scope, "audience": self.audience, "resource": self.resource}
        taken = RESERVED_PARAMETERS | {name for name, value in own.items() if value}
        names = [name for name, _ in self.endpoint_params]
        for name in names:
            if not name or name in taken or names.count(name) > 1:
                raise ConfigurationError(f"endpoint_params: {name!r} would be sent twice, or has no name")
        for name, value in self.token_request_headers:
            if not is_extra_header(name, value):
                raise ConfigurationError(f"token_request_headers: {name!r} is set by the gateway or not a valid field")


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What makes two registrations one: equal keys share one token. Compared by equality, never shown."""

    inputs: tuple[Hashable, ...] = field(repr=False)


_NOT_SENT = frozenset({"timeout_s"})  # says how long to wait, not what is asked


def identity(registration: Registration) -> TokenKey:
    """Returns the key of a registration: every input of its token request, the secret by its source.

    Built from the fields themselves, so that an input added later cannot be forgotten.
    """
    inputs: list[Hashable] = []
    for member in fields(registration):
        if member.name not in _NOT_SENT:
            value = getattr(registration, member.name)
            inputs.append((member.name, _source_identity(value) if member.name == "client_secret" else value))
    return TokenKey(tuple(inputs))


def _source_identity(source: SecretSource) -> Hashable:
    match source:
        case FixedSecret(value=value):
            return ("value", value)
        case SecretFile(path=path):
            return ("file", path)
        case _:
            return ("object", id(source))


def is_scope(text: str) -> bool:
    """Tells whether the text is RFC 6749 §3.3's scope: one or more scope tokens, one space between them."""
    return _SCOPE.fullmatch(text) is not None


def is_resource(text: str) -> bool:
    """Tells whether the text is an absolute URI without fragment (RFC 8707 §2)."""
    return _ABSOLUTE_URI.fullmatch(text) is not None


def is_extra_header(name: str, value: str) -> bool:
    """Tells whether a header may be added to token requests: grammatical, and not one that the gateway sets itself."""
    return (
        _HEADER_NAME.fullmatch(name) is not None
        and name.lower() not in RESERVED_HEADERS
        and _HEADER_VALUE.fullmatch(value) is not None
    )
