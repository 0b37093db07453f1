"""An OAuth 2.0 authorization server for the demonstration and for tests: one grant, two ways to authenticate.

It gives access tokens by the client-credentials grant over real HTTP and is as strict as the standard lets it be, so that
what works here works elsewhere. Faults (down, slow, broken answers), the life of tokens and a delay can be changed while
it runs; it counts what it was asked and what it gave. Clients are fixed; nothing is stored.

Source: RFC 6749 §2.3.1 (authentication), §3.2 (token endpoint), §4.4 (grant), §5 (answers); RFC 8414 §3 (metadata).
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from proxy.clock import Clock
from proxy.demo.listener import Listener
from proxy.demo.tokens import TokenAuthority
from proxy.secret import Secret
from proxy.units import KIB

_MAX_BODY = 16 * KIB
_MAX_PARAMETERS = 64
_REPEATABLE = frozenset({"resource", "audience"})  # RFC 8707 §2, RFC 8693 §2.1
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749 §3.3
_NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1


class Fault(StrEnum):
    """How the token endpoint misbehaves, for tests and for the demonstration of an outage."""

    DOWN = "down"  # the connection is cut without an answer
    SLOW = "slow"  # no answer until the fault is changed
    SERVER_ERROR = "server_error"  # 500
    RATE_LIMITED = "rate_limited"  # 429 with Retry-After
    BAD_JSON = "bad_json"  # 200 and half a JSON object
    NO_EXPIRY = "no_expiry"  # a good answer without expires_in


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoClient:
    """A client the authorization server knows."""

    client_id: str
    client_secret: Secret = field(repr=False)
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTokenRequest:
    """What a token request held, for tests. Neither the client's secret nor its Authorization field is kept."""

    auth_method: str
    client_id: str
    parameters: tuple[tuple[str, str], ...]
    field_names: tuple[str, ...]  # lower case, in order


class _Refused(Exception):
    """An error answer of RFC 6749 §5.2."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


class AuthorizationServer:
    """The server. `start` before use; `grants`, `requests`, `refusals` and `seen` tell what has happened."""

    def __init__(
        self,
        clients: Iterable[DemoClient],
        *,
        tokens: TokenAuthority,
        clock: Clock,
        lifetime_s: float = 60.0,
        basic_form_encoding: bool = True,
    ) -> None:
        self.lifetime_s = lifetime_s  # of the tokens given from now on; seconds
        self.delay_s = 0.0  # before each answer
        self.retry_after_s = 1  # what RATE_LIMITED says
        self.requests = 0  # token requests that arrived, answered or not
        self.grants = 0  # tokens given
        self.refusals: Counter[str] = Counter()  # by the error of RFC 6749 §5.2
        self.seen: deque[SeenTokenRequest] = deque(maxlen=1000)  # authenticated requests, the newest last
        self._clients = {client.client_id: client for client in clients}
        self._tokens = tokens
        self._clock = clock
        self._basic_form_encoding = basic_form_encoding
        self._fault: Fault | None = None
        self._fault_changed = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._listener = Listener(self._application)

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> str:
        """Listens and returns the issuer's URL. Port 0 is a free one, or after `stop` the same again."""
        self._tokens.issuer = await self._listener.start(host, port, tls=tls)
        return self._tokens.issuer

    async def stop(self) -> None:
        """Closes the port and every connection. Tokens that were given stay good."""
        await self._listener.stop()

    @property
    def issuer(self) -> str:
        """The URL that names this server."""
        return self._listener.url

    @property
    def token_endpoint(self) -> str:
        """The URL of the token endpoint."""
        return f"{self.issuer}/token"

    @property
    def fault(self) -> Fault | None:
        """The misbehaviour in force; None is none."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._fault_changed.set()  # lets go what SLOW held
        self._fault_changed = asyncio.Event()

    async def until_requests(self, count: int) -> None:
        """Waits until that many token requests have arrived since the server was made."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.requests >= count)

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_post("/token", self._token)
        application.router.add_get("/.well-known/oauth-authorization-server", self._metadata)
        return application

    async def _metadata(self, _request: web.Request) -> web.Response:
        scopes = sorted({scope for client in self._clients.values() for scope in client.scopes})
        return web.json_response(
            {
                "issuer": self.issuer,
                "token_endpoint": self.token_endpoint,
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": [],
                "scopes_supported": scopes,
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            }
        )

    async def _token(self, request: web.Request) -> web.Response:
        async with self._arrived:
            self.requests += 1
            self._arrived.notify_all()
        while self._fault is Fault.SLOW:
            await self._fault_changed.wait()
        if self.delay_s > 0:
            await self._clock.sleep(self.delay_s)
        if (broken := self._broken(request)) is not None:
            return broken
        try:
            form = await _form(request)
            client, auth_method = self._authenticated(request, form)
            self._keep(request, client, auth_method, form)
            return self._granted(client, form)
        except _Refused as refused:
            self.refusals[refused.error] += 1
            headers = dict(_NOT_STORED)
            if refused.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="token endpoint", charset="UTF-8"'
            body = {"error": refused.error, "error_description": refused.description}
            return web.json_response(body, status=refused.status, headers=headers)

    def _broken(self, request: web.Request) -> web.Response | None:
        """Returns the answer that the fault in force asks for, or None where the request is answered properly."""
        match self._fault:
            case Fault.DOWN:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()  # goes nowhere
            case Fault.SERVER_ERROR:
                return web.Response(status=500, text="Internal Server Error")
            case Fault.RATE_LIMITED:
                return web.Response(status=429, headers={"Retry-After": str(self.retry_after_s)})
            case Fault.BAD_JSON:
                return web.Response(text='{"access_token": "ey', content_type="application/json", headers=_NOT_STORED)
            case _:
                return None

    def _authenticated(self, request: web.Request, form: dict[str, list[str]]) -> tuple[DemoClient, str]:
        """Returns the client and the method it used: exactly one (RFC 6749 §2.3)."""
        fields = request.headers.getall("Authorization", [])
        if "client_secret" in form and fields:
            raise _Refused("invalid_request", "more than one authentication method")
        if len(fields) > 1:
            raise _Refused("invalid_request", "more than one Authorization field")
        if fields:
            client_id, secret = self._basic(fields[0])
            method = "client_secret_basic"
            if form.get("client_id", [client_id]) != [client_id]:
                raise _Refused("invalid_request", "client_id differs from the one that authenticated")
        elif "client_id" in form and "client_secret" in form:
            client_id, secret = form["client_id"][0], form["client_secret"][0]
            method = "client_secret_post"
        else:
            _refuse_client("no client authentication")
        client = self._clients.get(client_id)
        if client is None or client.client_secret != Secret(secret):
            _refuse_client("unknown client or wrong secret")
        return client, method

    def _basic(self, value: str) -> tuple[str, str]:
        """Returns id and secret of a Basic field, each form-decoded after Base64 (RFC 6749 §2.3.1)."""
        scheme, _, encoded = value.partition(" ")
        if scheme.lower() != "basic":
            _refuse_client("unknown authentication scheme")
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError:
            _refuse_client("credentials are not Base64 of UTF-8")
        client_id, _, secret = text.partition(":")
        if self._basic_form_encoding:
            return unquote_plus(client_id), unquote_plus(secret)
        return client_id, secret

    def _keep(self, request: web.Request, client: DemoClient, auth_method: str, form: dict[str, list[str]]) -> None:
        parameters = tuple(
            (name, value) for name, values in form.items() for value in values if name != "client_secret"
        )
        self.seen.append(
            SeenTokenRequest(
                auth_method=auth_method,
                client_id=client.client_id,
                parameters=parameters,
                field_names=tuple(name.lower().decode("ascii", "replace") for name, _ in request.raw_headers),
            )
        )

    def _granted(self, client: DemoClient, form: dict[str, list[str]]) -> web.Response:
        grant_type = form.get("grant_type")
        if grant_type is None:
            raise _Refused("invalid_request", "grant_type is missing")
        if grant_type != ["client_credentials"]:
            raise _Refused("unsupported_grant_type", "client_credentials is the only grant")
        for name in _REPEATABLE & form.keys():
            if form[name] != [self._tokens.audience]:
                raise _Refused("invalid_target", f"{name} is not the protected API")
        scope = _granted_scope(client, form.get("scope"))
        token = self._tokens.issue(client_id=client.client_id, scope=scope, lifetime_s=self.lifetime_s)
        answer: dict[str, str | float] = {"access_token": token.reveal(), "token_type": "Bearer", "scope": scope}
        if self._fault is not Fault.NO_EXPIRY:
            # a whole number wherever it is one: few clients read anything else
            answer["expires_in"] = int(self.lifetime_s) if self.lifetime_s == int(self.lifetime_s) else self.lifetime_s
        self.grants += 1
        return web.json_response(answer, headers=_NOT_STORED)


async def _form(request: web.Request) -> dict[str, list[str]]:
    """Returns the parameters with a value; one without is treated as omitted (RFC 6749 §3.2)."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise _Refused("invalid_request", "the body is application/x-www-form-urlencoded")
    if not {"client_id", "client_secret"}.isdisjoint(request.query):
        raise _Refused("invalid_request", "credentials do not belong into the URI")
    try:
        pairs = parse_qsl((await request.read()).decode(), max_num_fields=_MAX_PARAMETERS, errors="strict")
    except ValueError:
        raise _Refused("invalid_request", "the body cannot be read") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    if any(len(values) > 1 and name not in _REPEATABLE for name, values in form.items()):
        raise _Refused("invalid_request", "a parameter is repeated")
    return form


def _granted_scope(client: DemoClient, asked: list[str] | None) -> str:
    """Returns what is granted: what was asked, or all that the client may have (RFC 6749 §3.3)."""
    if asked is None:
        return " ".join(client.scopes)
    if not _SCOPE.fullmatch(asked[0]) or not set(asked[0].split(" ")) <= set(client.scopes):
        raise _Refused("invalid_scope", "a scope is malformed or not the client's")
    return asked[0]


def _refuse_client(description: str) -> NoReturn:
    # 401 with a challenge whatever the method was: RFC 6749 §5.2 demands it for Basic and allows it for the other
    raise _Refused("invalid_client", description, status=401)
