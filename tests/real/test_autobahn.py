"""WebSocket through the gateway, case by case of the Autobahn test-suite: nothing is added and nothing is taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.real.autobahn import suite
from tests.support.fronting import in_front_of

# what takes long: most of the mass transfers and of the compressed ones; a part of each is left in
LONG = [f"9.{n}.{m}" for n in range(1, 9) for m in (4, 5, 6)] + ["12.1.1*", "12.[2-5].*", "13.1.1*", "13.[2-7].*"]


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Runs aiohttp's WebSocket server, which sends every message back; yields its port."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0, compress=True, autoclose=True)
        await socket.prepare(request)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type == aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_every_case_ends_as_without_the_gateway(tmp_path: Path):
    """The same server is tested directly and through the gateway: each case has the same verdict."""
    program = suite.wstest()
    async with echo_server() as port, in_front_of(port, tmp_path) as gateway:
        direct = await suite.verdicts(program, f"ws://127.0.0.1:{port}/", tmp_path / "direct", without=LONG)
        through = await suite.verdicts(program, f"ws://127.0.0.1:{gateway.port}/", tmp_path / "through", without=LONG)
        print(len(direct), "cases:", dict(Counter(verdict.behaviour for verdict in direct.values())))
        assert len(direct) > 250
        assert Counter(verdict.behaviour for verdict in direct.values())["OK"] > 230
        assert direct == through
        switched = {"route": "all", "method": "GET", "code": "101"}
        assert len(direct) == await gateway.sample("bearer_proxy_http_requests_total", **switched)
