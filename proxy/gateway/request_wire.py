"""One request's connection in aiohttp's hands, as a ``Wire`` for the handler: public parts of aiohttp only."""

from __future__ import annotations

import asyncio

from aiohttp import web

from proxy.errors import Problem, Refusal
from proxy.gateway.admission import Place


class RequestWire:
    """One request's connection, as aiohttp gives it: public parts only."""

    __slots__ = ("_content", "_place", "_request")

    def __init__(self, request: web.BaseRequest, place: Place) -> None:
        self._request = request
        self._place = place
        self._content = request.content

    @property
    def transport(self) -> asyncio.Transport | None:
        """Returns the connection's transport, None once it is gone."""
        return self._request.transport

    @property
    def body_complete(self) -> bool:
        """Tells whether the whole request body was read."""
        return self._content.is_eof() and self._content.at_eof()

    def read_nowait(self) -> bytes:
        """Returns what has come of the body. Raises Refusal(BAD_REQUEST) if it is malformed or cut."""
        try:
            return self._content.read_nowait()
        except web.RequestPayloadError as error:
            raise _malformed_body() from error

    async def read(self) -> bytes:
        """Returns the next octets of the body, b"" at its end. Raises as `read_nowait` does, and if the client is gone."""
        try:
            return await self._content.readany()
        except web.RequestPayloadError as error:
            raise _malformed_body() from error

    def untaken(self) -> int:
        """Returns how many octets were written that the client's side has not taken yet, the system's included."""
        return self._place.untaken(self._request.transport)

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the client does not take it. Raises ConnectionError if it is gone."""
        await self._request.writer.write(data)
        await self._request.writer.drain()


def _malformed_body() -> Refusal:
    return Refusal(Problem.BAD_REQUEST, "malformed request body")
