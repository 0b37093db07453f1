"""The same octets to two gateways, one with the direct path and one without: nobody can tell which is which.

Random requests, plain and odd and malformed, and random answers of the upstream. What differs is the time (Date) and
request ids that the gateway makes; how an answer's chunks are cut is no part of it. One difference is wanted: what is
malformed in the very piece that brought its head is 502 on the direct path, and may be a visible cut on the other. And
one is known: behind an answer that closes, the direct path reads on for a while, where the general one may be closed
while its client still sends, and what was on its way is lost; as it is where a client ends within a request.

Bounded, and the same in each run: the seed is written here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.gateway.mixed.wild import UPSTREAM, Said, asked, malformed, said
from tests.support.both_loops import on_both_loops
from tests.support.gateway import Taken, running_gateway
from tests.support.raw_client import RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream

SEED = 5
END = b"GET /end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
REFUSED = (b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")
DATES = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
MADE_IDS = re.compile(rb'(?i)(?<=x-request-id: )[0-9a-f-]{16,}|(?<="request_id":")[0-9a-f-]{16,}')


@dataclass(frozen=True)
class Answered:
    """One answer, or as much as came of it."""

    head: bytes
    body: bytes
    whole: bool

    @property
    def refused(self) -> bool:
        """The gateway says that the upstream's answer was malformed."""
        return self.head.startswith(b"HTTP/1.1 502 ") and b"application/problem+json" in self.head


@dataclass
class Side:
    """One gateway and its upstream, which says what the present case has for it."""

    port: int = 0
    upstream: ScriptedUpstream = field(default_factory=ScriptedUpstream)
    says: list[Said] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    reset: bool = False  # the gateway closed while the client was still sending: the system may have dropped answers

    async def serve(self, connection: ScriptedConnection) -> None:
        """Answers each request with what is due."""
        while True:
            request = await connection.request()
            says = self.says[min(len(self.requests), len(self.says) - 1)]
            self.requests.append(without_made_ids(request))
            with suppress(RuntimeError):  # the gateway has closed already, and uvloop tells it so
                for piece in says.pieces:
                    connection.send(piece.replace(UPSTREAM, b"127.0.0.1:%d" % self.upstream.port))
                    await asyncio.sleep(0)  # noqa: TID251  # so that the pieces are mostly read apart
            if says.closes:
                connection.close()
                return

    async def run(self, says: list[Said], pieces: list[bytes], methods: list[bytes], *, ends: bool) -> list[Answered]:
        """Sends the pieces on a new connection, and returns all that came back until its end."""
        self.says, self.requests, self.reset = says, [], False
        client = await RawClient.connect(self.port)
        try:
            with suppress(OSError, RuntimeError):  # the gateway has closed already; uvloop tells it so
                for piece in pieces:
                    client.writer.write(piece)
                    await asyncio.sleep(0)  # noqa: TID251
                if ends:
                    client.writer.write_eof()
            async with asyncio.timeout(20):
                octets = await self._everything(client)
        finally:
            client.writer.transport.abort()
            await client.close()
        return parsed(without_made_ids(DATES.sub(b"Date: now", octets)), methods)

    async def _everything(self, client: RawClient) -> bytes:
        octets = b""
        try:
            while data := await client.reader.read(65_536):
                octets += data
        except ConnectionError:
            self.reset = True
        return octets


def without_made_ids(octets: bytes) -> bytes:
    """Returns the octets with others, as many, in place of request ids that the gateway made."""
    return MADE_IDS.sub(lambda made: b"x" * len(made[0]), octets)


def parsed(octets: bytes, methods: list[bytes]) -> list[Answered]:
    """Returns the answers to requests with these methods, interim ones included; the last one may not be whole."""
    answers = []
    left = list(methods)
    while octets:
        head, end, octets = octets.partition(b"\r\n\r\n")
        if not end:
            return [*answers, Answered(head, b"", whole=False)]
        if head.startswith(b"HTTP/1.1 1"):
            answers.append(Answered(head, b"", whole=True))
            continue
        method = left.pop(0) if left else b"GET"
        body, whole = b"", True
        length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        if method == b"HEAD" or head[9:12] in {b"204", b"304"}:
            pass
        elif re.search(rb"(?im)^transfer-encoding: chunked", head):
            body, octets, whole = dechunked(octets)
        elif length is not None:
            body, octets = octets[: int(length[1])], octets[int(length[1]) :]
            whole = len(body) == int(length[1])
        else:
            body, octets = octets, b""
        if head.startswith(REFUSED) and b"application/problem+json" in head:
            # what aiohttp refuses has a request id that was made, and its reply to HEAD has a body, which ends with the connection
            octets = octets[octets.find(b"}") + 1 :] if octets.startswith(b'{"type":') else octets
            head, body, whole = head[:12], b"", True
        answers.append(Answered(head, body, whole))
    return answers


def dechunked(octets: bytes) -> tuple[bytes, bytes, bool]:
    """Returns a body, what is behind it, and whether it is whole."""
    body = b""
    while True:
        size, end, octets = octets.partition(b"\r\n")
        if not end:
            return body, b"", False
        body, octets = body + octets[: int(size, 16)], octets[int(size, 16) + 2 :]
        if not int(size, 16):
            return body, octets, True


@asynccontextmanager
async def side(folder: Path, token_endpoint: str, *, direct: bool) -> AsyncIterator[Side]:
    """Runs a gateway on one of the paths, with an upstream of its own."""
    made = Side()
    async with ScriptedUpstream(made.serve) as made.upstream:
        text = f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
log: {{level: warning, access: false}}
credentials:
  main: {{token_endpoint: {token_endpoint}, client_id: legacy-app, client_secret: "a secret"}}
x-route: &route
  upstream: http://127.0.0.1:{made.upstream.port}
  host_header: api.example
  credential: main
  pool: {{reuse: false}}
  retries: {{connect: 0}}
  on_unauthorized: {{replay: false}}
routes:
  - {{<<: *route, name: all, match: {{path_prefix: /}}}}
  - {{<<: *route, name: kept, match: {{path_prefix: /kept}}, pool: {{reuse: true}}}}
"""
        folder.mkdir()
        Taken.direct = direct
        try:
            async with running_gateway(text, folder) as gateway:
                made.port = gateway.port
                yield made
        finally:
            Taken.direct = True


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", [200, pytest.param(5000, marks=pytest.mark.slow)])
@on_both_loops
async def test_random_traffic_on_both_paths(tmp_path_factory: pytest.TempPathFactory, cases: int):
    """The upstreams get the same octets, and the clients the same answers."""
    folder = tmp_path_factory.mktemp("both")
    random = Random(SEED)
    seen: Counter[str] = Counter()
    async with (
        ScriptedAuthorizationServer(default=token_reply("at-same")) as server,
        side(folder / "direct", server.url, direct=True) as direct,
        side(folder / "general", server.url, direct=False) as general,
    ):
        for case in range(cases):
            ill, kept = random.random() < 0.3, random.random() < 0.4
            first = b"kept" if kept else b"n%d" % case
            requests = (
                [malformed(random)] if ill else [asked(random, first) for _ in range(random.choice([1, 1, 2, 4]))]
            )
            methods = [request.lstrip(b"\r\n").split(b" ")[0] for request in requests]
            ends = ill or random.random() < 0.3
            octets = b"".join(requests) + (b"" if ends else END)
            cuts = sorted(random.randrange(len(octets)) for _ in range(random.choice([0, 0, 1, 5])))
            pieces = [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
            says = [said(random, honest_end=kept and not ill) for _ in range(len(requests) + 1)]
            theirs, ours = await asyncio.gather(
                general.run(says, pieces, methods, ends=ends), direct.run(says, pieces, methods, ends=ends)
            )
            lost = direct.reset or general.reset or ill  # an end within a request may come before the decision on it
            alike = agree(ours, theirs, seen, lost=lost) or (ours == theirs and direct.requests == general.requests)
            assert alike, difference(case, pieces, says, (ours, direct.requests), (theirs, general.requests))
    print(f"\n{cases} cases; answers: {', '.join(f'{name}: {number}' for name, number in seen.most_common())}")
    assert seen["whole"] > cases
    assert seen["cut"] > cases // 100
    assert seen["missing at the end"] <= cases // 50


def difference(case: int, pieces: list[bytes], says: list[Said], ours: object, theirs: object) -> str:
    """Returns what one has to see of a case."""
    shown = [f"sent {pieces!r}", *(f"said {one!r}" for one in says), f"direct {ours!r}", f"general {theirs!r}"]
    return "\n".join([f"case {case}", *(line[:3000] for line in shown)])


def agree(ours: list[Answered], theirs: list[Answered], seen: Counter[str], *, lost: bool) -> bool:
    """Tells whether the answers differ only as wanted; what follows on those connections is not compared.

    `lost` says that the last answers may be missing on one side.
    """
    for mine, other in zip(ours, theirs, strict=False):
        seen["whole" if mine.whole else "cut"] += 1
        if mine.refused and not other.whole:
            seen["502 here, cut there"] += 1
            return True
        if not mine.whole and not other.whole:  # how much of it got through is a matter of time
            return mine.head == other.head and (mine.body.startswith(other.body) or other.body.startswith(mine.body))
        if mine != other:
            return False
    if lost and len(ours) != len(theirs):
        seen["missing at the end"] += 1
        return True
    return False
