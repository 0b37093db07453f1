"""Streams that last: WebSocket by a real client and a real server, and server-sent events."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.clock import SystemClock
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, ok
from tests.upstream.certificates import Authority

CLOCK = SystemClock()


class ChatServer:
    """An aiohttp WebSocket server that sends every message back; it lets in who shows a token."""

    def __init__(self) -> None:
        self.port = 0
        self.close_codes: list[int | None] = []

    async def chat(self, asked: web.Request) -> web.WebSocketResponse:
        if asked.headers.get("Authorization") != "Bearer at-1":
            raise web.HTTPUnauthorized
        chat = web.WebSocketResponse(protocols=("chat.v2",), max_msg_size=0)
        await chat.prepare(asked)
        async for message in chat:
            if message.data == "close":
                await chat.close(code=4321, message=b"as you wish")
            elif message.type is aiohttp.WSMsgType.TEXT:
                await chat.send_str(message.data)
            else:
                await chat.send_bytes(message.data)
        self.close_codes.append(chat.close_code)
        return chat

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/chat", self.chat)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("scheme", ["http", "https"])
@on_both_loops
async def test_a_chat(tmp_path: Path, scheme: str):
    """A thousand messages sent at once come back in order, a large one whole, and the close code is the server's own."""
    authority = Authority(tmp_path)
    pair = authority.pair("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    route = f"tls: {{ca_file: {authority.file}}}" if scheme == "https" else ""
    server = ChatServer()
    async with (
        server.serving(context if scheme == "https" else None),
        in_front_of(f"{scheme}://127.0.0.1:{server.port}", tmp_path, route=route) as gateway,
        aiohttp.ClientSession() as session,
    ):
        async with session.ws_connect(f"{gateway.url}/chat", protocols=("chat.v2",), max_msg_size=0) as chat:
            assert "chat.v2" == chat.protocol
            for number in range(1000):
                await chat.send_str(f"message {number}")
            assert [f"message {number}" for number in range(1000)] == [await chat.receive_str() for _ in range(1000)]
            large = bytes(range(256)) * 8192
            await chat.send_bytes(large)
            assert large == await chat.receive_bytes()
            await chat.send_str("close")
            assert aiohttp.WSMsgType.CLOSE is (await chat.receive()).type
            assert 4321 == chat.close_code
        async with session.ws_connect(f"{gateway.url}/chat") as chat:
            await chat.close(code=4000)
        while len(server.close_codes) < 2:
            await CLOCK.sleep(0.01)
        assert 4000 == server.close_codes[1]


async def test_a_chat_that_a_foreign_page_opens(tmp_path: Path):
    """No CORS guards a WebSocket: the page's origin is refused before the upstream hears of it."""
    server = ChatServer()
    async with server.serving(), in_front_of(server.port, tmp_path) as gateway, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{gateway.url}/chat", origin="https://evil.example")
        assert 403 == refused.value.status
        async with session.ws_connect(f"{gateway.url}/chat", origin=gateway.url) as chat:
            await chat.send_str("from the gateway's own origin")
            assert "from the gateway's own origin" == await chat.receive_str()


@on_both_loops
async def test_events_outlive_their_token(tmp_path: Path):
    """Each event arrives before the next is sent; when the token expires the stream goes on, and others get a new one."""

    async def events(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(4):
            event = b"data: %d\n\n" % number
            upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
            await upstream.stall()
        upstream.send(b"0\r\n\r\n")

    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(events, always(ok())) as upstream:
        server.script.append(token_reply("at-short", expires_in=2))
        async with in_front_of(upstream.port, tmp_path, server=server) as gateway, connected(gateway.port) as client:
            await client.send(request())
            assert 200 == (await client.answer(head_only=True)).status
            for number in range(4):
                async with asyncio.timeout(20):
                    assert b"data: %d\n\n" % number == (await client.reader.readuntil(b"\n\n")).split(b"\r\n")[-1]
                if number == 1:
                    await CLOCK.sleep(2.1)  # the token's life
                    assert 200 == (await ask(gateway.port, request())).status
                upstream.go_on()
            streaming, other = upstream.received
            assert b"Bearer at-short\r\n" in streaming
            assert b"Bearer at-1\r\n" in other
