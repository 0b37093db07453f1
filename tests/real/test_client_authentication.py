"""Every way to prove who the client is, with a certified authorization server over TLS that others wrote.

Its token endpoint is discovered from its issuer; each token is introspected by the API that gets it. What can be had of
another lineage, assertions and discovery, is tried with Authlib's server too.
"""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwk

from proxy.clock import SystemClock
from proxy.oauth.assertion import ASSERTION_TYPE, signed, signing_key
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod
from proxy.secret import Secret
from tests.oauth.certificates import self_signed
from tests.real.authorization_servers import AuthorizationServer, Client, ServerTls, authlib_server, oidc_provider
from tests.real.introspecting_api import AUDIENCE, IntrospectingApi
from tests.support import program
from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.upstream.certificates import Authority

SECRETS = {
    "plain": "correct-horse-battery-staple-and-32-octets",
    "all": ': + % / = & ~ " ; , \\ ? # @ $ ! * ( ) and more',
}
KEYS: dict[str, Any] = {
    "RS256": (rsa.generate_private_key(65537, 2048), "RSA"),
    "PS256": (rsa.generate_private_key(65537, 2048), "RSA"),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), "EC"),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), "OKP"),
}
CERTIFICATE_METHODS = ("tls_client_auth", "self_signed_tls_client_auth")


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_jwk(algorithm: str) -> dict[str, Any]:
    key, kind = KEYS[algorithm]
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {**jwk.import_key(text, kind).as_dict(), "kid": f"key-{algorithm}", "use": "sig"}


def certificate_jwk(file: Path) -> dict[str, Any]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    text = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = b64encode(certificate.public_bytes(Encoding.DER)).decode()
    return {**jwk.import_key(text, "EC").as_dict(), "x5c": [der]}


@dataclass(frozen=True)
class World:
    """The server, and the files by which its clients prove themselves."""

    server: AuthorizationServer
    authority: Authority
    folder: Path

    def credential(self, *lines: str) -> str:
        """Returns the lines of a credential at the server's issuer."""
        given = [f"issuer: {self.server.issuer}", *lines]
        if not any(line.startswith("tls:") for line in lines):
            given.append(f"tls: {{ca_file: {self.authority.file}}}")
        return "\n".join(f"    {line}" for line in given)

    def with_certificate(self, name: str) -> str:
        """Returns a section `tls` that shows a client certificate."""
        folder = self.folder
        return f"tls: {{ca_file: {self.authority.file}, cert_file: {folder / name}.pem, key_file: {folder / name}.key}}"


def clients(self_signed_certificate: Path) -> list[Client]:
    made = [
        Client(client_id=f"{name}-{method}", client_secret=secret, method=method)
        for name, secret in SECRETS.items()
        for method in ("client_secret_basic", "client_secret_post", "client_secret_jwt")
    ]
    made += [
        Client(
            client_id=f"key-{algorithm}",
            client_secret="",
            method="private_key_jwt",
            metadata={"jwks": {"keys": [public_jwk(algorithm)]}, "token_endpoint_auth_signing_alg": algorithm},
        )
        for algorithm in KEYS
    ]
    for bound in (False, True):
        more = {"tls_client_certificate_bound_access_tokens": bound}
        suffix = "-bound" if bound else ""
        made += [
            Client(
                client_id=f"tls_client_auth{suffix}",
                client_secret="",
                method="tls_client_auth",
                metadata={"tls_client_auth_subject_dn": "CN=legacy.example", **more},
            ),
            Client(
                client_id=f"self_signed_tls_client_auth{suffix}",
                client_secret="",
                method="self_signed_tls_client_auth",
                metadata={"jwks": {"keys": [certificate_jwk(self_signed_certificate)]}, **more},
            ),
        ]
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    authority = Authority(folder)
    shown = authority.pair("127.0.0.1")
    authority.pair("legacy.example", file="tls_client_auth")
    authority.pair("other.example", file="other")
    own = self_signed(folder, "self_signed_tls_client_auth", host="DNS:legacy.example")
    for algorithm, (key, _) in KEYS.items():
        (folder / f"{algorithm}.pem").write_text(pem(key))
    tls = ServerTls(cert_file=shown.cert, key_file=shown.key, ca_file=authority.file, client_ca_file=authority.file)
    with oidc_provider(clients(own.cert_file), folder, tls=tls) as server:
        yield World(server, authority, folder)


@pytest.fixture
async def api(world: World) -> AsyncIterator[IntrospectingApi]:
    async with IntrospectingApi(world.server) as running:
        yield running


def configuration(credential: str, upstream: str, *route: str) -> str:
    lines = "\n".join(f"    {line}" for line in route)
    return f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  real:
{credential}
routes:
  - name: all
    match: {{path_prefix: /}}
    upstream: {upstream}
    credential: real
{lines}
"""


async def told(text: str, folder: Path, **environ: str) -> dict[str, Any]:
    """Returns what the API says of the token that a request through the gateway brings it."""
    async with running_gateway(text, folder, environ=environ) as gateway:
        answer = await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


# ---- a secret


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "client_secret_jwt"])
@pytest.mark.parametrize("name", SECRETS)
async def test_a_secret(world: World, api: IntrospectingApi, tmp_path: Path, name: str, method: str):
    """Whatever it holds, sent or used to sign, with the endpoint discovered."""
    lines = (f"client_id: {name}-{method}", "client_secret: ${SECRET}", f"token_endpoint_auth_method: {method}")
    answer = await told(configuration(world.credential(*lines), api.url), tmp_path, SECRET=SECRETS[name])
    assert (answer["client_id"], api.refused) == (f"{name}-{method}", 0)


async def test_a_wrong_secret_that_signs(world: World, api: IntrospectingApi, tmp_path: Path):
    """The server refuses the assertion, and the operator learns what to look at; nobody learns what was sent."""
    lines = (
        "client_id: plain-client_secret_jwt",
        "client_secret: ${SECRET}",
        "token_endpoint_auth_method: client_secret_jwt",
    )
    (tmp_path / "proxy.yaml").write_text(configuration(world.credential(*lines), api.url))
    wrong = "a-wrong-secret-with-32-octets-or-more-of-it"
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path, env={"SECRET": wrong})
    assert (ended.code, ended.out) == (1, "")
    assert "invalid_client" in ended.err
    assert "assertion_audience" in ended.err
    assert "eyJ" not in ended.err
    assert wrong not in ended.err


# ---- a private key


def by_key(world: World, algorithm: str, *more: str, client: str = "") -> str:
    return world.credential(
        f"client_id: key-{client or algorithm}",
        "token_endpoint_auth_method: private_key_jwt",
        f"private_key_file: {world.folder / algorithm}.pem",
        *more,
    )


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_private_key(world: World, api: IntrospectingApi, tmp_path: Path, algorithm: str):
    """Each algorithm, with the key's name."""
    credential = by_key(world, algorithm, f"signing_alg: {algorithm}", f"key_id: key-{algorithm}")
    answer = await told(configuration(credential, api.url), tmp_path)
    assert (answer["client_id"], api.refused) == (f"key-{algorithm}", 0)


async def test_a_private_key_as_a_jwk(world: World, api: IntrospectingApi, tmp_path: Path):
    """Its `kid` and `alg` are taken from it."""
    key, kind = KEYS["PS256"]
    members = jwk.import_key(pem(key), kind).as_dict(private=True)
    (tmp_path / "key.jwk").write_text(json.dumps({**members, "kid": "key-PS256", "alg": "PS256"}))
    credential = world.credential(
        "client_id: key-PS256",
        "token_endpoint_auth_method: private_key_jwt",
        f"private_key_file: {tmp_path / 'key.jwk'}",
    )
    assert (await told(configuration(credential, api.url), tmp_path))["client_id"] == "key-PS256"


@pytest.mark.parametrize("audience", ["issuer", "token_endpoint", None])
async def test_an_audience(world: World, api: IntrospectingApi, tmp_path: Path, audience: str | None):
    """The server takes its issuer and its token endpoint; another text goes as it is, and is refused."""
    line = f"assertion_audience: {audience or 'https://other.example'}"
    text = configuration(by_key(world, "ES256", line), api.url)
    if audience is not None:
        assert (await told(text, tmp_path))["client_id"] == "key-ES256"
        return
    (tmp_path / "proxy.yaml").write_text(text)
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)
    assert ended.code == 1
    assert "invalid_client" in ended.err


async def test_a_key_that_is_not_registered(world: World, api: IntrospectingApi, tmp_path: Path):
    """The server refuses it, and the hint names the key's public half."""
    (tmp_path / "proxy.yaml").write_text(configuration(by_key(world, "RS256", client="PS256"), api.url))
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)
    assert ended.code == 1
    assert "public half" in ended.err


async def test_a_key_that_is_rotated(world: World, api: IntrospectingApi, tmp_path: Path):
    """The file is read again: the next token request is signed with the new key, without a restart."""
    file = tmp_path / "key.pem"
    file.write_text(pem(ec.generate_private_key(ec.SECP256R1())))
    credential = world.credential(
        "client_id: key-ES256", "token_endpoint_auth_method: private_key_jwt", f"private_key_file: {file}"
    )
    async with running_gateway(configuration(credential, api.url), tmp_path) as gateway:
        request = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await ask(gateway.port, request)).status == 503
        file.write_text(pem(KEYS["ES256"][0]))
        for _ in range(100):
            answer = await ask(gateway.port, request)
            if answer.status == 200:
                break
            await SystemClock().sleep(0.1)
    assert answer.status == 200


async def posted(world: World, assertion: str) -> dict[str, Any]:
    """Returns the server's answer to an assertion, sent by another client than ours."""
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
    }
    context = ssl.create_default_context(cafile=world.authority.file)
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.server.token_endpoint, data=form, ssl=context) as reply,
    ):
        return await reply.json()


def assertion(world: World, jti: str) -> str:
    settings = AssertionSettings()
    key = signing_key(Secret(pem(KEYS["ES256"][0])), ClientAuthMethod.PRIVATE_KEY_JWT, settings)
    now = SystemClock().wall()
    audience = world.server.issuer
    return signed(key, settings, client_id="key-ES256", audience=audience, now_wall=now, jti=jti)


async def test_an_assertion_used_twice(world: World, api: IntrospectingApi, tmp_path: Path):
    """The server refuses the second use, so each try needs a new one: and the gateway makes it."""
    first = assertion(world, "used-twice")
    assert "access_token" in await posted(world, first)
    assert (await posted(world, first))["error"] == "invalid_client"
    assert "access_token" in await posted(world, assertion(world, "not-yet-used"))

    (tmp_path / "proxy.yaml").write_text(configuration(by_key(world, "ES256"), api.url))
    for _ in range(2):
        assert (await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)).code == 0


async def test_an_assertion_of_somebody_else(world: World, api: IntrospectingApi, tmp_path: Path):
    """It is read from its file for each token request: the same again is refused, a renewed one is taken."""
    file = tmp_path / "assertion"
    file.write_text(assertion(world, "handed-1") + "\n")
    credential = world.credential(
        "client_id: key-ES256", "token_endpoint_auth_method: private_key_jwt", f"client_assertion_file: {file}"
    )
    text = configuration(credential, api.url)
    assert (await told(text, tmp_path))["client_id"] == "key-ES256"
    again = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)
    assert again.code == 1
    assert "invalid_client" in again.err
    assert file.read_text().strip() not in again.err
    file.write_text(assertion(world, "handed-2"))
    assert (await told(text, tmp_path))["client_id"] == "key-ES256"


# ---- a certificate


@pytest.mark.parametrize("method", CERTIFICATE_METHODS)
async def test_a_certificate(world: World, api: IntrospectingApi, tmp_path: Path, method: str):
    """It is shown to the endpoint that the server publishes for it, and nowhere is a secret."""
    lines = (f"client_id: {method}", f"token_endpoint_auth_method: {method}", world.with_certificate(method))
    answer = await told(configuration(world.credential(*lines), api.url), tmp_path)
    assert (answer["client_id"], answer["bound"], api.refused) == (method, False, 0)


@pytest.mark.parametrize("method", CERTIFICATE_METHODS)
async def test_another_certificate(world: World, api: IntrospectingApi, tmp_path: Path, method: str):
    """One of the same authority, for another name, is refused."""
    lines = (f"client_id: {method}", f"token_endpoint_auth_method: {method}", world.with_certificate("other"))
    (tmp_path / "proxy.yaml").write_text(configuration(world.credential(*lines), api.url))
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path)
    assert ended.code == 1
    assert "invalid_client" in ended.err
    assert "certificate" in ended.err


@pytest.mark.parametrize("method", CERTIFICATE_METHODS)
async def test_a_token_bound_to_a_certificate(world: World, tmp_path: Path, method: str):
    """The API takes it from a route that shows the same certificate, and from no other."""
    pair = world.authority.pair("127.0.0.1", file="api")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.load_verify_locations(world.authority.file)
    context.load_verify_locations(world.folder / "self_signed_tls_client_auth.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    lines = (f"client_id: {method}-bound", f"token_endpoint_auth_method: {method}", world.with_certificate(method))
    async with IntrospectingApi(world.server, tls=context) as api:
        right = configuration(world.credential(*lines), api.url, world.with_certificate(method))
        answer = await told(right, tmp_path)
        assert (answer["client_id"], answer["bound"]) == (f"{method}-bound", True)

        wrong = configuration(world.credential(*lines), api.url, world.with_certificate("other"))
        async with running_gateway(wrong, tmp_path) as gateway:
            refused = await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert refused.status == 401


# ---- a server of another lineage


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizationServer]:
    keys = [
        Client(
            client_id=f"key-{algorithm}",
            client_secret="",
            method="private_key_jwt",
            metadata={"jwks": {"keys": [public_jwk(algorithm)]}},
        )
        for algorithm in ("RS256", "ES256")
    ]
    by_secret = Client(client_id="signing", client_secret=SECRETS["all"], method="client_secret_jwt")
    with authlib_server([*keys, by_secret], tmp_path_factory.mktemp("authlib")) as server:
        yield server


@pytest.mark.parametrize("audience", ["issuer", "token_endpoint"])
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "HS256"])
async def test_assertions_with_authlib(other: AuthorizationServer, tmp_path: Path, algorithm: str, audience: str):
    """A secret's and a key's are taken, once each: two token requests carry two of them."""
    if algorithm == "HS256":
        lines = ["client_id: signing", "token_endpoint_auth_method: client_secret_jwt", "client_secret: ${SECRET}"]
    else:
        (tmp_path / "key.pem").write_text(pem(KEYS[algorithm][0]))
        lines = [f"client_id: key-{algorithm}", "token_endpoint_auth_method: private_key_jwt"]
        lines += [f"private_key_file: {tmp_path / 'key.pem'}", f"key_id: key-{algorithm}"]
    lines += [f"issuer: {other.issuer}", f"assertion_audience: {audience}"]
    async with IntrospectingApi(other) as api:
        text = configuration("\n".join(f"    {line}" for line in lines), api.url)
        for _ in range(2):
            answer = await told(text, tmp_path, SECRET=SECRETS["all"])
        assert (answer["client_id"], api.refused, len(api.tokens)) == (lines[0].split(": ")[1], 0, 2)


# ---- with each of them


async def test_a_token_for_a_resource(world: World, api: IntrospectingApi, tmp_path: Path):
    """Resource indicators go with an assertion as with a secret; the JWT is for the audience that was asked for."""
    credential = by_key(world, "EdDSA", "scope: orders.write", f"resource: [{AUDIENCE}]")
    answer = await told(configuration(credential, api.url), tmp_path)
    assert (answer["client_id"], answer["scope"]) == ("key-EdDSA", "orders.write")
    assert api.tokens[0].count(".") == 2


@pytest.mark.parametrize("command", [("check", "--live"), ("token",), ("call", "/orders")], ids=lambda words: words[0])
async def test_commands(world: World, api: IntrospectingApi, tmp_path: Path, command: tuple[str, ...]):
    """They prove the client as the gateway does, from a process of their own."""
    (tmp_path / "proxy.yaml").write_text(configuration(by_key(world, "RS256"), api.url))
    name, *rest = command
    ended = await program.run(name, "-c", "proxy.yaml", *rest, cwd=tmp_path)
    assert ended.code == 0, ended.err


async def test_an_issuer_that_is_not_quite_right(world: World, api: IntrospectingApi, tmp_path: Path):
    """A slash at its end makes it another one (RFC 8414 §3.3), and the hint tells which one the server is."""
    lines = world.credential("client_id: plain-client_secret_basic", "client_secret: ${SECRET}")
    text = configuration(lines.replace(world.server.issuer, world.server.issuer + "/"), api.url)
    (tmp_path / "proxy.yaml").write_text(text)
    ended = await program.run("token", "-c", "proxy.yaml", cwd=tmp_path, env={"SECRET": SECRETS["plain"]})
    assert ended.code == 1
    assert "another issuer" in ended.err
    assert f"it names {world.server.issuer}:" in ended.err
