"""The section `credentials`: how a token is got from an authorization server, and when.

What proves the client depends on the method, so the method stands first: every key that belongs to another one is a fault
at its own place. A credential that is a token in a file is ``static_token``'s.

Source: RFC 6749 §2.3, §3.2, §3.3 and §4.4; RFC 8707; RFC 8414 for the names of the methods; RFC 7523; RFC 8705.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, ValidationInfo, field_validator

from proxy.config.headers import HeaderName, duplicates
from proxy.config.network import IssuerUrl, ProxyUrl, ResourceUri, TokenUrl, Url
from proxy.config.scalars import (
    Boolean,
    FilePath,
    OneOrMore,
    SecretText,
    Text,
    Written,
    duration,
    number,
    one_of,
    one_or_more,
    text,
    words,
)
from proxy.config.section import HeaderValue, Section, TlsSection, either, faults_at, key, section
from proxy.oauth.assertion import HMAC_ALGORITHMS, SIGNING_ALGORITHMS, secret_fault
from proxy.oauth.client_auth import SIGNING_METHODS
from proxy.oauth.registration import (
    AUDIENCE_ISSUER,
    RESERVED_HEADERS,
    RESERVED_PARAMETERS,
    ClientAuthMethod,
    is_scope,
)


def _scope_token(value: str) -> str:
    if not is_scope(value) or " " in value:
        raise ValueError("is not one scope: visible ASCII without space, double quote and backslash")
    return value


def _scope(value: str) -> str:
    if not is_scope(value):
        raise ValueError(
            'scopes stand with one space between each, without double quote and backslash: "a.read a.write"'
        )
    return value


_SCOPE_TOKEN = Written(_scope_token, {"type": "string", "minLength": 1}, "a scope")
_SCOPE = Written(_scope, {"type": "string", "minLength": 1}, "a text of scopes; a list is `scopes`")
# the second is another section's
_GRANT_TYPE = Written(words("client_credentials", "static").parse, one_of(("client_credentials",)), "a word")
_METHOD = words(*(method.value for method in ClientAuthMethod))
_ALGORITHM = words(*SIGNING_ALGORITHMS, *HMAC_ALGORITHMS)
_CERTIFICATE_METHODS: list[Any] = [method.value for method in ClientAuthMethod if method.by_certificate]
_PROOFS: list[Any] = [
    {"required": [name]}
    for name in ("client_secret", "client_secret_file", "private_key_file", "client_assertion_file")
]
_MOST_SECRETS = 2  # the current and the next: a rotation has no third
_SECRETS = one_or_more({"type": ["string", "number", "boolean"]}, most=_MOST_SECRETS)
_SECRET_FILES = one_or_more({"type": "string", "minLength": 1}, most=_MOST_SECRETS)
_TEXT = Written(text, {"type": ["string", "number", "boolean"]}, "a text")


class RefreshSection(Section):
    """When a token is renewed: before its end, at a random moment, so that a fleet does not ask all at once."""

    at_ratio: Annotated[float, number(0, 1, above=True)] = key(
        "0.8", description="A newer token is asked for at this part of the token's life."
    )
    jitter: Annotated[float, number(0, 1)] = key(
        "0.1", description="... and earlier than that by a random part of the life, up to this one."
    )
    before_expiry: Annotated[float | None, duration("1s", "24h")] = key(
        None,
        description="May bring that moment forward to this long before the expiry; counts only for a token that lives "
        "longer than twice this.",
        examples=["2m"],
    )

    @field_validator("jitter")
    @classmethod
    def _below_ratio(cls, value: float, info: ValidationInfo) -> float:
        if value >= info.data.get("at_ratio", 2):
            raise ValueError("must be below at_ratio, or a token would be renewed as soon as it came")
        return value


class BackoffSection(Section):
    """How tries are spaced after a token request failed. Full jitter; Retry-After is honoured."""

    initial: Annotated[float, duration("100ms", "1h")] = key("1s", description="The first pause, at most.")
    max: Annotated[float, duration("100ms", "1h")] = key("60s", description="The longest pause.")
    max_without_token: Annotated[float, duration("100ms", "1h")] = key(
        "5s", description="The longest pause after network, timeout and 5xx failures while there is no usable token."
    )

    @field_validator("max")
    @classmethod
    def _not_below_initial(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("initial", 0):
            raise ValueError("must not be below initial")
        return value


class CredentialSection(Section):
    """A client's registration at an authorization server, and how its token is kept fresh."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"anyOf": [{"required": [name]} for name in ("token_endpoint", "token_url", "issuer")]},
                {
                    "anyOf": [
                        *_PROOFS,
                        {
                            "properties": {"token_endpoint_auth_method": {"enum": _CERTIFICATE_METHODS}},
                            "required": ["token_endpoint_auth_method", "tls"],
                        },
                    ]
                },
            ]
        }
    )

    allow_plain_http: Boolean = key(
        "false",
        description="Lets the client secret go over plain http beyond loopback, where everyone on the way reads it.",
    )
    grant_type: Annotated[str, _GRANT_TYPE] = key(
        "client_credentials", description="The OAuth 2.0 grant (RFC 6749, 4.4)."
    )
    token_endpoint_auth_method: Annotated[str, _METHOD] = key(
        "client_secret_basic", description="How the client proves who it is (RFC 8414)."
    )
    token_endpoint: TokenUrl | None = key(
        None,
        description="URL of the authorization server's token endpoint; its query is kept.",
        examples=["https://as.example/oauth2/token"],
    )
    token_url: TokenUrl | None = key(None, description="Another name of token_endpoint.")
    issuer: IssuerUrl | None = key(
        None,
        description="The authorization server's identifier, whose published metadata says the token endpoint (RFC 8414, "
        "OpenID Connect Discovery).",
        examples=["https://as.example"],
    )
    client_id: Text = key(description="The client's identifier at the authorization server.", examples=["legacy-app"])
    signing_alg: Annotated[str | None, _ALGORITHM] = key(
        None, description="How assertions are signed; if absent, as the private key wants it, or HS256."
    )
    client_secret: Annotated[tuple[SecretText, ...], OneOrMore, _SECRETS] | None = key(
        None,
        description="The client's secret; a reference, not the secret itself. A list of two = the current and the next: "
        "where one is refused, the other is tried.",
        examples=["${CLIENT_SECRET}", ["${CURRENT_SECRET}", "${NEXT_SECRET}"]],
    )
    client_secret_file: Annotated[tuple[FilePath, ...], OneOrMore, _SECRET_FILES] | None = key(
        None,
        description="A file with the client's secret, read again when it changes; or a list of two, as for client_secret.",
        examples=["/run/secrets/orders", ["/run/secrets/orders-current", "/run/secrets/orders-next"]],
    )
    private_key_file: FilePath | None = key(
        None,
        description="private_key_jwt: a file with the private key, PEM or JWK; read again when it changes. Where the PEM "
        "also holds the key's certificate, assertions name that (`x5t#S256`).",
        examples=["/run/secrets/orders.pem"],
    )
    client_assertion_file: FilePath | None = key(
        None,
        description="private_key_jwt: a file with an assertion that somebody else signs and renews; read at each use.",
        examples=["/var/run/secrets/azure/tokens/azure-identity-token"],
    )
    key_id: Text | None = key(None, description="The `kid` of assertions.", examples=["orders-2026"])
    assertion_audience: Text | None = key(
        None,
        description="The `aud` of assertions: issuer, token_endpoint, or a text. If absent, the issuer where `issuer` is "
        "given, else the token endpoint.",
        examples=["token_endpoint"],
    )
    assertion_lifetime: Annotated[float, duration("10s", "300s")] = key(
        "60s", description="How long an assertion is valid; one is made for each token request."
    )
    assertion_typ: Text = key(
        "client-authentication+jwt", description="The `typ` of assertions; older servers know JWT only."
    )
    basic_form_encoding: Boolean = key(
        "true", description="client_secret_basic as RFC 6749, 2.3.1 has it; false for servers that do not decode it."
    )
    scopes: tuple[Annotated[str, _SCOPE_TOKEN], ...] | None = key(
        None, description="The scopes to ask for.", examples=[["orders.read", "orders.write"]]
    )
    scope: Annotated[str | None, _SCOPE] = key(
        None, description="The scopes to ask for, as one text.", examples=["orders.read orders.write"]
    )
    audience: Text | None = key(
        None, description="The parameter `audience`, which some servers want.", examples=["https://api.example"]
    )
    resource: tuple[ResourceUri, ...] = key(
        [], description="The parameter `resource`, once for each (RFC 8707).", examples=[["https://api.example"]]
    )
    endpoint_params: dict[Text, Annotated[str, _TEXT]] = key(
        {}, description="Further parameters of the token request.", examples=[{"tenant": "t1"}]
    )
    token_request_headers: dict[HeaderName, HeaderValue] = key(
        {},
        description="Further headers of the token request; a value is a text, or {value_file: ...}.",
        examples=[{"X-Tenant": "t1", "X-Subscription-Key": {"value_file": "/run/secrets/key"}}],
    )
    timeout: Annotated[float, duration("100ms", "10m")] = key(
        "10s", description="For one call of the token endpoint, to the last byte."
    )
    tls: TlsSection | None = key(None, description="TLS towards the token endpoint.")
    proxy_url: ProxyUrl | None = key(
        None,
        description="An HTTP proxy towards the authorization server only; variables of the environment are not heeded.",
        examples=["http://proxy.example:3128", "http://gateway:${PROXY_PASSWORD}@proxy.example:3128"],
    )
    refresh: RefreshSection = section(RefreshSection)
    expiry_buffer: Annotated[float, duration("0s", "1h")] = key(
        "10s", description="A token is not used for this long before its expiry; a tenth of its life at most."
    )
    max_lifetime: Annotated[float, duration("1s", "8760h")] = key(
        "24h", description="A token is renewed by then, however long it is said to live."
    )
    default_lifetime: Annotated[float, duration("1s", "24h")] = key(
        "5m", description="The life of a token whose expires_in is missing or unreadable."
    )
    backoff: BackoffSection = section(BackoffSection)
    required: Boolean = key(
        "true", description="Readiness waits for its first token; false = the token is got at first use."
    )

    @field_validator("token_endpoint", "token_url", "issuer")
    @classmethod
    def _not_readable_on_the_way(cls, value: Url | None, info: ValidationInfo) -> Url | None:
        if value is None:
            return value
        if value.plain_http_beyond_loopback and info.data.get("allow_plain_http") is False:
            raise ValueError("would send the client secret over plain http; use https, or set allow_plain_http: true")
        method = _method(info)
        if method is not None and method.by_certificate and not value.origin.secure and info.field_name != "issuer":
            raise ValueError(f"must be https: {method.value} shows its certificate over TLS only")
        return value

    @field_validator("token_url")
    @classmethod
    def _one_token_endpoint(cls, value: Url | None, info: ValidationInfo) -> Url | None:
        either(info, "token_endpoint", value, needed=False)
        return value

    @field_validator("client_secret", "client_secret_file")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if value is not None and not 1 <= len(value) <= _MOST_SECRETS:
            raise ValueError("takes one secret, or a list of two: the current and the next")
        return value

    @field_validator("issuer")
    @classmethod
    def _one_server(cls, value: Url | None, info: ValidationInfo) -> Url | None:
        if not {"token_endpoint", "token_url"} <= set(info.data):
            return value  # one is faulty itself
        given = [name for name in ("token_endpoint", "token_url") if info.data[name] is not None]
        if value is not None and given:
            raise ValueError(f"excludes {given[0]}: give one of the two")
        if value is None and not given:
            raise ValueError("token_endpoint is missing, or issuer in its place")
        return value

    @field_validator("signing_alg")
    @classmethod
    def _of_the_method(cls, value: str | None, info: ValidationInfo) -> str | None:
        known = HMAC_ALGORITHMS if _method(info) is ClientAuthMethod.CLIENT_SECRET_JWT else SIGNING_ALGORITHMS
        if value is not None and _method(info) in SIGNING_METHODS and value not in known:
            raise ValueError(f"expected one of: {', '.join(known)}, with this token_endpoint_auth_method")
        return value

    @field_validator("client_secret")
    @classmethod
    def _long_enough(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and _method(info) is ClientAuthMethod.CLIENT_SECRET_JWT:
            for secret in value:
                if (fault := secret_fault(secret, info.data.get("signing_alg"))) is not None:
                    raise ValueError(fault)
        return value

    @field_validator("client_secret", "client_secret_file")
    @classmethod
    def _of_a_secret_method(cls, value: Any, info: ValidationInfo) -> Any:
        method = _method(info)
        if value is not None and method is not None and not method.by_secret:
            raise ValueError(f"is not used by {method.value}: leave it out")
        if info.field_name == "client_secret_file" and method is not None and method.by_secret:
            either(info, "client_secret", value)
        return value

    @field_validator("private_key_file", "client_assertion_file")
    @classmethod
    def _of_a_key_method(cls, value: Any, info: ValidationInfo) -> Any:
        method = _method(info)
        if value is not None and method is not None and method is not ClientAuthMethod.PRIVATE_KEY_JWT:
            raise ValueError("needs token_endpoint_auth_method: private_key_jwt")
        if info.field_name == "client_assertion_file" and method is ClientAuthMethod.PRIVATE_KEY_JWT:
            either(info, "private_key_file", value)
        return value

    @field_validator("signing_alg", "key_id", "assertion_audience")
    @classmethod
    def _of_our_own_assertions(cls, value: Any, info: ValidationInfo) -> Any:
        method = _method(info)
        if value is not None and method is not None and method not in SIGNING_METHODS:
            raise ValueError("is for client_secret_jwt and private_key_jwt")
        if value is not None and info.data.get("client_assertion_file") is not None:
            raise ValueError("is not used with client_assertion_file: the assertion is made elsewhere")
        return value

    @field_validator("assertion_audience")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == AUDIENCE_ISSUER and info.data.get("issuer", "") is None:
            raise ValueError("needs `issuer`; or give the text of the audience itself")
        return value

    @field_validator("tls")
    @classmethod
    def _with_certificate(cls, value: TlsSection | None, info: ValidationInfo) -> TlsSection | None:
        method = _method(info)
        if method is not None and method.by_certificate and (value is None or value.cert_file is None):
            raise ValueError(f"tls.cert_file and tls.key_file are needed: {method.value} shows a certificate")
        return value

    @field_validator("scope")
    @classmethod
    def _one_scope(cls, value: str | None, info: ValidationInfo) -> str | None:
        either(info, "scopes", value, needed=False)
        return value

    @field_validator("endpoint_params")
    @classmethod
    def _sent_once(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        own = {
            "scope": info.data.get("scope") or info.data.get("scopes"),
            "audience": info.data.get("audience"),
            "resource": info.data.get("resource"),
        }
        taken = RESERVED_PARAMETERS | {name for name, given in own.items() if given}
        faults_at(
            (((name,), "is sent already: it would be in the request twice") for name in value if name in taken),
            of_keys=True,
        )
        return value

    @field_validator("token_request_headers")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        faults_at(
            (((name,), "is set by the gateway") for name in value if name.lower() in RESERVED_HEADERS), of_keys=True
        )
        faults_at((((name,), "is given twice, in other letters") for name in duplicates(value)), of_keys=True)
        return value

    @field_validator("default_lifetime")
    @classmethod
    def _not_above_max(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("max_lifetime", value):
            raise ValueError("must not be above max_lifetime")
        return value


def _method(info: ValidationInfo) -> ClientAuthMethod | None:
    """Returns the method, None if what is written is none."""
    written = info.data.get("token_endpoint_auth_method")
    return None if written is None else ClientAuthMethod(written)
