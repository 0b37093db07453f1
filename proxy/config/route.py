"""The section `routes`: which requests go where, with whose token, and how.

Source: RFC 9110 §7 (what an intermediary may change), RFC 3986 §3.3 (paths).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, ValidationInfo, field_validator

from proxy.config.access import RouteAccessSection, covers
from proxy.config.faults import suggestion
from proxy.config.headers import NAME_ITEM, X_FORWARDED, HeaderName, duplicates, untouchable
from proxy.config.network import RouteHost, UpstreamUrl, Url, host_field
from proxy.config.scalars import (
    NAME_PATTERN,
    Boolean,
    CommaList,
    Name,
    Written,
    comma_list,
    name,
    one_of,
    patterned,
    words,
)
from proxy.config.section import HeaderValue, Section, TlsSection, either, faults_at, key, known, section
from proxy.config.traffic import (
    ForwardingSection,
    OnUnauthorizedSection,
    PoolSection,
    RateLimitSection,
    RetriesSection,
    RouteLimitsSection,
    TimeoutsSection,
)
from proxy.errors import ConfigurationError
from proxy.http1.wire import METHODS
from proxy.routing import (
    ClientAuthorization,
    HostHeader,
    LiteralHost,
    Match,
    PathPolicy,
    Route,
    RouteName,
    RouteTable,
    UnderscoreFields,
)
from proxy.upstream.origin import Origin

NO_CREDENTIAL = "none"
_PATH = re.compile(r"/[!\"$->@-~]*")
_METHOD_NAMES = tuple(sorted(method.decode("ascii") for method in METHODS))
_NOWHERE = Origin("http", "localhost", 80)  # stands for the upstream where only matches are compared


def _path(value: str) -> bytes:
    if _PATH.fullmatch(value) is None:
        raise ValueError("a path begins with / and is as requests have it: no query, no spaces, others percent-encoded")
    return value.encode("ascii")


def _method(value: str) -> bytes:
    if value not in _METHOD_NAMES:
        close = suggestion(value.upper(), _METHOD_NAMES)
        raise ValueError(f"is not a method that the gateway forwards; their names are upper-case{close}")
    return value.encode("ascii")


def _credential(value: str) -> str:
    return value if value == NO_CREDENTIAL else name(value)


def _host_header(value: str) -> HostHeader | LiteralHost:
    return HostHeader(value) if value in set(HostHeader) else LiteralHost(host_field(value))


_PATH_TEXT = Written(_path, patterned("/[^?# ]*"), "a path")
_METHOD_TEXT = Written(_method, one_of(_METHOD_NAMES), "a method")
_CREDENTIAL_NAME = Written(_credential, patterned(NAME_PATTERN), "a credential's name, or none")
_CLIENT_WORDS = words("replace", "refuse", "pass")
_CLIENT_AUTHORIZATION = Written(
    lambda value: ClientAuthorization(_CLIENT_WORDS.parse(value)), _CLIENT_WORDS.json_schema, _CLIENT_WORDS.expected
)
_HOST_HEADER = Written(_host_header, {"type": "string", "minLength": 1}, "upstream, client or a host name")


class MatchSection(Section):
    """Which requests the route is for: exactly one of the two paths, or a host alone, which is for every path."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["path_prefix"]}, {"required": ["path_exact"]}, {"required": ["host"]}]
        }
    )

    host: RouteHost | None = key(
        None, description="Requests for this host, without port; *.example is any name below.", examples=["api.example"]
    )
    methods: Annotated[
        tuple[Annotated[bytes, _METHOD_TEXT], ...] | None, CommaList, comma_list(one_of(_METHOD_NAMES))
    ] = key(None, description="Requests with these methods; GET admits HEAD.", examples=[["GET", "POST"]])
    path_prefix: Annotated[bytes | None, _PATH_TEXT] = key(
        None, description="Paths below this one and itself; /orders is not for /ordersx.", examples=["/orders"]
    )
    path_exact: Annotated[bytes | None, _PATH_TEXT] = key(None, description="This path alone.", examples=["/health"])

    @field_validator("path_exact")
    @classmethod
    def _one_path(cls, value: bytes | None, info: ValidationInfo) -> bytes | None:
        either(info, "path_prefix", value, needed=False)
        if value is None and info.data.get("path_prefix", b"") is None and info.data.get("host", "") is None:
            raise ValueError("one of path_prefix, path_exact and host is needed; `path_prefix: /` is for every path")
        return value

    @field_validator("methods")
    @classmethod
    def _not_none_at_all(cls, value: tuple[bytes, ...] | None) -> tuple[bytes, ...] | None:
        if value == ():
            raise ValueError("is empty; leave it out for every method")
        return value

    def domain(self) -> Match:
        """Returns the match as the gateway has it."""
        return Match(
            host=self.host,
            path_prefix=self.path_prefix,
            path_exact=self.path_exact,
            methods=None if self.methods is None else frozenset(self.methods),
        )


class RouteSection(Section):
    """Which requests go where, with whose token, and how."""

    name: Name = key(description="The route's name in logs and metrics.", examples=["orders"])
    match: MatchSection = key(description="Which requests the route is for.", examples=[{"path_prefix": "/orders"}])
    credential: Annotated[str, _CREDENTIAL_NAME] = key(
        description="The credential whose token is sent, or none.", examples=["orders", "none"]
    )
    allow_plain_http: Boolean = key(
        "false", description="Lets the token go over plain http beyond loopback, where everyone on the way reads it."
    )
    upstream: UpstreamUrl = key(
        description="URL that requests are forwarded to; its path comes before theirs.",
        examples=["https://api.example/v1"],
    )
    strip_prefix: Boolean = key(
        "false", description="Takes match.path_prefix off: with /orders and …/v1, /orders/7 goes to /v1/7."
    )
    client_authorization: Annotated[ClientAuthorization | None, _CLIENT_AUTHORIZATION] = key(
        None,
        description="What becomes of the client's own Authorization, and of an access_token in the query: replace "
        "(default), refuse with 400, or, with `credential: none` only, pass (there the default is to remove it).",
        examples=["refuse"],
    )
    header_name: HeaderName = key("Authorization", description="The header that carries the token.")
    host_header: Annotated[HostHeader | LiteralHost, _HOST_HEADER] = key(
        "upstream", description="What Host says to the upstream: upstream, client, or a name.", examples=["client"]
    )
    forwarding: ForwardingSection = section(ForwardingSection)
    rewrite_location: Boolean = key(
        "true", description="Maps Location and Content-Location on the upstream itself back to the gateway."
    )
    set_request_headers: dict[HeaderName, HeaderValue] = key(
        {},
        description="Headers to set; a value is a text, or {value_file: ...}.",
        examples=[{"X-Team": "legacy", "X-Subscription-Key": {"value_file": "/run/secrets/key"}}],
    )
    remove_request_headers: Annotated[tuple[HeaderName, ...], CommaList, comma_list(NAME_ITEM)] = key(
        [], description="Headers that do not reach the upstream.", examples=[["Cookie"]]
    )
    set_response_headers: dict[HeaderName, HeaderValue] = key(
        {}, description="Headers to set in the response.", examples=[{"Cache-Control": "private"}]
    )
    remove_response_headers: Annotated[tuple[HeaderName, ...], CommaList, comma_list(NAME_ITEM)] = key(
        [], description="Headers that do not reach the client.", examples=[["Server"]]
    )
    path_policy: Annotated[str, words(*(word.value for word in PathPolicy))] = key(
        "strict", description="strict refuses ambiguous paths; raw forwards all that is grammatical."
    )
    underscore_fields: Annotated[str, words(*(word.value for word in UnderscoreFields))] = key(
        "twins",
        description="Header names with _: refuse the twins of headers that matter (default), refuse all, or drop.",
    )
    on_unauthorized: OnUnauthorizedSection = section(OnUnauthorizedSection)
    timeouts: TimeoutsSection = section(TimeoutsSection)
    retries: RetriesSection = section(RetriesSection)
    pool: PoolSection = section(PoolSection)
    tls: TlsSection | None = key(None, description="TLS towards the upstream.")
    rate_limit: RateLimitSection | None = key(None, description="A bound for all of the route's requests together.")
    access: RouteAccessSection | None = key(None, description="Narrows who may use the route.")
    limits: RouteLimitsSection = section(RouteLimitsSection)

    @field_validator("name")
    @classmethod
    def _used_once(cls, value: str, info: ValidationInfo) -> str:
        names = known(info).route_names
        if value in names:
            raise ValueError("another route has this name")
        names.add(value)
        return value

    @field_validator("match")
    @classmethod
    def _no_tie(cls, value: MatchSection, info: ValidationInfo) -> MatchSection:
        route_name = RouteName(info.data.get("name", "this one"))
        route = Route(name=route_name, match=value.domain(), upstream=_NOWHERE, credential=None)
        # only routes of the same host and path can tie, so that the table for the comparison stays small
        same = known(info).routes.setdefault((value.host, value.path_exact, value.path_prefix or b"/"), [])
        try:
            RouteTable([*same, route])
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        same.append(route)
        return value

    @field_validator("credential")
    @classmethod
    def _exists(cls, value: str, info: ValidationInfo) -> str:
        credentials = known(info).credentials
        if value != NO_CREDENTIAL and value not in credentials:
            raise ValueError(f"no credential has this name{suggestion(value, (*credentials, NO_CREDENTIAL))}")
        return value

    @field_validator("upstream")
    @classmethod
    def _not_readable_on_the_way(cls, value: Url, info: ValidationInfo) -> Url:
        with_token = info.data.get("credential") != NO_CREDENTIAL
        if with_token and value.plain_http_beyond_loopback and info.data.get("allow_plain_http") is False:
            raise ValueError("would send the token over plain http; use https, or set allow_plain_http: true")
        return value

    @field_validator("strip_prefix")
    @classmethod
    def _has_prefix(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  # pydantic calls it
        match = info.data.get("match")
        if value and match is not None and match.path_prefix is None and match.path_exact is None:
            raise ValueError("needs match.path_prefix: there is nothing to strip")
        return value

    @field_validator("client_authorization")
    @classmethod
    def _passes_only_without_ours(
        cls, value: ClientAuthorization | None, info: ValidationInfo
    ) -> ClientAuthorization | None:
        credential = info.data.get("credential")
        if value is ClientAuthorization.PASS and credential not in (None, NO_CREDENTIAL):
            raise ValueError("pass is for `credential: none` only: the upstream gets one Authorization, ours")
        if value is ClientAuthorization.REPLACE and credential == NO_CREDENTIAL:
            raise ValueError("replace needs a credential; with `credential: none` it is removed, or `pass` forwards it")
        return value

    @field_validator("header_name")
    @classmethod
    def _usable(cls, value: str) -> str:
        if (reason := untouchable(value)) is not None:
            raise ValueError(reason)
        return value

    @field_validator("set_request_headers")
    @classmethod
    def _may_set_in_requests(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        carrier = info.data.get("header_name", "Authorization").lower()
        forwarding = info.data.get("forwarding")

        def reason(header: str) -> str | None:
            lower = header.lower()
            if lower in {"authorization", carrier}:
                return "carries the token, or nothing"
            if forwarding is not None and forwarding.x_forwarded and lower.encode("ascii") in X_FORWARDED:
                return "is set by the gateway, unless forwarding.x_forwarded is false"
            return untouchable(header)

        _check_names(value, reason)
        return value

    @field_validator("set_response_headers")
    @classmethod
    def _may_set_in_responses(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_names(value, untouchable)
        return value

    @field_validator("remove_request_headers", "remove_response_headers")
    @classmethod
    def _may_remove(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        reasons = ((index, untouchable(header)) for index, header in enumerate(value))
        faults_at(((index,), reason) for index, reason in reasons if reason is not None)
        return value

    @field_validator("access")
    @classmethod
    def _hosts_among(cls, value: RouteAccessSection | None, info: ValidationInfo) -> RouteAccessSection | None:
        rules, match = known(info).access, info.data.get("match")
        if value is not None and value.allowed_hosts is not None and rules is not None and match is not None:
            own = () if match.host is None else (match.host.encode("ascii"),)
            listed = (*rules.allowed_hosts, *own)
            faults_at(
                (
                    ("allowed_hosts", index),
                    "is not among the gateway's access.allowed_hosts; a route may only narrow them",
                )
                for index, host in enumerate(value.allowed_hosts)
                if not covers(listed, host)
            )
        return value


def _check_names(headers: dict[str, Any], reason_against: Any) -> None:
    reasons = ((header, reason_against(header)) for header in headers)
    faults_at((((header,), reason) for header, reason in reasons if reason is not None), of_keys=True)
    faults_at((((header,), "is given twice, in other letters") for header in duplicates(headers)), of_keys=True)
