"""A protected API for the demonstration and for tests: it verifies each request's token, and tells what it saw.

Every request needs one Bearer token that is signed, live, for this API and not expired by the API's own clock; without
it the answer is 401 with a challenge. `GET /whoami` shows the request as it arrived, so that one can see what a gateway
adds and keeps. The token itself is neither kept nor shown. Refusals and served requests are counted, for tests.

Source: RFC 6750 §2.1 (the field), §3 (challenges).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web

from proxy.clock import Clock
from proxy.demo.listener import Listener
from proxy.demo.tokens import Claims, TokenAuthority, TokenRefused
from proxy.units import MIB

_MAX_BODY = 8 * MIB
_MAX_SLOW_S = 60.0
_MAX_LINES = 10_000
_CLAIMS: web.RequestKey[Claims] = web.RequestKey("claims", Claims)
_ORDERS = (
    {"id": 1, "item": "tea", "quantity": 2},
    {"id": 2, "item": "biscuits", "quantity": 12},
    {"id": 7, "item": "cups", "quantity": 6},
)


class Missing(StrEnum):
    """Why a request is refused before a token could be looked at; `tokens.RefusalReason` names the rest."""

    NO_TOKEN = "no_token"  # noqa: S105  # a reason, not a token
    SEVERAL_FIELDS = "several_fields"
    NOT_BEARER = "not_bearer"
    TOLD_TO = "told_to"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """A request as it arrived, for tests; the value of its Authorization fields is replaced."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    authorization_fields: int
    refused: str | None  # the reason, or None where the request was served


class ProtectedApi:
    """The server. `start` before use; `served`, `refusals` and `seen` tell what has happened."""

    def __init__(self, *, tokens: TokenAuthority, clock: Clock) -> None:
        self.served = 0  # requests that came with a good token
        self.created = 0  # orders posted: how often the one operation with an effect was really done
        self.refusals: Counter[str] = Counter()  # by reason
        self.refuse_next = 0  # that many requests are refused as if their token were revoked
        self.seen: deque[SeenRequest] = deque(maxlen=1000)  # the newest last
        self._tokens = tokens
        self._clock = clock
        self._arrived = asyncio.Condition()
        self._arrivals = 0
        self._listener = Listener(self._application)

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> str:
        """Listens and returns the URL. Port 0 is a free one, or after `stop` the same again."""
        return await self._listener.start(host, port, tls=tls)

    async def stop(self) -> None:
        """Closes the port and every connection."""
        await self._listener.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port; no slash at the end."""
        return self._listener.url

    @property
    def requests(self) -> int:
        """How many requests have arrived, served or refused."""
        return self._arrivals

    async def until_requests(self, count: int) -> None:
        """Waits until that many requests have arrived since the server was made."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._arrivals >= count)

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY, middlewares=[self._protect])
        application.router.add_get("/orders", _orders)
        application.router.add_get("/orders/{id:[0-9]+}", _order)
        application.router.add_post("/orders", self._create)
        application.router.add_get("/whoami", self._whoami)
        application.router.add_get("/slow", self._slow)
        application.router.add_get("/stream", self._stream)
        return application

    @web.middleware
    async def _protect(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Lets a request with a good token through, to any path: what exists is nobody's business without one."""
        refused: str | None = None
        try:
            request[_CLAIMS] = self._verified(request)
        except (_Refused, TokenRefused) as refusal:
            refused = refusal.reason.value
        self.seen.append(_seen(request, refused))
        async with self._arrived:
            self._arrivals += 1
            self._arrived.notify_all()
        if refused is not None:
            self.refusals[refused] += 1
            return _challenge(refused)
        self.served += 1
        return await handler(request)

    def _verified(self, request: web.Request) -> Claims:
        values = request.headers.getall("Authorization", [])
        if not values:
            raise _Refused(Missing.NO_TOKEN)
        if len(values) > 1:
            raise _Refused(Missing.SEVERAL_FIELDS)
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _Refused(Missing.NOT_BEARER)
        claims = self._tokens.verify(token, now_s=self._clock.wall())
        if self.refuse_next > 0:
            self.refuse_next -= 1
            raise _Refused(Missing.TOLD_TO)
        return claims

    async def _create(self, request: web.Request) -> web.Response:
        try:
            order = await request.json()
        except ValueError:
            return web.json_response({"error": "the body is not JSON"}, status=400)
        self.created += 1
        number = 1000 + self.created
        return web.json_response({"id": number, "order": order}, status=201, headers={"Location": f"/orders/{number}"})

    async def _whoami(self, request: web.Request) -> web.Response:
        claims = request[_CLAIMS]
        seen = _seen(request, None)
        answer: dict[str, Any] = {
            "client_id": claims.client_id,
            "scope": claims.scope,
            "token_expires_in_s": round(claims.expires_at_s - self._clock.wall(), 3),
            "token_expires_at": claims.expires_at_s,
            "method": seen.method,
            "path": seen.target,
            "authorization_fields": seen.authorization_fields,
            "fields": seen.fields,
        }
        return web.json_response(answer)

    async def _slow(self, request: web.Request) -> web.Response:
        """Answers after `seconds`, at most a minute."""
        seconds = _number(request, "seconds", default=1.0, most=_MAX_SLOW_S)
        await self._clock.sleep(seconds)
        return web.json_response({"waited_s": seconds})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Answers in chunks: `lines` lines of JSON, `seconds` apart."""
        lines = int(_number(request, "lines", default=5, most=_MAX_LINES))
        seconds = _number(request, "seconds", default=0.2, most=_MAX_SLOW_S)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(1, lines + 1):
            await response.write(json.dumps({"line": number, "of": lines}).encode() + b"\n")
            if number < lines:
                await self._clock.sleep(seconds)
        await response.write_eof()
        return response


class _Refused(Exception):
    """A request that comes without a usable Bearer token."""

    def __init__(self, reason: Missing) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _seen(request: web.Request, refused: str | None) -> SeenRequest:
    fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    return SeenRequest(
        method=request.method,
        target=request.raw_path,
        fields=tuple((name, "***" if name.lower() == "authorization" else value) for name, value in fields),
        authorization_fields=sum(name.lower() == "authorization" for name, _ in fields),
        refused=refused,
    )


def _challenge(reason: str) -> web.Response:
    """Returns the answer of RFC 6750 §3: no error code where no token was offered, `invalid_token` where one was bad."""
    if reason == Missing.SEVERAL_FIELDS:
        return web.Response(
            status=400,
            headers={"WWW-Authenticate": 'Bearer realm="orders", error="invalid_request"'},
            text="more than one Authorization field\n",
        )
    error = "" if reason in {Missing.NO_TOKEN, Missing.NOT_BEARER} else ', error="invalid_token"'
    return web.json_response(
        {"error": "a valid access token is needed", "reason": reason},
        status=401,
        headers={"WWW-Authenticate": f'Bearer realm="orders"{error}'},
    )


async def _orders(_request: web.Request) -> web.Response:
    return web.json_response({"orders": _ORDERS})


async def _order(request: web.Request) -> web.Response:
    for order in _ORDERS:
        if str(order["id"]) == request.match_info["id"]:
            return web.json_response(order)
    return web.json_response({"error": "no such order"}, status=404)


def _number(request: web.Request, name: str, *, default: float, most: float) -> float:
    """Returns a number of the query, between 0 and `most`. Answers 400 if it is none."""
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} is not a number\n") from None
    if not 0 <= value <= most:  # not-a-number is refused too
        raise web.HTTPBadRequest(text=f"{name} is out of range\n")
    return value
