"""The clients of the soak: plain requests, streams and tunnels, about one in twenty of them given up on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from random import Random

import aiohttp

from proxy.clock import Clock
from proxy.units import KIB

CANCELS = 0.1  # of the exchanges are to be given up; half of those are over sooner
WITHIN_S = 30.0  # for one answer, one event, or one message


class Traffic:
    """What the clients did. `faults` holds every answer that was not the expected one."""

    def __init__(self, url: str, clock: Clock, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self._url = url
        self._clock = clock
        self._random = Random(seed)
        self._numbers = count()

    async def run(self, until_s: float) -> None:
        """Keeps all clients busy until then."""
        kinds: list[Callable[[aiohttp.ClientSession, str], Awaitable[None]]] = []
        kinds += [self._plain] * 8 + [self._alone] * 2 + [self._long] * 3 + [self._events] * 6 + [self._chat] * 6
        await asyncio.gather(*(self._client(kind, until_s) for kind in kinds))

    async def _client(self, kind: Callable[[aiohttp.ClientSession, str], Awaitable[None]], until_s: float) -> None:
        async with aiohttp.ClientSession() as session:
            while self._clock.now() < until_s:
                name = kind.__name__.strip("_")
                cancels = self._random.random() < CANCELS
                try:
                    async with asyncio.timeout(self._soon_s() if cancels else None):
                        await kind(session, f"n{next(self._numbers)}")
                except TimeoutError as error:
                    if not cancels:
                        self.faults.append(f"{name}: {error!r}")
                    self.done[f"{name}, cancelled"] += 1
                except (aiohttp.ClientError, ConnectionError) as error:
                    self.faults.append(f"{name}: {error!r}")
                else:
                    self.done[name] += 1
                if len(self.faults) > 100:
                    return

    def _soon_s(self) -> float:
        """Returns when to give up: within a request, between the octets of its answer, or within a stream."""
        return self._random.random() * self._random.choice([0.004, 0.004, 0.02, 2.0])

    def _expect(self, nonce: str, expected: object, got: object) -> None:
        if expected != got:
            self.faults.append(f"{nonce}: expected {expected!r}, got {got!r}"[:300])

    async def _plain(self, session: aiohttp.ClientSession, nonce: str) -> None:
        """GET, POST with a length, POST in chunks; on a connection that is kept."""
        body = nonce.encode() * self._random.choice([0, 1, 50, 5000])
        url = f"{self._url}/echo/{nonce}"
        kind = self._random.randrange(3)
        if kind == 0:
            asked, body = session.get(url), b""
        elif kind == 1:
            asked = session.post(url, data=body)
        else:
            asked = session.post(url, data=body, chunked=True)
        async with asyncio.timeout(WITHIN_S), asked as response:
            self._expect(nonce, (200, nonce.encode() + b" " + body), (response.status, await response.read()))
        await self._clock.sleep(self._random.random() * 0.02)

    async def _alone(self, session: aiohttp.ClientSession, nonce: str) -> None:
        """A request on a connection of its own."""
        asked = session.get(f"{self._url}/echo/{nonce}", headers={"Connection": "close"})
        async with asyncio.timeout(WITHIN_S), asked as response:
            self._expect(nonce, (200, nonce.encode() + b" "), (response.status, await response.read()))
        await self._clock.sleep(self._random.random() * 0.1)

    async def _long(self, session: aiohttp.ClientSession, nonce: str) -> None:
        """An answer of megabytes, which some take slowly."""
        times = self._random.choice([50_000, 200_000, 500_000])
        pause_s = self._random.choice([0.0, 0.0, 0.01])
        async with (
            asyncio.timeout(WITHIN_S),
            session.get(f"{self._url}/long/{nonce}", params={"times": times}) as response,
        ):
            self._expect(nonce, 200, response.status)
            body = bytearray()
            while piece := await response.content.read(64 * KIB):
                body += piece
                await self._clock.sleep(pause_s)
            self._expect(nonce, True, body == nonce.encode() * times)
        await self._clock.sleep(self._random.random() * 0.5)

    async def _events(self, session: aiohttp.ClientSession, nonce: str) -> None:
        """A stream of events, of up to eight seconds: longer than a token lives."""
        events = self._random.choice([1, 20, 160])
        async with session.get(f"{self._url}/events/{nonce}", params={"events": events}) as response:
            self._expect(nonce, 200, response.status)
            seen = 0
            while line := await asyncio.wait_for(response.content.readline(), WITHIN_S):
                if line.startswith(b"data: "):
                    self._expect(nonce, f"data: {nonce}\n".encode(), line)
                    seen += 1
            self._expect(nonce, events, seen)

    async def _chat(self, session: aiohttp.ClientSession, nonce: str) -> None:
        """A WebSocket through a tunnel, of up to eight seconds."""
        async with session.ws_connect(f"{self._url}/chat/{nonce}") as socket:
            for number in range(self._random.choice([1, 20, 160])):
                await socket.send_str(f"{number}" * 20)
                answer = await socket.receive_str(timeout=WITHIN_S)
                self._expect(nonce, f"{nonce} " + f"{number}" * 20, answer)
                await self._clock.sleep(0.05)
