"""What each vendor documents about its token endpoint for the client-credentials grant, as code that refuses the rest.

The names of errors, and the members of replies, are the vendors' too: above all what they say, or do not say, of the
token's life.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from proxy.clock import SystemClock
from tests.oauth.certificates import certificate_of
from tests.recipes.stand_in import Refused, TokenRequest

CLIENT_ID = "7f3b6c1e-0d52-4f0e-9a55-2c7f0a1f3f10"
SECRET = "s3cret+of/the:tests=50% & more~"
PLAIN_SECRET = "plain-s3cret_of~the.tests"  # of vendors that document no form-encoding, and give out no other secrets
TENANT = "0c5a8b1e-tenant"
API = "https://api.example"
KEY_ID = "okta-key-1"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@cache
def client_key() -> rsa.RSAPrivateKey:
    """The client's own key."""
    return rsa.generate_private_key(65537, 2048)


@cache
def client_certificate() -> bytes:
    """Its certificate, as PEM."""
    return certificate_of(client_key())


def pem(key: rsa.RSAPrivateKey) -> bytes:
    """Returns a private key as a file has it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _need(right: object, status: int, error: str, description: str) -> None:
    if not right:
        raise Refused(status, error, description)


def _by_post(request: TokenRequest, status: int, error: str) -> None:
    right = request.form.get("client_id") == CLIENT_ID and request.form.get("client_secret") == SECRET
    _need(right and request.authorization is None, status, error, "id or secret")


def _verified(
    request: TokenRequest, key: rsa.RSAPrivateKey, algorithms: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns header and claims of the one assertion, if this key signed it and it has not ended."""
    form = request.form
    alone = request.authorization is None and "client_secret" not in form
    _need(alone and form.get("client_assertion_type") == ASSERTION, 401, "invalid_client", "no assertion")
    try:
        signed = jws.deserialize_compact(form["client_assertion"], RSAKey(key, key), algorithms=list(algorithms))
    except JoseError as error:
        raise Refused(401, "invalid_client", "signature") from error
    claims = json.loads(signed.payload)
    _need(SystemClock().wall() < claims["exp"] <= SystemClock().wall() + 3600, 401, "invalid_client", "exp")
    return signed.headers(), claims


def _entra(request: TokenRequest) -> dict[str, Any]:
    """The rest of what is common to Entra ID's ways of authentication.

    Source: learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
    """
    _need(request.path == f"/{TENANT}/oauth2/v2.0/token", 404, "not_found", "no such tenant")
    _need(request.form.get("client_id") == CLIENT_ID, 400, "unauthorized_client", "AADSTS700016")
    scope = request.form.get("scope", "")
    _need(" " not in scope and scope.endswith("/.default"), 400, "invalid_scope", "AADSTS1002012: /.default")
    return {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}


def entra_id(request: TokenRequest) -> dict[str, Any]:
    """Microsoft Entra ID by a secret in the form."""
    members = _entra(request)
    _by_post(request, 401, "invalid_client")
    return members


def entra_id_certificate(request: TokenRequest) -> dict[str, Any]:
    """Microsoft Entra ID by an assertion; which key signed it, only the thumbprint says.

    Source: learn.microsoft.com/entra/identity-platform/certificate-credentials.
    """
    header, claims = _verified(request, client_key(), ["PS256"])
    octets = x509.load_pem_x509_certificate(client_certificate()).public_bytes(Encoding.DER)
    thumbprint = urlsafe_b64encode(sha256(octets).digest()).decode().rstrip("=")
    _need(header.get("x5t#S256") == thumbprint, 401, "invalid_client", "AADSTS700027: no such certificate")
    _need(header.get("typ") == "JWT", 401, "invalid_client", "typ")
    _need(claims["aud"] == request.url, 401, "invalid_client", "AADSTS700023: aud")
    _need(claims["iss"] == claims["sub"] == CLIENT_ID and claims["jti"], 401, "invalid_client", "claims")
    return _entra(request)


def auth0(request: TokenRequest) -> dict[str, Any]:
    """Source: auth0.com/docs/api/authentication, "Client Credentials Flow"."""
    _need(request.path == "/oauth/token", 404, "not_found", "no such path")
    _by_post(request, 401, "access_denied")
    _need(request.form.get("audience") == API, 403, "access_denied", "No audience parameter was provided")
    return {"token_type": "Bearer", "expires_in": 86400, "scope": "read:orders"}


def auth0_key(request: TokenRequest) -> dict[str, Any]:
    """By a key: the audience is the tenant, at most five minutes, once only.

    Source: auth0.com/docs/get-started/authentication-and-authorization-flow/authenticate-with-private-key-jwt.
    """
    _need(request.path == "/oauth/token", 404, "not_found", "no such path")
    _, claims = _verified(request, client_key(), ["RS256"])
    _need(claims["aud"] == f"{request.origin}/", 401, "invalid_client", "aud")
    _need(claims["iss"] == claims["sub"] == CLIENT_ID and claims["jti"], 401, "invalid_client", "claims")
    _need(claims["exp"] - SystemClock().wall() <= 300, 401, "invalid_client", "exp")
    _need(request.form.get("audience") == API, 403, "access_denied", "No audience parameter was provided")
    return {"token_type": "Bearer", "expires_in": 86400, "scope": "read:orders"}


def okta(request: TokenRequest) -> dict[str, Any]:
    """A custom authorization server, and the org's own, which takes private_key_jwt alone.

    Source: developer.okta.com/docs/guides/implement-grant-type and build-self-signed-jwt (aud: the full URL; at most an hour).
    """
    scope = request.form.get("scope", "")
    if request.path == "/oauth2/default/v1/token":
        _need(request.basic(decoded=False) == (CLIENT_ID, PLAIN_SECRET), 401, "invalid_client", "id or secret")
        _need(scope == "orders.read", 400, "invalid_scope", "no default scopes: 'scope' must be provided")
    else:
        _need(request.path == "/oauth2/v1/token", 404, "not_found", "no such server")
        header, claims = _verified(request, client_key(), ["RS256"])
        _need(header.get("kid") == KEY_ID, 401, "invalid_client", "no such key")
        _need(claims["aud"] == request.url, 401, "invalid_client", "aud")
        _need(claims["iss"] == claims["sub"] == CLIENT_ID, 401, "invalid_client", "claims")
        _need(scope.startswith("okta."), 400, "invalid_scope", "okta.*")
    return {"token_type": "Bearer", "expires_in": 3600, "scope": scope}


def keycloak(request: TokenRequest) -> dict[str, Any]:
    """Since version 20, id and secret in the header are decoded (keycloak/keycloak#11908).

    Source: keycloak.org/docs/latest/server_admin, "Using a service account".
    """
    _need(request.path == "/realms/orders/protocol/openid-connect/token", 404, "Realm does not exist", "")
    right = request.basic(decoded=True) == (CLIENT_ID, SECRET)
    _need(right, 401, "unauthorized_client", "Invalid client or Invalid client credentials")
    return {
        "expires_in": 300,
        "refresh_expires_in": 0,
        "token_type": "Bearer",
        "not-before-policy": 0,
        "scope": "profile email",
    }


def aws_cognito(request: TokenRequest) -> dict[str, Any]:
    """Its errors are all 400.

    Source: docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html.
    """
    _need(request.path == "/oauth2/token", 404, "not_found", "no such path")
    _need(request.basic(decoded=False) == (CLIENT_ID, PLAIN_SECRET), 400, "invalid_client", "id or secret")
    scopes = request.form.get("scope", f"{API}/orders.read").split(" ")
    _need(all(scope == f"{API}/orders.read" for scope in scopes), 400, "invalid_scope", "resource server/scope")
    return {"expires_in": 3600, "token_type": "Bearer"}


def salesforce(request: TokenRequest) -> dict[str, Any]:
    """The org's own domain only (`localhost` stands for login.salesforce.com); nothing is said of the token's life.

    Source: help.salesforce.com, "OAuth 2.0 Client Credentials Flow for Server-to-Server Integration".
    """
    _need(request.path == "/services/oauth2/token", 404, "not_found", "no such path")
    _need("//localhost" not in request.origin, 400, "invalid_grant", "request not supported on this domain")
    _by_post(request, 400, "invalid_client")
    return {
        "signature": "c2lnbmF0dXJl",
        "scope": "api",
        "instance_url": request.origin,
        "id": f"{request.origin}/id/00D000000000000AAA/005000000000000AAA",
        "token_type": "Bearer",
        "issued_at": "1700000000000",
    }


@dataclass
class AnyServer:
    """Any server that takes `client_secret_basic`; a test may change the secret."""

    secret: str = SECRET

    def answer(self, request: TokenRequest) -> dict[str, Any]:
        """Is the vendor."""
        _need(request.basic(decoded=True) == (CLIENT_ID, self.secret), 401, "invalid_client", "id or secret")
        return {"token_type": "Bearer", "expires_in": 3600}


@dataclass
class Cluster:
    """A Kubernetes cluster that issues service-account tokens, and the servers that trust it.

    Source: kubernetes.io/docs/tasks/configure-pod-container/configure-service-account, "token volume projection"; RFC 7523
    §3; learn.microsoft.com/entra/workload-id/workload-identity-federation.
    """

    key: rsa.RSAPrivateKey = field(default_factory=client_key)
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    subject: str = "system:serviceaccount:shop:legacy-app"

    def token(self, audience: str = "https://as.example") -> str:
        """Returns a new token, as the kubelet writes it: an hour long, several audiences in principle."""
        now = int(SystemClock().wall())
        claims = {"iss": self.issuer, "sub": self.subject, "aud": [audience], "jti": str(uuid4())}
        claims |= {"iat": now, "nbf": now, "exp": now + 3600}
        header = {"alg": "RS256", "kid": "cluster-1"}
        return jws.serialize_compact(header, json.dumps(claims), RSAKey(self.key, self.key), algorithms=["RS256"])

    def _trusts(self, request: TokenRequest, audience: str) -> None:
        _, claims = _verified(request, self.key, ["RS256"])
        known = claims["iss"] == self.issuer and claims["sub"] == self.subject
        _need(known and request.form.get("client_id") == CLIENT_ID, 401, "invalid_client", "no such service account")
        _need(audience in claims["aud"], 401, "invalid_client", "aud")

    def any_server(self, request: TokenRequest) -> dict[str, Any]:
        """A server that knows the client by the service account."""
        self._trusts(request, "https://as.example")
        return {"token_type": "Bearer", "expires_in": 3600, "scope": request.form.get("scope", "")}

    def entra_id(self, request: TokenRequest) -> dict[str, Any]:
        """Microsoft Entra ID with a federated credential."""
        self._trusts(request, "api://AzureADTokenExchange")
        return _entra(request)
