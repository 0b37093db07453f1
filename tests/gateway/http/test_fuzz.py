"""Random requests and responses over real sockets, with h11 as a second, strict reader of what comes out on either side.

Bounded, and the same in each run: the seed is written here.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from random import Random

import h11
import pytest

from proxy.http1.wire import METHODS
from tests.gateway.http.world import World
from tests.support.raw_client import RawClient
from tests.support.scripted_upstream import ScriptedConnection, ok

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

CASES = [100, pytest.param(5000, marks=pytest.mark.slow)]
TOKEN = (
    b"!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # no `_`: it has rules of its own
)
SEGMENT = b"abcxyzABC0189-._~!$&'()*+,=:@[]|\"<>^`{}"
QUERY = SEGMENT + b"/?%;\\"
VALUE = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100)) + b" \t"
# what an answer to something malformed may say
REFUSALS = {400, 403, 404, 405, 413, 414, 417, 421, 431, 501, 505, 508}


# ---- honest requests


@dataclass(frozen=True)
class Honest:
    """A request that has nothing wrong with it."""

    octets: bytes
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes


def some(random: Random, octets: bytes, least: int, most: int) -> bytes:
    return bytes(random.choices(octets, k=random.randint(least, most)))


def honest(random: Random, nonce: bytes) -> Honest:
    method = random.choice(sorted(METHODS))
    segments = [some(random, SEGMENT, 1, 9) for _ in range(random.randint(0, 3))]
    segments = [segment if segment.strip(b".") else b"x" for segment in segments]
    if random.random() < 0.3:
        segments.append(random.choice([b"", b"%2F", b"a%2fb;c", b"%C3%A9", b";p=1"]))
    target = b"/" + b"/".join([nonce, *segments])
    if random.random() < 0.4:
        target += b"?" + some(random, QUERY, 0, 20)
    fields = [
        (b"X" + some(random, TOKEN, 1, 12), some(random, VALUE, 0, 40).strip(b" \t"))
        for _ in range(random.randint(0, 6))
    ]
    body = some(random, bytes(range(256)), 0, 300) if random.random() < 0.6 else b""
    lines = [
        name + random.choice([b":", b": ", b":\t "]) + value + random.choice([b"", b"", b" "]) for name, value in fields
    ]
    lines.insert(random.randint(0, len(lines)), random.choice([b"Host: localhost", b"hOST:127.0.0.1:80 "]))
    if random.random() < 0.5:
        lines.append(b"Content-Length: %d" % len(body))
        coded = body
    else:
        lines.append(random.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"]))
        coded = chunked(random, body)
    head = b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", b""])
    return Honest(b"\r\n" * random.choice([0, 0, 0, 1, 2]) + head + coded, method, target, fields, body)


def chunked(random: Random, body: bytes) -> bytes:
    coded = b""
    while body:
        size = random.randint(1, len(body))
        extension = random.choice([b"", b"", b";a", b' ;b="c;d"'])
        coded += random.choice([b"%x", b"%X", b"00%x"]) % size + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    return coded + random.choice([b"0\r\n\r\n", b"00;x\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"])


def read_request(octets: bytes) -> tuple[h11.Request, bytes, bool]:
    """Returns a request as h11 reads it, its body, and whether it is whole. Raises h11.RemoteProtocolError."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(octets)
    request = reader.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += bytes(event.data)
    return request, body, isinstance(event, h11.EndOfMessage)


@pytest.mark.parametrize("cases", CASES)
async def test_R44_honest_requests_arrive(world: World, cases: int):
    """Whatever is well-formed, pipelined and cut anywhere, arrives as it was meant, and gets its own answer in order."""

    async def echo(connection: ScriptedConnection) -> None:
        octets = await connection.request()
        connection.send(ok(octets.split(b" ")[1]))

    world.script = echo
    random = Random(1)
    for case in range(cases):
        requests = [honest(random, b"n%d-%d" % (case, number)) for number in range(random.randint(1, 4))]
        whole = b"".join(request.octets for request in requests)
        before = len(world.connections)
        client = await RawClient.connect(world.port)
        cuts = sorted(random.randrange(len(whole)) for _ in range(random.choice([0, 1, 5, 30])))
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            await client.send(whole[start:end])
            await asyncio.sleep(0)  # noqa: TID251  # so that the piece is mostly read apart
        for request in requests:
            answer = await client.answer(head_only=request.method == b"HEAD")
            assert 200 == answer.status, request
            if request.method != b"HEAD":
                assert request.target == answer.body
        client.writer.transport.abort()
        await client.close()
        for request, connection in zip(requests, world.connections[before:], strict=True):
            read, body, complete = read_request(bytes(connection.received))
            assert (request.method, request.target, request.body, True) == (read.method, read.target, body, complete)
            arrived = [field for field in read.headers.raw_items() if field in request.fields]
            assert request.fields == arrived, request


# ---- requests with something wrong


SEEDS = [
    b"GET /a%2fb?c HTTP/1.1\r\nHost: localhost\r\nCookie: a=b\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    b"GET http://localhost/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic x\r\n\r\n",
    b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 1\r\n\r\n",
    b"HEAD /admin;x/../y HTTP/1.1\r\nHost: localhost:80\r\nX-Request-Id: 1\r\nVia: 1.1 bearer-proxy\r\n\r\n",
]
LINES = [
    b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Host: localhost",
    b"Authorization: Bearer x", b"Connection: close", b"Connection: content-length", b"X_Forwarded_For: 1", b" folded", b"",
]  # fmt: skip
ODD = b'\x00\x01\t\n\r\r\n  ;,:/\\%.0123aZ_-"\x7f\x80\xff'


def mutated(random: Random, octets: bytes) -> bytes:
    """Returns the octets with a few of them changed: a single one, a line put in, a part taken out or doubled."""
    for _ in range(random.choice([0, 1, 1, 2, 4])):
        at = random.randrange(len(octets))
        end = min(len(octets), at + random.randint(1, 20))
        match random.randrange(5):
            case 0:
                octets = octets[:at] + bytes([random.choice(ODD)]) + octets[at + 1 :]
            case 1:
                octets = octets[:at] + bytes([random.choice(ODD)]) + octets[at:]
            case 2:
                octets = octets[:at] + octets[end:] or b"x"
            case 3:
                octets = octets[:end] + octets[at:]
            case _:
                line_end = octets.find(b"\r\n", at) + 2
                octets = octets[:line_end] + random.choice(LINES) + b"\r\n" + octets[line_end:]
    return octets


async def everything(client: RawClient) -> bytes:
    """Returns all that comes until the connection ends, by whichever way."""
    octets = b""
    try:
        while data := await client.reader.read(65_536):
            octets += data
    except ConnectionError:
        pass
    return octets


def read_answers(octets: bytes, methods: list[str]) -> list[tuple[int, bytes] | None]:
    """Returns status and body of each answer as h11 reads them; None for one that is cut off within its body.

    Raises h11.RemoteProtocolError for one that is malformed.
    """
    answers: list[tuple[int, bytes] | None] = []
    for method in methods:
        if not octets:
            break
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(octets)
        reader.receive_data(b"")
        body, status = b"", 0
        try:
            while not isinstance(event := reader.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
        except h11.RemoteProtocolError as error:
            if "without sending complete message body" not in str(error):
                raise
            return [*answers, None]
        answers.append((status, body))
        octets = reader.trailing_data[0]
    return answers


@pytest.mark.parametrize("cases", CASES)
async def test_R31_malformed_requests(world: World, cases: int):
    """What reaches the upstream is well-formed to h11 too and carries one Authorization, ours; the rest is refused."""
    random = Random(2)
    served = refused = 0
    for _ in range(cases):
        sent = b"".join(mutated(random, random.choice(SEEDS)) for _ in range(random.randint(1, 2)))
        before = len(world.connections)
        client = await RawClient.connect(world.port)
        await client.send(sent)
        client.writer.write_eof()
        octets = await everything(client)
        await client.close()
        for connection in world.connections[before:]:
            await connection.until(lambda connection=connection: connection.eof or bool(connection.requests))
            if not connection.received:
                continue  # its client had left
            read, _, complete = read_request(bytes(connection.received))
            fields = list(read.headers)
            assert 1 == sum(name == b"authorization" and value.startswith(b"Bearer at-") for name, value in fields), (
                sent
            )
            assert 1 == sum(name == b"authorization" for name, _ in fields)
            assert [b"127.0.0.1:%d" % world.upstream.port] == [value for name, value in fields if name == b"host"]
            assert 1 >= sum(name in {b"content-length", b"transfer-encoding"} for name, _ in fields)
            assert not {b"connection", b"te", b"trailer", b"expect", b"upgrade"} & {name for name, _ in fields}
            served += complete
        heads = [part for part in octets.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100 ")]
        statuses = [int(part[:3]) for part in heads]
        assert set(statuses) <= REFUSALS | {200, 204}, sent
        assert not any(status in REFUSALS - {403, 404, 405, 421, 508} for status in statuses[:-1]), sent  # they close
        refused += bool(statuses) and statuses[-1] in REFUSALS
    assert served > cases // 10
    assert refused > cases // 10


# ---- responses with something wrong


RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\nConnection: x\r\nX: y\r\n\r\nfine",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n4;x\r\nfine\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end",
    b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n",
]


def without_idle_codings(octets: bytes, *, bodiless: bool) -> bytes:
    """Returns a response without transfer codings where they say nothing: the gateway drops them, h11 refuses some."""
    parts = re.fullmatch(rb"(?s)((?:HTTP/1\.[01] 1.*?\r\n\r\n)*)(.*?\r\n\r\n)(.*)", octets)
    assert parts is not None
    interim, head, body = parts.groups()
    codings = re.compile(rb"(?i)\nTransfer-Encoding:[^\n]*(?=\n)")
    return codings.sub(b"", interim) + (codings.sub(b"", head) if bodiless else head) + body


@pytest.mark.parametrize("cases", CASES)
async def test_R38_malformed_responses(world: World, cases: int):
    """What the client gets is well-formed to h11 and what h11 reads in the upstream's octets; or 502; or visibly cut."""
    random = Random(3)
    relayed = failed = cut = 0
    for _ in range(cases):
        said = mutated(random, random.choice(RESPONSES))
        world.says(said, then="close")
        method = random.choice(["GET", "GET", "HEAD"])
        client = await RawClient.connect(world.port)
        await client.send(method.encode() + b" /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        octets = await everything(client)
        await client.close()
        (answer,) = read_answers(octets, [method])
        if answer is None:
            cut += 1
        elif answer[0] == 502:
            assert b"application/problem+json" in octets
            failed += 1
        else:
            plain = without_idle_codings(said, bodiless=method == "HEAD" or answer[0] in {204, 304})
            assert [answer] == read_answers(plain, [method]), said
            relayed += 1
    assert min(relayed, failed) > cases // 5
    assert cut >= cases // 500  # few on the direct path: what is malformed in the piece of the head is 502 there
