"""A protected API that trusts nobody: it asks the authorization server about each request's token, or verifies its signature.

With a TLS context it speaks https, and a token that is bound to a certificate is good only from who shows that one
(RFC 8705 §3).
An opaque token is introspected (RFC 7662), each time anew; a JWT, which oidc-provider does not introspect, is verified
against the server's published keys, issuer and audience (RFC 9068 §4). It keeps the tokens that were good, so that a
test can revoke one (RFC 7009).
"""

from __future__ import annotations

import ssl
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any, Self

import aiohttp
from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tests.real.authorization_servers import API_CLIENT_ID, API_CLIENT_SECRET, AuthorizationServer

AUDIENCE = "https://api.example/orders"


class IntrospectingApi:
    """The server, on a free loopback port; an async context manager."""

    def __init__(self, trusted: AuthorizationServer, *, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self._tls = tls
        self.requests = 0
        self.refused = 0
        self.tokens: list[str] = []  # the good ones, in the order of their first use
        self._trusted = trusted
        self._session: aiohttp.ClientSession
        self._runner: web.AppRunner

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        trusted = True if self._trusted.ca_file is None else ssl.create_default_context(cafile=self._trusted.ca_file)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def revoke(self, token: str) -> None:
        """Has the authorization server revoke a token."""
        await self._asked(self._trusted.revocation_endpoint, token)

    async def claims(self, token: str) -> dict[str, Any] | None:
        """Returns what the authorization server says of a token, None if it is not good."""
        if token.count(".") == 2:
            return await self._verified(token)
        told = await self._asked(self._trusted.introspection_endpoint, token)
        return told if told["active"] is True else None

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        fields = request.headers.getall("Authorization", [])
        scheme, _, token = fields[0].partition(" ") if len(fields) == 1 else ("", "", "")
        claims = await self.claims(token) if scheme == "Bearer" and token else None
        if claims is None or not _bound_rightly(claims, request):
            self.refused += 1
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if token not in self.tokens:
            self.tokens.append(token)
        body = {
            "client_id": claims["client_id"],
            "scope": claims.get("scope", ""),
            "bound": "cnf" in claims,
            "path": request.raw_path,
            "body": await request.text(),
        }
        return web.json_response(body)

    async def _asked(self, endpoint: str, token: str) -> dict[str, Any]:
        authentication = aiohttp.encode_basic_auth(API_CLIENT_ID, API_CLIENT_SECRET)
        async with self._session.post(
            endpoint, data={"token": token}, headers={"Authorization": authentication}
        ) as reply:
            assert reply.status == 200, await reply.text()
            text = await reply.text()
            return (await reply.json()) if text else {}

    async def _verified(self, token: str) -> dict[str, Any] | None:
        assert self._trusted.jwks_uri is not None
        async with self._session.get(self._trusted.jwks_uri) as reply:
            keys = KeySet.import_key_set(await reply.json())
        rules = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self._trusted.issuer},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, keys, algorithms=["RS256"]).claims
            rules.validate(claims)
        except JoseError:
            return None
        return claims


def _bound_rightly(claims: dict[str, Any], request: web.Request) -> bool:
    """Tells whether a token that is bound to a certificate comes from who shows it; others may come from anybody."""
    bound = claims.get("cnf", {}).get("x5t#S256")
    if bound is None:
        return True
    shown = request.get_extra_info("ssl_object")
    certificate = None if shown is None else shown.getpeercert(binary_form=True)
    if certificate is None:
        return False
    digest = urlsafe_b64encode(sha256(certificate).digest()).rstrip(b"=").decode("ascii")
    return bool(bound == digest)
