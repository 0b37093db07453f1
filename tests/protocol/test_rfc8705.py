"""RFC 8705: clients that show a certificate; statements 33 to 36."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.oauth.metadata import parse
from proxy.oauth.registration import ClientAuthMethod
from proxy.tls import TlsSettings
from tests.config.test_proofs import BY_CERTIFICATE, credential
from tests.config.written import faults
from tests.oauth.certificates import SelfSigned, self_signed
from tests.oauth.registrations import registration
from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.support.scripted_upstream import ScriptedUpstream, always, ok
from tests.tokens.kept import WAIT_S, kept, settings

METHODS = [method for method in ClientAuthMethod if method.by_certificate]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> tuple[SelfSigned, SelfSigned]:
    """A server's certificate and a client's."""
    folder = tmp_path_factory.mktemp("pairs")
    return self_signed(folder, "as"), self_signed(folder, "legacy", host="DNS:legacy.example")


def shown(pairs, **more) -> TlsSettings:
    server, client = pairs
    files = {"cert_file": client.cert_file, "key_file": client.key_file, **more}
    return TlsSettings(ca_file=server.cert_file, **files)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"P33-{method}")
async def test_a_certificate_and_a_client_id(client, pairs, method):
    """§2: the handshake shows the certificate, the form the id; no secret, no Basic, no assertion."""
    context = pairs[0].server_context(client_ca=pairs[1].cert_file)
    async with ScriptedAuthorizationServer(tls=context) as server:
        await client.request(registration(server.url, method=method, tls=shown(pairs)))
    (request,) = server.requests
    assert request.form == [("grant_type", "client_credentials"), ("client_id", "legacy-app")]
    assert request.values("authorization") == []


@pytest.mark.parametrize(
    ("method", "endpoint"),
    [
        (ClientAuthMethod.TLS_CLIENT_AUTH, "https://mtls.as.example/token"),
        (ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH, "https://mtls.as.example/token"),
        (ClientAuthMethod.CLIENT_SECRET_BASIC, "https://as.example/token"),
        (ClientAuthMethod.PRIVATE_KEY_JWT, "https://as.example/token"),
    ],
    ids=lambda value: f"P34-{value}",
)
def test_the_endpoint_for_certificates(method, endpoint):
    """§5: where it is published, it is the one for clients that show one, and for nobody else."""
    asked = registration(None, issuer="https://as.example", method=method)
    document = {
        "issuer": "https://as.example",
        "token_endpoint": "https://as.example/token",
        "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.as.example/token"},
    }
    assert parse(200, json.dumps(document).encode(), asked).endpoint_for(asked) == endpoint
    del document["mtls_endpoint_aliases"]
    assert parse(200, json.dumps(document).encode(), asked).endpoint_for(asked) == "https://as.example/token"


async def test_P35_the_same_certificate_towards_the_upstream(pairs, tmp_path):
    """§3: a route shows the certificate that its `tls` names, so that a token bound to it is good there."""
    context = pairs[0].server_context(client_ca=pairs[1].cert_file)
    files = f"tls: {{ca_file: {pairs[0].cert_file}, cert_file: {pairs[1].cert_file}, key_file: {pairs[1].key_file}}}"
    async with (
        ScriptedAuthorizationServer(tls=context) as server,
        ScriptedUpstream(always(ok()), ssl=context) as upstream,
    ):
        text = f"""\
listen: 127.0.0.1:0
admin: off
credentials:
  bound: {{token_endpoint: {server.url}, client_id: a, token_endpoint_auth_method: tls_client_auth, {files}}}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: 'https://127.0.0.1:{upstream.port}', credential: bound, {files}}}
"""
        async with running_gateway(text, tmp_path) as gateway:
            answer = await ask(gateway.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.status == 200
        assert b"Bearer at-1" in upstream.connections[0].received


def test_P36_a_certificate_that_cannot_be_loaded(pairs):
    """An error at start, and never a connection without it."""
    Path("empty").write_text("x")
    tls = f"tls: {{cert_file: {pairs[1].cert_file}, key_file: {pairs[0].key_file}}}"
    assert "cannot be used" in faults(credential(BY_CERTIFICATE + tls))[0]
    assert "cannot be used" in faults(credential(BY_CERTIFICATE + "tls: {cert_file: empty}"))[0]


async def test_P36_a_certificate_that_is_rotated(pairs, tmp_path):
    """The token that may be bound to the former one is renewed at once, with the new one."""
    cert, key = tmp_path / "cert", tmp_path / "key"
    made = [self_signed(tmp_path, name, host="DNS:legacy.example") for name in ("first", "second")]
    trusted = tmp_path / "both.pem"
    trusted.write_text("".join(one.cert_file.read_text() for one in made))
    cert.write_text(made[0].cert_file.read_text())
    key.write_text(made[0].key_file.read_text())
    async with ScriptedAuthorizationServer(tls=pairs[0].server_context(client_ca=trusted)) as server:
        tls = shown(pairs, cert_file=cert, key_file=key)
        asks = {"method": ClientAuthMethod.TLS_CLIENT_AUTH, "tls": tls}
        async with kept(server, settings(server, asks=asks)) as running:
            first = await running.source.obtain(WAIT_S)
            key.write_text(made[1].key_file.read_text())
            cert.write_text(made[1].cert_file.read_text())
            await running.clock.advance(10)
            second = await running.source.obtain(WAIT_S)
    assert (first.field_value, second.field_value) == (b"Bearer at-1", b"Bearer at-2")
