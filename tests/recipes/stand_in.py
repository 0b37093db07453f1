"""A stand-in of a vendor: a token endpoint that refuses what the vendor's documentation does not allow, and an API behind it.

What all vendors ask for (RFC 6749 §3.2 and §4.4) is checked here, what one of them asks for is in ``vendors``. POST is for
tokens; GET is the API, which lets in who shows a token that is still good.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web


class Refused(Exception):
    """An OAuth error as the vendor words it."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(error)
        self.reply = web.json_response({"error": error, "error_description": description}, status=status)


@dataclass(frozen=True)
class TokenRequest:
    """A token request of the right form, not looked into any further."""

    origin: str  # scheme, host and port as the client wrote them
    path: str
    authorization: str | None
    form: dict[str, str]

    @property
    def url(self) -> str:
        """The token endpoint as the client knows it."""
        return self.origin + self.path

    def basic(self, *, decoded: bool) -> tuple[str, str]:
        """Returns id and secret of the Authorization field; `decoded` as RFC 6749 §2.3.1 has it."""
        scheme, _, text = (self.authorization or "").partition(" ")
        if scheme != "Basic" or "client_secret" in self.form:
            return "", ""
        client_id, _, secret = b64decode(text, validate=True).decode().partition(":")
        return (unquote_plus(client_id), unquote_plus(secret)) if decoded else (client_id, secret)


Vendor = Callable[[TokenRequest], dict[str, Any]]  # returns the reply's members beside the token, or raises Refused


class StandIn:
    """The server, on a free loopback port; an async context manager. Tokens are `at-1`, `at-2`, …"""

    def __init__(self, vendor: Vendor) -> None:
        self.url = ""
        self.requests: list[TokenRequest] = []
        self.refusals: list[str] = []  # the errors, in order
        self.good: set[str] = set()  # tokens that the API takes; a test may add some and take some away
        self.served: list[str] = []  # what the API was asked for, and answered
        self._vendor = vendor
        self._numbers = count(1)
        self._runner: web.AppRunner

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/.well-known/openid-configuration"):
            return self._metadata(request)
        if request.method == "GET":
            return self._api(request)
        try:
            asked = await _token_request(request)
            self.requests.append(asked)
            members = self._vendor(asked)
        except Refused as refused:
            self.refusals.append(str(refused))
            return refused.reply
        token = f"at-{next(self._numbers)}"
        self.good.add(token)
        return web.json_response({"access_token": token, **members}, headers={"Cache-Control": "no-store"})

    def _metadata(self, request: web.Request) -> web.Response:
        issuer = self.url + request.path.removesuffix("/.well-known/openid-configuration")
        return web.json_response(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/protocol/openid-connect/token",
                "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic"],
            }
        )

    def _api(self, request: web.Request) -> web.Response:
        scheme, _, token = ",".join(request.headers.getall("Authorization", [])).partition(" ")
        if scheme != "Bearer" or token not in self.good:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        self.served.append(f"{token} {request.path}")
        return web.Response(text="fine")


async def _token_request(request: web.Request) -> TokenRequest:
    """Returns the request if it is one by RFC 6749 §3.2 and §4.4.2."""
    if request.method != "POST" or request.query_string:
        raise Refused(405, "invalid_request", "POST, and nothing in the query")
    if request.headers.get("Content-Type") != "application/x-www-form-urlencoded":
        raise Refused(400, "invalid_request", "a form")
    pairs = parse_qsl(await request.text(), keep_blank_values=True, strict_parsing=True)
    form = dict(pairs)
    if len(form) != len(pairs) or "" in form.values():
        raise Refused(400, "invalid_request", "each parameter once, and with a value")
    if form.get("grant_type") != "client_credentials":
        raise Refused(400, "unsupported_grant_type", "client_credentials")
    return TokenRequest(
        origin=f"http://{request.host}",
        path=request.path,
        authorization=request.headers.get("Authorization"),
        form=form,
    )
