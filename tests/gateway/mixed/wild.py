"""Random requests and random answers of an upstream, plain and odd ones, and some that are malformed or cut off."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.gateway.http.test_fuzz import RESPONSES, SEEDS, TOKEN, VALUE, chunked, honest, mutated, some

UPSTREAM = b"@UPSTREAM@"  # stands for the upstream's own address
_ODD_LINES = (
    b"Connection: close", b"Connection: keep-alive", b"Connection: X-Hop, keep-alive", b"connection:content-length, x-hop",
    b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Authorization: Basic Zm9v", b"AUTHORIZATION:Bearer stolen", b"Cookie: a=b", b"Cookie: c=d",
    b"TE: trailers", b"Via: 1.0 fred", b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Proto: https", b"Forwarded: for=192.0.2.1",
    b"X-Request-Id: chosen", b"X-Request-Id: a b", b"Max-Forwards: 0", b"Proxy-Authorization: Basic Zm9v", b"Proxy-Connection: close",
    b"Expect: 100-continue", b"Expect: something", b"Range: bytes=0-1", b'If-None-Match: "x"', b"Accept-Encoding: gzip",
    b"X_Forwarded_For: 1", b"x_own: 1", b"Origin: http://evil.example", b"Sec-Fetch-Site: cross-site", b"Host: localhost",
    b"Empty:", b"Spaced:   \t x \t ", b"Content-Length: 0", b"Transfer-Encoding: gzip", b"Trailer: T", b"Date: yesterday",
    b"User-Agent: a", b"user-agent: b", b"Content-Type: a/b", b"ETag: x", b"Max-Forwards: 1", b"Server: a",
)  # fmt: skip
_ODD_ANSWER_LINES = (
    b"Connection: close", b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Set-Cookie: a=b", b"set-cookie:c=d; Path=/",
    b"Location: http://" + UPSTREAM + b"/there", b"Location: /here", b"Content-Location: http://" + UPSTREAM + b"/x", b"Via: 1.0 fred",
    b"Date: yesterday", b"Server: \xfc", b"Trailer: T", b"Upgrade: h2c", b"Proxy-Authenticate: Basic", b"Content-Encoding: gzip",
    b"WWW-Authenticate: Basic", b'WWW-Authenticate: Bearer error="insufficient_scope"', b"Empty:", b"Spaced:  \t x \t", b'ETag: "x"',
    b"X-Request-Id: theirs", b"Access-Control-Allow-Origin: *", b'Alt-Svc: h2=":1"', b"Age: 1",
)  # fmt: skip
_STATUSES = (200, 200, 200, 201, 204, 205, 206, 301, 302, 304, 400, 401, 403, 404, 407, 417, 421, 426, 500, 503, 599)


@dataclass(frozen=True)
class Said:
    """What the upstream says to a request: the pieces it sends, and whether it closes after them."""

    pieces: list[bytes]
    closes: bool
    malformed: bool  # or cut off, perhaps


def asked(random: Random, nonce: bytes) -> bytes:
    """Returns a request; one in twelve has something added that is often refused."""
    octets = honest(random, nonce).octets
    for line in random.sample(_ODD_LINES, random.choice([0, 0, 1, 2, 4])):
        if line.startswith((b"Host", b"Content-L", b"Transfer", b"Origin", b"Sec-", b"X_F")) and random.random() < 0.8:
            continue
        head, _, rest = octets.partition(b" HTTP/1.1\r\n")
        octets = head + b" HTTP/1.1\r\n" + line + b"\r\n" + rest
    if random.random() < 0.04:
        octets = octets.replace(b" HTTP/1.1\r\n", random.choice([b" HTTP/1.0\r\n", b" HTTP/1.2\r\n"]), 1)
    return octets


def malformed(random: Random) -> bytes:
    """Returns a request that is malformed in most cases."""
    return mutated(random, random.choice([*SEEDS, asked(random, b"once")]))


def said(random: Random, *, honest_end: bool) -> Said:
    """Returns an answer; with `honest_end` its connection closes only where it said so, and so is never missed."""
    kind = random.random() * (0.75 if honest_end else 1)
    octets, closes = (
        _answer(random, says_so=honest_end) if kind < 0.85 else (mutated(random, random.choice(RESPONSES)), True)
    )
    if 0.75 < kind < 0.85:
        octets, closes = octets[: random.randrange(len(octets))], True
    cuts = sorted(random.randrange(len(octets) + 1) for _ in range(random.choice([0, 0, 0, 1, 5])))
    pieces = [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    return Said([piece for piece in pieces if piece], closes, kind > 0.75)


def _answer(random: Random, *, says_so: bool) -> tuple[bytes, bool]:
    """Returns a well-formed answer, and whether it ends with the connection."""
    interim = b""
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        interim += random.choice(
            [
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
                b"HTTP/1.1 102 x\r\n\r\n",
            ]
        )
    status = random.choice(_STATUSES)
    version = random.choice([b"1.1", b"1.1", b"1.1", b"1.0"])
    line = b"HTTP/%s %d " % (version, status) + random.choice([b"OK", b"", b"Fine  then", b"\xe4\xf6"])
    lines = [
        b"X" + some(random, TOKEN, 1, 9) + b": " + some(random, VALUE, 0, 30).strip(b" \t")
        for _ in range(random.randint(0, 4))
    ]
    lines += random.sample(_ODD_ANSWER_LINES, random.choice([0, 1, 2, 4]))
    random.shuffle(lines)
    body = some(random, bytes(range(256)), 0, random.choice([0, 30, 400])) * random.choice([1, 1, 1, 60])
    closes = b"Connection: close" in lines
    if status in {204, 304}:
        lines += [b"Content-Length: 5"] if status == 304 and random.random() < 0.5 else []
        coded = b""
    elif version == b"1.1" and random.random() < 0.4:
        lines.append(b"Transfer-Encoding: chunked")
        coded = chunked(random, body)
    elif random.random() < 0.8:
        lines.append(b"Content-Length: %d" % len(body))
        coded = body
    else:
        coded, closes = body, True
        lines += [b"Connection: close"] if says_so else []  # in an answer to HEAD nothing else would
    if status == 205:
        coded = b"" if b"Content-Length: %d" % len(body) in lines and not body else coded
    return interim + b"\r\n".join([line, *lines, b"", b""]) + coded, closes or version == b"1.0"
