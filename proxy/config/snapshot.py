"""The validated configuration as the values that the gateway runs on: ``Settings``, and nothing of pydantic or YAML."""

from __future__ import annotations

import math

from proxy.config.access import gateway_rules, route_rules
from proxy.config.credential import CredentialSection
from proxy.config.network import Url
from proxy.config.route import NO_CREDENTIAL, RouteSection
from proxy.config.schema import Configuration, LimitsSection
from proxy.config.section import HeaderValue, ListenTlsSection, TlsSection, client_secret_source
from proxy.config.static_token import StaticSection
from proxy.gateway.settings import AccessRules, Limits, LogFormat, LogLevel, LogSettings, Settings
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod, Registration
from proxy.routing import (
    ClientAuthorization,
    Forwarding,
    HeaderSet,
    OnUnauthorized,
    PathPolicy,
    RateLimit,
    Retries,
    Route,
    RouteName,
    Timeouts,
    UnderscoreFields,
)
from proxy.secret import SecretFile, SecretSource
from proxy.tls import ServerTlsSettings, TlsSettings
from proxy.tokens.access_token import CredentialName
from proxy.tokens.lifetime import Backoff, RefreshPolicy
from proxy.tokens.source import CredentialSettings
from proxy.tokens.static_source import StaticCredential
from proxy.upstream.pool import PoolLimits


def settings(given: Configuration) -> Settings:
    """Returns the settings that a configuration means. Raises ConfigurationError if a value refuses to be built."""
    access = gateway_rules(given.access)
    routes = tuple(_route(section) for section in given.routes)
    return Settings(
        listen=given.listen,
        admin=given.admin,
        tls=None if given.tls is None else _listen_tls(given.tls),
        access=access,
        limits=_limits(given.limits),
        log=LogSettings(
            format=LogFormat(given.log.format),
            level=LogLevel(given.log.level),
            access=given.log.access,
            redact_query=given.log.query == "redact",
        ),
        credentials=tuple(_credential(name, section) for name, section in given.credentials.items()),
        routes=routes,
        route_access=_route_access(given, access),
        route_body_bytes={
            RouteName(section.name): section.limits.body_bytes
            for section in given.routes
            if section.limits.body_bytes is not None
        },
        shutdown_delay_s=given.shutdown_delay,
        drain_timeout_s=given.drain_timeout,
    )


def _route_access(given: Configuration, gateway: AccessRules) -> dict[RouteName, AccessRules]:
    hosts = tuple(section.match.host.encode("ascii") for section in given.routes if section.match.host is not None)
    return {
        RouteName(section.name): route_rules(section.access, gateway, hosts)
        for section in given.routes
        if section.access is not None
    }


def _limits(given: LimitsSection) -> Limits:
    return Limits(
        head_bytes=given.head_bytes,
        field_count=given.field_count,
        body_bytes=given.body_bytes,
        connections=given.connections,
        connections_per_client=given.connections_per_client,
        head_timeout_s=given.head_timeout,
        body_idle_timeout_s=given.body_idle_timeout,
        write_idle_timeout_s=given.write_idle_timeout,
        keepalive_timeout_s=given.keepalive_timeout,
    )


def _credential(name: str, given: CredentialSection | StaticSection) -> CredentialSettings | StaticCredential:
    if isinstance(given, StaticSection):
        return StaticCredential(
            name=CredentialName(name), access_token=SecretFile(given.access_token_file), required=given.required
        )
    endpoint = given.token_endpoint or given.token_url
    registration = Registration(
        token_endpoint=None if endpoint is None else endpoint.text,
        issuer=None if given.issuer is None else given.issuer.text,
        client_id=given.client_id,
        method=ClientAuthMethod(given.token_endpoint_auth_method),
        client_secret=_client_secret(given),
        private_key=None if given.private_key_file is None else SecretFile(given.private_key_file),
        client_assertion=None if given.client_assertion_file is None else SecretFile(given.client_assertion_file),
        assertion=AssertionSettings(
            key_id=given.key_id,
            algorithm=given.signing_alg,
            audience=given.assertion_audience,
            lifetime_s=given.assertion_lifetime,
            typ=given.assertion_typ,
        ),
        basic_form_encoding=given.basic_form_encoding,
        scope=" ".join(given.scopes) or None if given.scopes is not None else given.scope,
        audience=given.audience,
        resource=given.resource,
        endpoint_params=tuple(given.endpoint_params.items()),
        token_request_headers=tuple((name, value.source()) for name, value in given.token_request_headers.items()),
        timeout_s=given.timeout,
        tls=None if given.tls is None else _tls(given.tls),
        proxy=given.proxy_url,
        allow_plain_http=given.allow_plain_http,
    )
    return CredentialSettings(
        name=CredentialName(name),
        registration=registration,
        refresh=RefreshPolicy(
            at_ratio=given.refresh.at_ratio,
            jitter=given.refresh.jitter,
            before_expiry_s=given.refresh.before_expiry,
            expiry_buffer_s=given.expiry_buffer,
            default_lifetime_s=given.default_lifetime,
            max_lifetime_s=given.max_lifetime,
        ),
        backoff=Backoff(
            initial_s=given.backoff.initial,
            max_s=given.backoff.max,
            max_without_token_s=given.backoff.max_without_token,
        ),
        required=given.required,
    )


def _client_secret(given: CredentialSection) -> SecretSource | None:
    if given.client_secret is None and given.client_secret_file is None:
        return None
    return client_secret_source(given.client_secret, given.client_secret_file)


def _route(given: RouteSection) -> Route:
    return Route(
        name=RouteName(given.name),
        match=given.match.domain(),
        upstream=given.upstream.origin,
        base_path=_base_path(given.upstream),
        strip_prefix=given.strip_prefix,
        credential=None if given.credential == NO_CREDENTIAL else CredentialName(given.credential),
        client_authorization=_client_authorization(given),
        header_name=given.header_name.encode("ascii"),
        host_header=given.host_header,
        forwarding=Forwarding(via=given.forwarding.via, x_forwarded=given.forwarding.x_forwarded),
        rewrite_location=given.rewrite_location,
        set_request_headers=_headers(given.set_request_headers),
        remove_request_headers=_names(given.remove_request_headers),
        set_response_headers=_headers(given.set_response_headers),
        remove_response_headers=_names(given.remove_response_headers),
        path_policy=PathPolicy(given.path_policy),
        underscore_fields=UnderscoreFields(given.underscore_fields),
        on_unauthorized=OnUnauthorized(
            replay=given.on_unauthorized.replay, max_replay_body=given.on_unauthorized.max_replay_body
        ),
        timeouts=Timeouts(
            token_s=given.timeouts.token,
            connect_s=given.timeouts.connect,
            first_byte_s=given.timeouts.first_byte,
            idle_s=given.timeouts.idle,
            tunnel_idle_s=given.timeouts.tunnel_idle,
            total_s=given.timeouts.total,
        ),
        retries=Retries(connect=given.retries.connect, budget=given.retries.budget),
        pool=PoolLimits(
            max_connections=given.pool.max_connections,
            max_idle=given.pool.max_idle,
            idle_timeout_s=given.pool.idle_timeout,
            reuse=given.pool.reuse,
            max_pending=given.pool.max_pending,
            pending_timeout_s=given.pool.pending_timeout,
        ),
        tls=None if given.tls is None else _tls(given.tls),
        rate_limit=_rate_limit(given),
    )


def _base_path(upstream: Url) -> bytes:
    return upstream.path.encode("ascii")


def _client_authorization(given: RouteSection) -> ClientAuthorization:
    if given.client_authorization is not None:
        return given.client_authorization
    return ClientAuthorization.REMOVE if given.credential == NO_CREDENTIAL else ClientAuthorization.REPLACE


def _headers(given: dict[str, HeaderValue]) -> HeaderSet:
    return tuple((name.encode("ascii"), value.source()) for name, value in given.items())


def _names(given: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.lower().encode("ascii") for name in given)


def _tls(given: TlsSection) -> TlsSettings:
    return TlsSettings(
        ca_file=given.ca_file,
        cert_file=given.cert_file,
        key_file=given.key_file,
        server_name=given.server_name,
        min_version="1.3" if given.min_version == "1.3" else "1.2",
    )


def _listen_tls(given: ListenTlsSection) -> ServerTlsSettings:
    return ServerTlsSettings(cert_file=given.cert_file, key_file=given.key_file, client_ca_file=given.client_ca_file)


def _rate_limit(given: RouteSection) -> RateLimit | None:
    limit = given.rate_limit
    if limit is None:
        return None
    burst = max(1, math.ceil(limit.requests_per_second)) if limit.burst is None else limit.burst
    return RateLimit(requests_per_second=limit.requests_per_second, burst=burst)
