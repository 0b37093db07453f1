"""The section `credentials`: how a token is got from an authorization server, and when.

Source: RFC 6749 §2.3, §3.2, §3.3 and §4.4; RFC 8707; RFC 8414 for the names of the methods.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, ValidationInfo, field_validator

from proxy.config.headers import HeaderName, duplicates
from proxy.config.network import ResourceUri, TokenUrl, Url
from proxy.config.scalars import (
    Boolean,
    FilePath,
    OneOrMore,
    SecretText,
    Text,
    Written,
    duration,
    number,
    one_or_more,
    text,
    words,
)
from proxy.config.section import HeaderValue, Section, TlsSection, either, faults_at, key, section
from proxy.oauth.registration import RESERVED_HEADERS, RESERVED_PARAMETERS, ClientAuthMethod, is_scope


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


def _grant_type(value: str) -> str:
    if value != "client_credentials":
        raise ValueError("expected client_credentials")
    return value


_SCOPE_TOKEN = Written(_scope_token, {"type": "string", "minLength": 1}, "a scope")
_SCOPE = Written(_scope, {"type": "string", "minLength": 1}, "a text of scopes; a list is `scopes`")
_GRANT_TYPE = Written(_grant_type, {"const": "client_credentials"}, "a word")
_METHOD = words(ClientAuthMethod.CLIENT_SECRET_BASIC.value, ClientAuthMethod.CLIENT_SECRET_POST.value)
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
                {"anyOf": [{"required": ["token_endpoint"]}, {"required": ["token_url"]}]},
                {"anyOf": [{"required": ["client_secret"]}, {"required": ["client_secret_file"]}]},
            ]
        }
    )

    allow_plain_http: Boolean = key(
        "false",
        description="Lets the client secret go over plain http beyond loopback, where everyone on the way reads it.",
    )
    token_endpoint: TokenUrl | None = key(
        None,
        description="URL of the authorization server's token endpoint; its query is kept.",
        examples=["https://as.example/oauth2/token"],
    )
    token_url: TokenUrl | None = key(None, description="Another name of token_endpoint.")
    grant_type: Annotated[str, _GRANT_TYPE] = key(
        "client_credentials", description="The OAuth 2.0 grant (RFC 6749, 4.4)."
    )
    client_id: Text = key(description="The client's identifier at the authorization server.", examples=["legacy-app"])
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
    token_endpoint_auth_method: Annotated[str, _METHOD] = key(
        "client_secret_basic", description="How the client shows its secret (RFC 8414)."
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

    @field_validator("token_endpoint", "token_url")
    @classmethod
    def _not_readable_on_the_way(cls, value: Url | None, info: ValidationInfo) -> Url | None:
        if value is not None and value.plain_http_beyond_loopback and info.data.get("allow_plain_http") is False:
            raise ValueError("would send the client secret over plain http; use https, or set allow_plain_http: true")
        return value

    @field_validator("token_url")
    @classmethod
    def _one_token_endpoint(cls, value: Url | None, info: ValidationInfo) -> Url | None:
        if "token_endpoint" in info.data and info.data["token_endpoint"] is None and value is None:
            raise ValueError("token_endpoint is missing")
        either(info, "token_endpoint", value)
        return value

    @field_validator("client_secret", "client_secret_file")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if value is not None and not 1 <= len(value) <= _MOST_SECRETS:
            raise ValueError("takes one secret, or a list of two: the current and the next")
        return value

    @field_validator("client_secret_file")
    @classmethod
    def _one_secret(cls, value: Any, info: ValidationInfo) -> Any:
        either(info, "client_secret", value)
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
