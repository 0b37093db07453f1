"""A protected API for the soak: echoes, long answers, server-sent events and WebSockets, each with a token that is live, or 401."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from proxy.clock import Clock
from proxy.demo.listener import Listener
from proxy.demo.tokens import TokenAuthority, TokenRefused


class SoakApi:
    """The server. `refusals` counts what came without a live token, or without one of the last two keys."""

    def __init__(self, tokens: TokenAuthority, clock: Clock) -> None:
        self.refusals: Counter[str] = Counter()
        self.keys: list[str] = []  # the newest last
        self._tokens = tokens
        self._clock = clock
        self._listener = Listener(self._application)

    async def start(self) -> str:
        """Listens and returns the URL."""
        return await self._listener.start("127.0.0.1", 0)

    async def stop(self) -> None:
        """Closes the port and every connection."""
        await self._listener.stop()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/echo/{nonce}", self._echo)
        application.router.add_get("/long/{nonce}", self._long)
        application.router.add_get("/events/{nonce}", self._events)
        application.router.add_get("/chat/{nonce}", self._chat)
        return application

    def _admit(self, request: web.Request) -> None:
        values = request.headers.getall("Authorization", [])
        try:
            self._tokens.verify(values[0].removeprefix("Bearer "), now_s=self._clock.wall())
        except (TokenRefused, IndexError) as refused:
            self.refusals[str(getattr(refused, "reason", "none"))] += 1
            raise web.HTTPUnauthorized from None
        if len(values) != 1 or request.headers.getall("X-Key", []) not in [[key] for key in self.keys[-2:]]:
            self.refusals["fields"] += 1
            raise web.HTTPForbidden

    async def _echo(self, request: web.Request) -> web.Response:
        """Answers with the nonce and the body that came."""
        self._admit(request)
        body = await request.read()
        return web.Response(body=request.match_info["nonce"].encode() + b" " + body)

    async def _long(self, request: web.Request) -> web.Response:
        """Answers with the nonce as often as was asked for."""
        self._admit(request)
        return web.Response(body=request.match_info["nonce"].encode() * int(request.query["times"]))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Sends as many events as were asked for, the nonce in each."""
        self._admit(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(int(request.query["events"])):
            await response.write(f"id: {number}\ndata: {request.match_info['nonce']}\n\n".encode())
            await self._clock.sleep(0.05)
        return response

    async def _chat(self, request: web.Request) -> web.WebSocketResponse:
        """Says everything back."""
        self._admit(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{request.match_info['nonce']} {message.data}")
        return socket
