"""A reverse proxy as one usually writes it with aiohttp: a web application and a ClientSession, with uvloop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM = os.environ["UPSTREAM_URL"]
CONNECTION_SPECIFIC = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
SESSION = web.AppKey("session", aiohttp.ClientSession)


class TokenCache:
    """The access token and its end."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._value = ""
        self._due_at = 0.0

    async def read(self, session: aiohttp.ClientSession) -> str:
        """Returns a token, a new one if the old one is near its end."""
        async with self._lock:
            if time.perf_counter() >= self._due_at:
                form = {
                    "grant_type": "client_credentials",
                    "client_id": os.environ["CLIENT_ID"],
                    "client_secret": os.environ["CLIENT_SECRET"],
                }
                async with session.post(os.environ["TOKEN_URL"], data=form) as response:
                    answer = await response.json()
                self._value = answer["access_token"]
                self._due_at = time.perf_counter() + 0.8 * answer["expires_in"]
        return self._value


TOKENS = web.AppKey("tokens", TokenCache)


async def forward(request: web.Request) -> web.StreamResponse:
    """Sends the request on and streams the answer back."""
    session = request.app[SESSION]
    headers = request.headers.copy()
    for name in CONNECTION_SPECIFIC:
        headers.popall(name, None)
    headers["Authorization"] = f"Bearer {await request.app[TOKENS].read(session)}"
    body = request.content if request.can_read_body else None
    async with session.request(
        request.method, UPSTREAM + request.path_qs, headers=headers, data=body, allow_redirects=False
    ) as response:
        answer_headers = response.headers.copy()
        for name in CONNECTION_SPECIFIC:
            answer_headers.popall(name, None)
        answer = web.StreamResponse(status=response.status, reason=response.reason, headers=answer_headers)
        await answer.prepare(request)
        async for data in response.content.iter_any():
            await answer.write(data)
        await answer.write_eof()
        return answer


async def resources(application: web.Application) -> AsyncIterator[None]:
    """Keeps one session as long as the application runs."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
        application[SESSION] = session
        application[TOKENS] = TokenCache()
        yield


if __name__ == "__main__":
    application = web.Application(client_max_size=2**40)
    application.cleanup_ctx.append(resources)
    application.router.add_route("*", "/{path:.*}", forward)
    web.run_app(
        application,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=None,
        print=None,
        backlog=8192,
        loop=uvloop.new_event_loop(),
    )
