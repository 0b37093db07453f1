"""Clients that keep their connections, send one request after the other or several at once, and leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random

from tests.gateway.mixed.upstream import BROKEN, KINDS
from tests.support.raw_client import Answer, RawClient

WITHIN_S = 30.0  # an answer, or the connection's end, on a machine that does other things too
CANCELS = 0.08  # of the rounds
_METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"POST")


@dataclass(frozen=True)
class Asked:
    """A request and what it is known by."""

    kind: str
    nonce: bytes
    method: bytes
    closes: bool


@dataclass
class Crowd:
    """All clients: what they asked in all, and what became of it."""

    port: int
    seed: int
    requests: int
    asked: list[Asked] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    async def run(self, clients: int) -> None:
        """Sends all requests by so many clients at once."""
        await asyncio.gather(*(self._client(Random(f"{self.seed} {number}")) for number in range(clients)))

    async def _client(self, random: Random) -> None:
        while len(self.asked) < self.requests:
            client = await RawClient.connect(self.port)
            try:
                for _ in range(random.randint(1, 20)):
                    if len(self.asked) >= self.requests or not await self._round(client, random):
                        break
            except (ConnectionError, asyncio.IncompleteReadError):
                self.outcomes["connection lost"] += 1
            finally:
                client.writer.transport.abort()
                await client.close()

    async def _round(self, client: RawClient, random: Random) -> bool:
        """Sends a few requests and reads their answers; tells whether the connection goes on."""
        requests = [self._request(random) for _ in range(random.choice([1, 1, 1, 2, 3, 5]))]
        sent = [asked for asked, _ in requests]
        self.asked += sent
        octets = b"".join(octets for _, octets in requests)
        cancels = random.random() < CANCELS
        if cancels and random.random() < 0.5:  # in the midst of a request, or right behind it
            client.writer.write(octets[: random.randint(1, len(octets))])
            await asyncio.sleep(random.choice([0, 0.002]))  # noqa: TID251
            self.outcomes["cancelled while asking"] += 1
            return False
        cuts = sorted(random.randrange(len(octets)) for _ in range(random.choice([0, 0, 1, 4])))
        for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
            client.writer.write(octets[start:end])
            await asyncio.sleep(0)  # noqa: TID251  # so that the pieces are mostly read apart
        if cancels:
            await asyncio.sleep(random.choice([0, 0.002]))  # noqa: TID251
            await client.reader.read(random.randint(1, 400))
            self.outcomes["cancelled in an answer"] += 1
            return False
        for asked in sent:
            try:
                async with asyncio.timeout(WITHIN_S):
                    goes_on = await self._answered(client, asked)
            except TimeoutError:
                self.faults.append(f"no answer to {asked.method!r} {asked.kind} {asked.nonce!r}")
                return False
            if not goes_on:
                return False
        return True

    def _request(self, random: Random) -> tuple[Asked, bytes]:
        kind, method = random.choice(KINDS), random.choice(_METHODS)
        nonce = b"n%06d" % next(self._numbers)
        lines = [b"%s /%s/%s HTTP/1.1" % (method, kind.encode(), nonce), b"Host: localhost", b"X-Nonce: " + nonce]
        lines.append(b"X-Request-Id: " + nonce)
        closes = random.random() < 0.03
        if closes:
            lines.append(b"Connection: close")
        body = b""
        if method == b"POST":
            body = nonce * random.choice([0, 1, 20, 3000, 12_000])
            if random.random() < 0.5:
                lines.append(b"Content-Length: %d" % len(body))
            else:
                lines.append(b"Transfer-Encoding: chunked")
                body = _chunked(body, random)
        return Asked(kind, nonce, method, closes), b"\r\n".join([*lines, b"", b""]) + body

    async def _answered(self, client: RawClient, asked: Asked) -> bool:
        """Reads the answer and holds it against the request; tells whether the connection goes on."""
        try:
            answer = await client.answer(head_only=asked.method == b"HEAD")
            while answer.status < 200:
                self._compare(asked, answer.field(b"X-Nonce"))
                answer = await client.answer(head_only=asked.method == b"HEAD")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if getattr(error, "partial", b""):
                self.outcomes[f"cut ({'broken upstream' if asked.kind in BROKEN else asked.kind})"] += 1
            else:
                self.outcomes[f"closed before the answer ({asked.method.decode()})"] += 1
            return False
        self._judge(asked, answer)
        return not asked.closes and (answer.field(b"Connection") or b"").lower() != b"close"

    def _judge(self, asked: Asked, answer: Answer) -> None:
        if answer.field(b"Content-Type") == b"application/problem+json":
            if asked.method != b"HEAD":
                self._compare(asked, json.loads(answer.body)["request_id"].encode())
            broken = "broken upstream" if asked.kind in BROKEN else asked.kind
            self.outcomes[f"problem {answer.status} ({asked.method.decode()}, {broken})"] += 1
            return
        self.outcomes[f"{answer.status}"] += 1
        self._compare(asked, answer.field(b"X-Nonce"))
        if answer.body != asked.nonce * (len(answer.body) // len(asked.nonce)):
            self.faults.append(f"{asked.method!r} {asked.kind} {asked.nonce!r} got {answer.body[:80]!r}")

    def _compare(self, asked: Asked, nonce: bytes | None) -> None:
        if nonce != asked.nonce:
            self.faults.append(f"{asked.method!r} {asked.kind} {asked.nonce!r} got the answer to {nonce!r}")


def _chunked(body: bytes, random: Random) -> bytes:
    coded = b""
    while body:
        size = random.randint(1, len(body))
        coded += b"%x\r\n%s\r\n" % (size, body[:size])
        body = body[size:]
    return coded + b"0\r\n\r\n"
