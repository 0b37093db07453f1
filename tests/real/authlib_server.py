"""A real authorization server for tests that needs no Node: Authlib's, in Flask, on a free loopback port.

A program of its own. The first line of standard input is its configuration, as JSON: `clients`, each with `client_id`,
`client_secret`, `method`, `scope` and `lifetime_s` of its tokens and, in `metadata`, `jwks`; and `api`, the id and secret of the one that may
introspect and revoke. It then prints its endpoints as one line of JSON. It serves until SIGTERM, or until standard input
ends, so that it cannot outlive the test run. Access tokens are opaque.

What is Authlib's own: reading the request, client authentication, scopes, the grant, and every error. Client, Token and
the storage are what it asks its user to write.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # plain HTTP, on loopback

from authlib.common.security import generate_token
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from flask import Flask, Response
from joserfc.jwk import KeySet, OctKey
from werkzeug.serving import make_server


class Client(ClientMixin):
    """A registered client."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.client_id: str = settings["client_id"]
        self.lifetime_s: int = settings.get("lifetime_s", 0)
        self._secret: str = settings["client_secret"]
        self._method: str = settings.get("method", "client_secret_basic")
        self._scopes: list[str] = settings.get("scope", "").split()
        keys = settings.get("metadata", {}).get("jwks")
        self.keys = KeySet.import_key_set(keys) if keys else OctKey.import_key(self._secret)

    def get_client_id(self) -> str:
        return self.client_id

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(client_secret.encode(), self._secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        by_assertion = self._method in {"client_secret_jwt", "private_key_jwt"}
        return method == (Assertions.CLIENT_AUTH_METHOD if by_assertion else self._method)

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"

    def get_allowed_scope(self, scope: str | None) -> str:
        asked = (scope or "").split()
        return " ".join(name for name in self._scopes if name in asked)


class Token(TokenMixin):
    """An access token that was given."""

    def __init__(self, members: dict[str, Any], client: Client) -> None:
        self.text: str = members["access_token"]
        self.scope: str = members.get("scope", "")
        self.client_id = client.client_id
        self.expires_at_s = time.time() + members["expires_in"]  # noqa: TID251  # a program that is not the gateway's
        self.revoked = False

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at_s  # noqa: TID251

    def is_revoked(self) -> bool:
        return self.revoked


class ClientCredentialsGrant(grants.ClientCredentialsGrant):
    """The grant, with the methods that a client may be registered for."""

    TOKEN_ENDPOINT_AUTH_METHODS = [  # noqa: RUF012  # as Authlib declares it
        "client_secret_basic",
        "client_secret_post",
        JWTBearerClientAssertion.CLIENT_AUTH_METHOD,
    ]


class Assertions(JWTBearerClientAssertion):
    """Client assertions (RFC 7523): signed by a secret or a key, and used once."""

    def __init__(self, issuer: str) -> None:
        super().__init__()
        self._issuer = issuer
        self._used: set[tuple[str, str]] = set()

    def get_audiences(self) -> list[str]:
        return [f"{self._issuer}/token", self._issuer]

    def resolve_client_public_key(self, client: Client) -> KeySet | OctKey:
        return client.keys

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        used = (claims["sub"], jti)
        if used in self._used:
            return False
        self._used.add(used)
        return True


def application(settings: dict[str, Any], issuer: str) -> Flask:
    """Returns the server."""
    clients = {client["client_id"]: Client(client) for client in [*settings["clients"], settings["api"]]}
    api = clients[settings["api"]["client_id"]]
    tokens: dict[str, Token] = {}

    class Introspection(IntrospectionEndpoint):
        def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
            return tokens.get(token_string)

        def check_permission(self, token: Token, client: Client, request: object) -> bool:
            return client is api

        def introspect_token(self, token: Token) -> dict[str, Any]:
            return {"client_id": token.client_id, "scope": token.scope, "exp": int(token.expires_at_s)}

    class Revocation(RevocationEndpoint):
        def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
            return tokens.get(token_string)

        def authenticate_token(self, request: Any, client: Client) -> Token | None:
            self.check_params(request, client)
            return self.query_token(request.form["token"], None) if client is api else None

        def revoke_token(self, token: Token, request: object) -> None:
            token.revoked = True

    def keep(members: dict[str, Any], request: Any) -> None:
        tokens[members["access_token"]] = Token(members, request.client)

    app = Flask(__name__)
    server = AuthorizationServer(app, query_client=clients.get, save_token=keep)
    generator = BearerTokenGenerator(
        lambda **_: generate_token(42), expires_generator=lambda client, _grant_type: client.lifetime_s
    )
    server.register_token_generator("default", generator)
    server.register_grant(ClientCredentialsGrant)
    server.register_client_auth_method(Assertions.CLIENT_AUTH_METHOD, Assertions(issuer))
    server.register_endpoint(Introspection)
    server.register_endpoint(Revocation)

    @app.post("/token")
    def token() -> Response:
        return server.create_token_response()

    @app.post("/introspect")
    def introspect() -> Response:
        return server.create_endpoint_response(Introspection.ENDPOINT_NAME)

    @app.post("/revoke")
    def revoke() -> Response:
        return server.create_endpoint_response(Revocation.ENDPOINT_NAME)

    @app.get("/.well-known/oauth-authorization-server")
    def metadata() -> dict[str, Any]:
        document = AuthorizationServerMetadata(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            response_types_supported=[],
            grant_types_supported=["client_credentials"],
            token_endpoint_auth_methods_supported=[
                "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt",
            ],
            token_endpoint_auth_signing_alg_values_supported=["HS256", "RS256", "ES256"],
        )  # fmt: skip
        document.validate_token_endpoint()
        document.validate_token_endpoint_auth_methods_supported()
        document.validate_token_endpoint_auth_signing_alg_values_supported()
        return dict(document)

    return app


def main() -> None:
    """Serves until standard input ends."""
    settings = json.loads(sys.stdin.readline())
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the issuer has the port in it
        issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = application(settings, issuer)
        server = make_server("127.0.0.1", 0, app, threaded=True, fd=listener.detach())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoints = {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/token",
        "introspection_endpoint": f"{issuer}/introspect",
        "revocation_endpoint": f"{issuer}/revoke",
    }
    print(json.dumps(endpoints), flush=True)
    sys.stdin.read()


main()
