"""The values that a configuration means: every key arrives where the gateway reads it."""

from base64 import b64encode
from dataclasses import fields, is_dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.gateway.settings import (
    AccessRules,
    BrowserRequests,
    Limits,
    LogFormat,
    LogLevel,
    LogSettings,
    RequiredHeader,
    Settings,
    TcpAddress,
    UnixAddress,
)
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod, HttpProxy, Registration
from proxy.routing import (
    ClientAuthorization,
    Forwarding,
    HostHeader,
    LiteralHost,
    Match,
    OnUnauthorized,
    PathPolicy,
    RateLimit,
    Retries,
    Route,
    RouteName,
    Timeouts,
    UnderscoreFields,
)
from proxy.secret import FixedSecret, OverlappingSecrets, Secret, SecretFile
from proxy.tls import ServerTlsSettings, TlsSettings
from proxy.tokens.access_token import CredentialName
from proxy.tokens.lifetime import Backoff, RefreshPolicy
from proxy.tokens.source import CredentialSettings
from proxy.tokens.static_source import StaticCredential
from proxy.upstream.origin import Origin
from proxy.upstream.pool import PoolLimits
from tests.config.written import CREDENTIAL, MINIMAL, loaded

FULL = """\
version: 1
listen: [0.0.0.0:8080, unix:/run/gateway.sock]
admin: off
workers: 1
shutdown_delay: 5s
drain_timeout: 1m
tls: {cert_file: /s.pem, key_file: /s.key, client_ca_file: clients.pem}
access:
  allowed_hosts: Gateway, "[::1]"
  allowed_clients: 10.0.0.0/8, ::1
  browser_requests: allow
  allowed_origins: [https://App.example]
  require_header: {name: X-Gateway-Key, value_file: /run/secrets/gateway-key}
  trusted_proxies: [10.0.0.5]
limits:
  head_bytes: 16KiB
  field_count: 50
  body_bytes: 1MiB
  connections: 500
  connections_per_client: 5
  head_timeout: 1s
  body_idle_timeout: 2s
  write_idle_timeout: 3s
  keepalive_timeout: 4s
credentials:
  full:
    token_url: http://as.example/token?tenant=1
    allow_plain_http: true
    grant_type: client_credentials
    client_id: 00123
    client_secret: no
    token_endpoint_auth_method: client_secret_post
    basic_form_encoding: false
    scopes: [b, a]
    audience: aud
    resource: [https://b.example, https://a.example]
    endpoint_params: {tenant: 0x1F, b: true}
    token_request_headers: {X-Tenant: t1, X-Key: {value_file: key}}
    timeout: 500ms
    tls: {ca_file: ca.pem, cert_file: /c.pem, key_file: /k.pem, server_name: as.internal, min_version: 1.3}
    refresh: {at_ratio: 0.5, jitter: 0.2, before_expiry: 2m}
    expiry_buffer: 0s
    default_lifetime: 1m
    max_lifetime: 1h
    backoff: {initial: 2s, max: 30s, max_without_token: 3s}
    required: false
  plain:
    token_endpoint: https://as.example/token
    client_id: plain
    client_secret_file: secrets/plain
    scope: a b
  signed:
    issuer: https://as.example
    token_endpoint_auth_method: private_key_jwt
    client_id: signed
    private_key_file: secrets/key.pem
    key_id: k-1
    signing_alg: PS256
    assertion_audience: token_endpoint
    assertion_lifetime: 2m
    assertion_typ: JWT
    proxy_url: http://gate%20way:p%3Aw@Proxy.example:3128/
  handed:
    token_endpoint: https://as.example/token
    token_endpoint_auth_method: private_key_jwt
    client_id: handed
    client_assertion_file: /run/assertion
  certified:
    token_endpoint: https://as.example/token
    token_endpoint_auth_method: tls_client_auth
    client_id: certified
    tls: {cert_file: /c.pem, key_file: /k.pem}
  fixed: {grant_type: static, access_token_file: /run/token, required: false}
routes:
  - name: full
    match: {host: "*.Api.example", path_prefix: /orders, methods: "GET, POST"}
    upstream: http://API.internal:8080/v1/
    strip_prefix: true
    credential: full
    client_authorization: refuse
    header_name: X-Token
    host_header: api.example:8443
    forwarding: {via: false, x_forwarded: false}
    rewrite_location: false
    set_request_headers: {X-Team: legacy, X-Key: {value_file: /run/key}, X-Forwarded-For: x}
    remove_request_headers: [Cookie, X-A]
    set_response_headers: {Cache-Control: {value: private}}
    remove_response_headers: Server
    path_policy: raw
    underscore_fields: drop
    on_unauthorized: {replay: false, max_replay_body: 1KiB}
    timeouts: {token: 1s, connect: 2s, first_byte: 3s, idle: 4s, tunnel_idle: 9s, total: 5s}
    retries: {connect: 1, budget: 0.5}
    pool: {max_connections: 10, max_idle: 5, idle_timeout: 6s, reuse: false, max_pending: 7, pending_timeout: 8s}
    tls: {ca_file: /ca, cert_file: /c, key_file: /k, server_name: api.internal, min_version: "1.3"}
    rate_limit: {requests_per_second: 2.5}
    allow_plain_http: true
    access: {allowed_clients: [10.1.0.0/16], browser_requests: refuse}
    limits: {body_bytes: 0}
  - name: public
    match: {path_exact: /health}
    upstream: https://api.example
    credential: none
    client_authorization: pass
    host_header: client
    rate_limit: {requests_per_second: 1, burst: 9}
log: {format: json, level: debug, access: false, query: keep}
"""


def full() -> Settings:
    Path("full.yaml").write_text(FULL.replace('Gateway, "[::1]"', "'Gateway, [::1]'"))
    return load(Path("full.yaml"), environ={}, check_files=False).settings


def test_every_key():
    """Each arrives, in the gateway's own types, units and order."""
    settings = full()
    gateway_access = AccessRules(
        allowed_hosts=(b"gateway", b"[::1]"),
        allowed_clients=(ip_network("10.0.0.0/8"), ip_network("::1/128")),
        browser_requests=BrowserRequests.ALLOW,
        allowed_origins=(b"https://app.example",),
        required_header=RequiredHeader(name=b"X-Gateway-Key", value=SecretFile(Path("/run/secrets/gateway-key"))),
        trusted_proxies=(ip_network("10.0.0.5/32"),),
    )
    credentials = (
        CredentialSettings(
            name=CredentialName("full"),
            registration=Registration(
                token_endpoint="http://as.example/token?tenant=1",
                client_id="00123",
                client_secret=FixedSecret(Secret("no")),
                method=ClientAuthMethod.CLIENT_SECRET_POST,
                basic_form_encoding=False,
                scope="b a",
                audience="aud",
                resource=("https://b.example", "https://a.example"),
                endpoint_params=(("tenant", "0x1F"), ("b", "true")),
                token_request_headers=(("X-Tenant", FixedSecret(Secret("t1"))), ("X-Key", SecretFile(Path("key")))),
                timeout_s=0.5,
                tls=TlsSettings(
                    ca_file=Path("ca.pem"), cert_file=Path("/c.pem"), key_file=Path("/k.pem"),
                    server_name="as.internal", min_version="1.3",
                ),
                allow_plain_http=True,
            ),
            refresh=RefreshPolicy(
                at_ratio=0.5, jitter=0.2, before_expiry_s=120.0, expiry_buffer_s=0.0, default_lifetime_s=60.0, max_lifetime_s=3600.0
            ),
            backoff=Backoff(initial_s=2.0, max_s=30.0, max_without_token_s=3.0),
            required=False,
        ),
        CredentialSettings(
            name=CredentialName("plain"),
            registration=Registration(
                token_endpoint="https://as.example/token",
                client_id="plain",
                client_secret=SecretFile(Path("secrets/plain")),
                scope="a b",
            ),
        ),
        CredentialSettings(
            name=CredentialName("signed"),
            registration=Registration(
                issuer="https://as.example",
                client_id="signed",
                method=ClientAuthMethod.PRIVATE_KEY_JWT,
                private_key=SecretFile(Path("secrets/key.pem")),
                assertion=AssertionSettings(
                    key_id="k-1", algorithm="PS256", audience="token_endpoint", lifetime_s=120.0, typ="JWT"
                ),
                proxy=HttpProxy(
                    url="http://Proxy.example:3128",
                    authorization=Secret("Basic " + b64encode(b"gate way:p:w").decode()),
                ),
            ),
        ),
        CredentialSettings(
            name=CredentialName("handed"),
            registration=Registration(
                token_endpoint="https://as.example/token",
                client_id="handed",
                method=ClientAuthMethod.PRIVATE_KEY_JWT,
                client_assertion=SecretFile(Path("/run/assertion")),
            ),
        ),
        CredentialSettings(
            name=CredentialName("certified"),
            registration=Registration(
                token_endpoint="https://as.example/token",
                client_id="certified",
                method=ClientAuthMethod.TLS_CLIENT_AUTH,
                tls=TlsSettings(cert_file=Path("/c.pem"), key_file=Path("/k.pem")),
            ),
        ),
        StaticCredential(
            name=CredentialName("fixed"), access_token=SecretFile(Path("/run/token")), required=False
        ),
    )  # fmt: skip
    routes = (
        Route(
            name=RouteName("full"),
            match=Match(host="*.api.example", path_prefix=b"/orders", methods=frozenset({b"GET", b"POST"})),
            upstream=Origin("http", "api.internal", 8080),
            base_path=b"/v1/",
            strip_prefix=True,
            credential=CredentialName("full"),
            client_authorization=ClientAuthorization.REFUSE,
            header_name=b"X-Token",
            host_header=LiteralHost(b"api.example:8443"),
            forwarding=Forwarding(via=False, x_forwarded=False),
            rewrite_location=False,
            set_request_headers=(
                (b"X-Team", FixedSecret(Secret("legacy"))),
                (b"X-Key", SecretFile(Path("/run/key"))),
                (b"X-Forwarded-For", FixedSecret(Secret("x"))),
            ),
            remove_request_headers=frozenset({b"cookie", b"x-a"}),
            set_response_headers=((b"Cache-Control", FixedSecret(Secret("private"))),),
            remove_response_headers=frozenset({b"server"}),
            path_policy=PathPolicy.RAW,
            underscore_fields=UnderscoreFields.DROP,
            on_unauthorized=OnUnauthorized(replay=False, max_replay_body=1024),
            timeouts=Timeouts(token_s=1.0, connect_s=2.0, first_byte_s=3.0, idle_s=4.0, tunnel_idle_s=9.0, total_s=5.0),
            retries=Retries(connect=1, budget=0.5),
            pool=PoolLimits(
                max_connections=10, max_idle=5, idle_timeout_s=6.0, reuse=False, max_pending=7, pending_timeout_s=8.0
            ),
            tls=TlsSettings(
                ca_file=Path("/ca"), cert_file=Path("/c"), key_file=Path("/k"), server_name="api.internal", min_version="1.3"
            ),
            rate_limit=RateLimit(requests_per_second=2.5, burst=3),
        ),
        Route(
            name=RouteName("public"),
            match=Match(path_exact=b"/health"),
            upstream=Origin("https", "api.example", 443),
            credential=None,
            client_authorization=ClientAuthorization.PASS,
            host_header=HostHeader.CLIENT,
            rate_limit=RateLimit(requests_per_second=1.0, burst=9),
        ),
    )  # fmt: skip
    expected = Settings(
        listen=(TcpAddress("0.0.0.0", 8080), UnixAddress(Path("/run/gateway.sock"))),
        admin=None,
        access=gateway_access,
        limits=Limits(
            head_bytes=16384, field_count=50, body_bytes=1048576, connections=500, connections_per_client=5, head_timeout_s=1.0,
            body_idle_timeout_s=2.0, write_idle_timeout_s=3.0, keepalive_timeout_s=4.0,
        ),
        log=LogSettings(format=LogFormat.JSON, level=LogLevel.DEBUG, access=False, redact_query=False),
        credentials=credentials,
        routes=routes,
        route_access={
            RouteName("full"): AccessRules(
                allowed_hosts=(b"gateway", b"[::1]", b"*.api.example"),
                allowed_clients=(ip_network("10.1.0.0/16"),),
                browser_requests=BrowserRequests.REFUSE,
                allowed_origins=gateway_access.allowed_origins,
                required_header=gateway_access.required_header,
                trusted_proxies=gateway_access.trusted_proxies,
            )
        },
        route_body_bytes={RouteName("full"): 0},
        tls=ServerTlsSettings(
            cert_file=Path("/s.pem"), key_file=Path("/s.key"), client_ca_file=Path("clients.pem")
        ),
        shutdown_delay_s=5.0,
        drain_timeout_s=60.0,
    )  # fmt: skip

    assert settings == expected


def test_the_full_example_leaves_no_key_at_its_default():
    """So that a key which is read by nobody would be seen above."""
    minimal = loaded(MINIMAL).settings
    rich, poor = full(), minimal

    def same(one, other, path):
        if is_dataclass(one) and type(one) is type(other):
            return [
                p for f in fields(one) for p in same(getattr(one, f.name), getattr(other, f.name), f"{path}.{f.name}")
            ]
        return [path] if one == other else []

    alike = same(rich, poor, "settings") + same(rich.routes[0], poor.routes[0], "route")
    asking = [credential for credential in rich.credentials if isinstance(credential, CredentialSettings)]
    in_all = [set(same(credential, poor.credentials[0], "credential")) for credential in asking]
    alike += sorted(set.intersection(*in_all))
    assert alike == ["route.match.path_prefix", "route.match.path_exact"]


def test_the_defaults():
    """Those of the file are those of the gateway's own values: they are written down twice, and compared here."""
    settings = loaded(MINIMAL).settings
    (credential,), (route,) = settings.credentials, settings.routes

    assert settings.listen == (TcpAddress("127.0.0.1", 8080),)
    assert settings.admin == TcpAddress("127.0.0.1", 9464)
    assert (settings.access, settings.limits, settings.log) == (AccessRules(), Limits(), LogSettings())
    assert (settings.shutdown_delay_s, settings.drain_timeout_s) == (0.0, 20.0)
    assert (settings.route_access, settings.route_body_bytes) == ({}, {})
    assert credential == CredentialSettings(
        name=CredentialName("orders"),
        registration=Registration(
            token_endpoint="https://as.example/token",
            client_id="legacy-app",
            client_secret=FixedSecret(Secret("the-secret")),
        ),
    )
    assert route == Route(
        name=RouteName("orders"),
        match=Match(path_prefix=b"/orders"),
        upstream=Origin("https", "api.example", 443),
        base_path=b"/v1",
        credential=CredentialName("orders"),
    )


def test_a_route_without_a_credential():
    """The client's own Authorization does not reach the upstream by default."""
    (route,) = loaded(MINIMAL.replace("credential: orders", "credential: none")).settings.routes
    assert route.credential is None
    assert route.client_authorization is ClientAuthorization.REMOVE


def test_a_host_alone():
    """Is for every path."""
    settings = loaded(MINIMAL.replace("path_prefix: /orders", "host: Api.example")).settings
    assert settings.routes[0].match == Match(host="api.example")


def test_a_configuration_without_credentials():
    """The section may be absent."""
    route = MINIMAL.removeprefix(CREDENTIAL).replace("credential: orders", "credential: none")
    assert loaded(route).settings.credentials == ()


def test_no_scopes():
    """An empty list asks for none."""
    text = MINIMAL.replace("client_id: legacy-app", "client_id: legacy-app\n    scopes: []")
    assert loaded(text).settings.credentials[0].registration.scope is None


def test_what_is_loaded_shows_no_secret():
    """Neither do the settings nor the way they came to be."""
    result = loaded(MINIMAL + "    set_request_headers: {X-Key: '${KEY}'}\n", SECRET="c4n4ry-one", KEY="c4n4ry-two")
    shown = (
        repr(result)
        + str(result)
        + repr(result.document)
        + repr(result.document.configuration)
        + repr(result.document.root)
    )
    assert "c4n4ry" not in shown


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ("client_secret: [a, b]", OverlappingSecrets((FixedSecret(Secret("a")), FixedSecret(Secret("b"))))),
        ("client_secret: [a, '${NEXT:-}']", FixedSecret(Secret("a"))),
        ("client_secret: [a]", FixedSecret(Secret("a"))),
        ("client_secret_file: [/dev/null, /dev/zero]", OverlappingSecrets((SecretFile(Path("/dev/null")), SecretFile(Path("/dev/zero"))))),
    ],
)  # fmt: skip
def test_the_current_and_the_next_secret(given, source):
    """Both are there to be tried; a variable that is not set makes no second one."""
    read = loaded(MINIMAL.replace("client_secret: ${SECRET}", given)).settings
    assert read.credentials[0].registration.client_secret == source
