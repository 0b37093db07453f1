"""A client's registration at an authorization server: all that goes into a token request, and the key made of it.

The values come from the configuration, which checks them with file and line; what would break the protocol is refused
here once more, so that no other way of building a ``Registration`` gets around it. No network, no clock.

Source: RFC 6749 §2.3, §3.2, §3.3 and §4.4; RFC 7523 §2.2 and §3; RFC 8705 §2; RFC 8414 §2 (`issuer`); RFC 8707 §2.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from urllib.parse import urlsplit

from proxy.errors import ConfigurationError
from proxy.secret import FixedSecret, OverlappingSecrets, Secret, SecretFile, SecretSource
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
    CLIENT_SECRET_JWT = "client_secret_jwt"  # noqa: S105  # the method's registered name
    PRIVATE_KEY_JWT = "private_key_jwt"
    TLS_CLIENT_AUTH = "tls_client_auth"
    SELF_SIGNED_TLS_CLIENT_AUTH = "self_signed_tls_client_auth"

    @property
    def by_secret(self) -> bool:
        """Tells whether the client proves that it knows a secret that the server knows too."""
        return self in _BY_SECRET

    @property
    def by_certificate(self) -> bool:
        """Tells whether the client shows a certificate in the TLS handshake (RFC 8705)."""
        return self in _BY_CERTIFICATE


_BY_SECRET = frozenset(
    {ClientAuthMethod.CLIENT_SECRET_BASIC, ClientAuthMethod.CLIENT_SECRET_POST, ClientAuthMethod.CLIENT_SECRET_JWT}
)
_BY_CERTIFICATE = frozenset({ClientAuthMethod.TLS_CLIENT_AUTH, ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH})


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionSettings:
    """How a client assertion is made (RFC 7523 §3)."""

    key_id: str | None = None  # `kid`; None: the JWK's own, if it has one
    algorithm: str | None = None  # JWS `alg`; None: the one that fits the key
    audience: str | None = None  # AUDIENCE_ISSUER, AUDIENCE_TOKEN_ENDPOINT, or a text; None: the issuer if it is known
    lifetime_s: float = 60 * SECONDS
    typ: str = "client-authentication+jwt"  # of the JWS header (rfc7523bis); some servers know `JWT` only


AUDIENCE_ISSUER = "issuer"
AUDIENCE_TOKEN_ENDPOINT = "token_endpoint"  # noqa: S105  # a word of the configuration
MAX_ASSERTION_LIFETIME_S = 300 * SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProxy:
    """An HTTP proxy on the way to the authorization server: CONNECT for https, absolute-form for http."""

    url: str  # http, host and port; no user info
    authorization: Secret | None = None  # the whole value of Proxy-Authorization


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is said to a token endpoint. Raises ConfigurationError where it could not be said (see `__post_init__`)."""

    token_endpoint: str | None = None  # absolute URL; its query is kept; None: published by the issuer (RFC 8414)
    issuer: str | None = None  # whose metadata says the token endpoint; exactly one of the two is given
    client_id: str
    method: ClientAuthMethod = ClientAuthMethod.CLIENT_SECRET_BASIC
    client_secret: SecretSource | None = field(default=None, repr=False)  # for the methods by secret, and only those
    private_key: SecretSource | None = field(default=None, repr=False)  # private_key_jwt: PEM or JWK; or ...
    client_assertion: SecretSource | None = field(default=None, repr=False)  # ... an assertion that another one signed
    assertion: AssertionSettings = AssertionSettings()
    basic_form_encoding: bool = True  # RFC 6749 §2.3.1; False for servers that do not decode
    scope: str | None = None  # space-delimited
    audience: str | None = None
    resource: tuple[str, ...] = ()
    endpoint_params: tuple[tuple[str, str], ...] = ()
    token_request_headers: tuple[tuple[str, SecretSource], ...] = field(default=(), repr=False)
    timeout_s: float = 10 * SECONDS  # one call of the token endpoint, from connecting to the last byte
    tls: TlsSettings | None = None
    proxy: HttpProxy | None = None
    allow_plain_http: bool = False  # of what is discovered; what is configured was checked there

    @property
    def proof(self) -> SecretSource:
        """What the client proves itself by; another value may mend a refusal. For a certificate, its PEM text."""
        given = self.client_secret or self.private_key or self.client_assertion
        if given is not None:
            return given
        assert self.tls is not None  # the methods by certificate are refused without
        assert self.tls.cert_file is not None
        return SecretFile(self.tls.cert_file)

    @property
    def server(self) -> str:
        """The URL by which the authorization server is known here: its token endpoint's, or its issuer."""
        named = self.token_endpoint or self.issuer
        assert named is not None
        return named

    def __post_init__(self) -> None:
        """Refuses what no token request can carry; the texts hold no value but the parameter's or field's name."""
        if (self.token_endpoint is None) == (self.issuer is None):
            raise ConfigurationError("one of token_endpoint and issuer is needed, and not both")
        if self.token_endpoint is not None and (fault := endpoint_fault(self.token_endpoint)) is not None:
            raise ConfigurationError(f"token_endpoint: {fault}")
        if self.issuer is not None and (fault := endpoint_fault(self.issuer)) is not None:
            raise ConfigurationError(f"issuer: {fault}")
        if self.issuer is not None and "?" in self.issuer:
            raise ConfigurationError("issuer: must have no query (RFC 8414, 2)")
        if self.issuer is None and self.assertion.audience == AUDIENCE_ISSUER:
            raise ConfigurationError("assertion_audience: the issuer is not known; give `issuer`, or its text here")
        self._check_proof()
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
        for name, source in self.token_request_headers:
            value = source.value.reveal() if isinstance(source, FixedSecret) else ""  # a file is read when it is needed
            if not is_extra_header(name, value):
                raise ConfigurationError(f"token_request_headers: {name!r} is set by the gateway or not a valid field")

    def _check_proof(self) -> None:
        """Refuses a method without what it needs, and one proof beside another (RFC 6749 §2.3: one per request)."""
        given = {
            "client_secret": self.client_secret,
            "private_key": self.private_key,
            "client_assertion": self.client_assertion,
        }
        names = [name for name, source in given.items() if source is not None]
        if self.method.by_secret:
            right = names == ["client_secret"]
        elif self.method is ClientAuthMethod.PRIVATE_KEY_JWT:
            right = names in (["private_key"], ["client_assertion"])
        else:
            right = not names and self.tls is not None and self.tls.cert_file is not None
            if self.token_endpoint is not None and not self.token_endpoint.lower().startswith("https:"):
                raise ConfigurationError(f"{self.method.value}: a certificate is shown over https only")
        if not right:
            raise ConfigurationError(f"{self.method.value}: needs its own proof of the client, and no other")
        if not 0 < self.assertion.lifetime_s <= MAX_ASSERTION_LIFETIME_S:
            raise ConfigurationError("assertion_lifetime: must be 300 s at most")


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What makes two registrations one: equal keys share one token. Compared by equality, never shown."""

    inputs: tuple[Hashable, ...] = field(repr=False)


_NOT_SENT = frozenset({"timeout_s"})  # says how long to wait, not what is asked
_SOURCES = frozenset({"client_secret", "private_key", "client_assertion"})


def identity(registration: Registration) -> TokenKey:
    """Returns the key of a registration: every input of its token request, secrets by their source.

    Built from the fields themselves, so that an input added later cannot be forgotten.
    """
    inputs: list[Hashable] = []
    for member in fields(registration):
        if member.name not in _NOT_SENT:
            value = getattr(registration, member.name)
            if member.name in _SOURCES:
                value = _source_identity(value)
            elif member.name == "token_request_headers":
                value = tuple((name, _source_identity(source)) for name, source in value)
            inputs.append((member.name, value))
    return TokenKey(tuple(inputs))


def _source_identity(source: SecretSource | None) -> Hashable:
    match source:
        case None:
            return None
        case FixedSecret(value=value):
            return ("value", value)
        case SecretFile(path=path):
            return ("file", path)
        case OverlappingSecrets(sources=sources):
            return ("overlap", *map(_source_identity, sources))
        case _:
            return ("object", id(source))


def endpoint_fault(url: str) -> str | None:
    """Returns what keeps a URL from being asked, None if nothing does (RFC 6749 §3.2)."""
    try:
        parts = urlsplit(url)
        absolute = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        absolute = False
    if not absolute:
        return "must be an absolute http or https URL"
    if "#" in url or parts.username is not None:
        return "must have no fragment and no user info"
    return None


def extra_headers(registration: Registration) -> list[tuple[str, str]]:
    """Returns the further headers of a token request, with the values now in force.

    Raises ConfigurationError for a file that cannot be read, or that does not hold a header's value.
    """
    headers = [(name, source.read().reveal()) for name, source in registration.token_request_headers]
    for name, value in headers:
        if not is_extra_header(name, value):
            raise ConfigurationError(f"token_request_headers: the file for {name!r} does not hold a header's value")
    return headers


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
