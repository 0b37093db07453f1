"""Heads that come again and again: each time they meet all that the first one met, and get what is theirs.

The direct path remembers what was decided of a head from its second time on; each test sends it at least three times.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy import memo
from proxy.config.load import load
from proxy.gateway import repeated
from proxy.gateway.access import Access
from proxy.gateway.repeated import Repeated
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import RunningGateway, Taken, running
from tests.support.raw_client import Answer, RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, error_reply, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok
from tests.upstream.certificates import Authority

DATE = b"Date: Thu, 01 Jan 2026 00:00:00 GMT"
OK = ok(b"fine", DATE)


def kept(gateway: RunningGateway) -> int:
    """Returns how many heads are remembered."""
    return len(gateway.gateway.snapshot.repeated)


def remembers(gateway: RunningGateway, heads: int = 1) -> bool:
    """Tells whether so many heads are remembered: on the path that does so."""
    return kept(gateway) == (heads if Taken.direct else 0)


async def asked(client: RawClient, data: bytes, times: int = 3) -> list[Answer]:
    """Sends the same request so many times, each after the answer to the one before."""
    answers = []
    for _ in range(times):
        await client.send(data)
        answers.append(await client.answer(head_only=data.startswith(b"HEAD ")))
    return answers


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


def sent(upstream: ScriptedUpstream) -> list[bytes]:
    """Returns the requests that came to the upstream, by connection."""
    return [octets for connection in upstream.connections for octets in connection.requests]


def values(requests: list[bytes], name: bytes) -> list[bytes]:
    """Returns the values of a field in each request, joined."""
    return [
        b", ".join(line.partition(b": ")[2] for line in octets.split(b"\r\n") if line.startswith(name + b": "))
        for octets in requests
    ]


# ---- who asks


@on_both_loops
async def test_the_head_of_one_client_from_another_address(tmp_path: Path):
    """What one address may, another one may not, though its octets are the same."""
    top = "access: {allowed_clients: [127.0.0.1/32]}"
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path, top=top) as gateway:
        async with connected(gateway.port) as client:
            assert [200] * 3 == statuses(await asked(client, request()))
        assert remembers(gateway)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=("127.0.0.2", 0))
        other = RawClient(reader, writer)
        await other.send(request())
        assert 403 == (await other.answer()).status
        await other.close()
    assert 3 == len(sent(upstream))


@on_both_loops
async def test_the_claims_of_a_trusted_proxy_from_another_address(tmp_path: Path):
    """They are believed from the trusted proxy alone, and each client's own address is told."""
    top = "access: {trusted_proxies: [127.0.0.2/32]}"
    head = request(b"GET", b"/", b"X-Forwarded-For: 10.1.2.3")
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path, top=top) as gateway:
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(address, 0))
            client = RawClient(reader, writer)
            assert [200] * 3 == statuses(await asked(client, head))
            await client.close()
        assert remembers(gateway, 2)
        told = values(sent(upstream), b"X-Forwarded-For")
    assert [b"10.1.2.3, 127.0.0.2"] * 3 + [b"127.0.0.1"] * 6 == sorted(told)


@on_both_loops
async def test_the_same_head_by_a_unix_socket(tmp_path: Path):
    """Nobody's address is told of its clients, and the address of the others is."""
    path = tmp_path / "gateway.sock"
    listen = f"[127.0.0.1:0, 'unix:{path}']"
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path, listen=listen) as gateway:
        for _ in range(2):
            async with connected(gateway.port) as client:
                assert [200] * 3 == statuses(await asked(client, request()))
            client = RawClient(*await asyncio.open_unix_connection(str(path)))
            assert [200] * 3 == statuses(await asked(client, request()))
            await client.close()
        assert remembers(gateway, 2)
        assert [b""] * 6 + [b"127.0.0.1"] * 6 == sorted(values(sent(upstream), b"X-Forwarded-For"))


@on_both_loops
async def test_a_shared_key_that_changes(tmp_path: Path):
    """The old key opens nothing any more, on the same connection and with the same octets."""
    file = tmp_path / "key"
    file.write_text("the first key")
    top = f"access: {{require_header: {{name: X-Gateway-Key, value_file: {file}}}}}"
    head = request(b"GET", b"/", b"X-Gateway-Key: the first key")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, top=top) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200] * 3 == statuses(await asked(client, head))
        file.write_text("another key")
        assert [403] == statuses(await asked(client, head, 1))
        assert 0 == kept(gateway)
    assert 3 == len(sent(upstream))


@on_both_loops
async def test_a_key_of_the_route_that_changes(tmp_path: Path):
    """A route's own rules are asked each time, too."""
    file = tmp_path / "key"
    file.write_text("the first key")
    route = f"access: {{require_header: {{name: X-Route-Key, value_file: {file}}}}}"
    head = request(b"GET", b"/", b"X-Route-Key: the first key")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200] * 3 == statuses(await asked(client, head))
        file.write_text("another key")
        assert [403] == statuses(await asked(client, head, 1))
        assert 0 == kept(gateway)


@on_both_loops
async def test_a_configuration_that_is_replaced(tmp_path: Path):
    """What the old one let pass is decided anew, on a connection that stays open."""
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200] * 3 == statuses(await asked(client, request()))
        assert remembers(gateway)
        handler = gateway.gateway.server._handler
        old = handler.snapshot
        access = Access(replace(old.access.rules, allowed_hosts=(b"elsewhere",)))
        handler.snapshot = replace(old, access=access, repeated=Repeated(), _visitors={})
        assert [421] == statuses(await asked(client, request(), 1))


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(request(b"GET", b"/", b"Authorization: Basic c2VjcmV0"), id="Authorization"),
        pytest.param(request(b"GET", b"/", b"Proxy-Authorization: Basic c2VjcmV0"), id="Proxy-Authorization"),
        pytest.param(request(b"GET", b"/", b"Cookie: session=mine"), id="Cookie"),
        pytest.param(request(b"GET", b"/?a=b&access_token=secret"), id="access_token"),
        pytest.param(request(b"GET", b"/?access%5Ftoken=secret"), id="an encoded access_token"),
        pytest.param(request(b"GET", b"/", b"X-Request-Id: mine"), id="a number of its own"),
        pytest.param(request(b"GET", b"/", b"X-Long: " + b"a" * 2048), id="long"),
    ],
)
@on_both_loops
async def test_what_is_not_remembered(tmp_path: Path, secret: bytes):
    """No credential of the client's own, no number, nothing long; it is served each time."""
    route = "client_authorization: replace"
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200] * 4 == statuses(await asked(client, secret, 4))
        assert 0 == kept(gateway)
        assert b"secret" not in b"".join(sent(upstream))


@on_both_loops
async def test_more_heads_than_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their number is bounded, that of those seen once as well; each gets its own answer."""
    monkeypatch.setattr(repeated, "_MAX_HEADS", 4)
    monkeypatch.setattr(memo, "_MAX_ONCE", 16)
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        for number in range(20):
            assert [200] * 3 == statuses(await asked(client, request(b"GET", b"/%d" % number)))
            assert kept(gateway) <= 4
            assert len(gateway.gateway.snapshot.repeated._once) <= 16
    lines = [octets.partition(b" HTTP")[0] for octets in sent(upstream)]
    assert [b"GET /%d" % number for number in range(20) for _ in range(3)] == lines


# ---- what each has of its own


@on_both_loops
async def test_each_has_a_number_of_its_own(tmp_path: Path):
    """X-Request-Id differs from one to the next."""
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await asked(client, request(), 4)
        assert remembers(gateway)
    assert 4 == len(set(values(sent(upstream), b"X-Request-Id")))


@on_both_loops
async def test_a_field_of_the_route_that_changes(tmp_path: Path):
    """`set_request_headers` and `set_response_headers` are read each time."""
    file = tmp_path / "team"
    route = f"set_request_headers: {{X-Team: {{value_file: {file}}}}}\nset_response_headers: {{X-Ours: {{value_file: {file}}}}}"
    file.write_text("first")
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        first = await asked(client, request())
        assert remembers(gateway)
        file.write_text("the second")
        second = await asked(client, request(), 1)
        file.write_text("two\nlines")
        assert [500] == statuses(await asked(client, request(), 1))
        file.write_text("the last")
    assert [b"first"] * 3 + [b"the second"] == [answer.field(b"X-Ours") for answer in first + second]
    assert [b"first"] * 3 + [b"the second"] == values(sent(upstream), b"X-Team")


@on_both_loops
async def test_a_rate_limit(tmp_path: Path):
    """Each takes from it."""
    route = "rate_limit: {requests_per_second: 0.01, burst: 3}"
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200, 200, 200, 429, 429] == statuses(await asked(client, request(), 5))
        assert remembers(gateway)
    assert 3 == len(sent(upstream))


@on_both_loops
async def test_a_token_that_is_renewed_by_a_401(tmp_path: Path):
    """The request is sent again with the new token, and so are all after it; an answer that shows it is refused."""
    server = ScriptedAuthorizationServer()
    server.script.extend([token_reply("at-one"), token_reply("at-two")])
    no = ok(b"", b"WWW-Authenticate: Bearer", status=b"401 No")
    echo = ok(b"fine", DATE, b"X-Echo: at-two")
    async with (
        server,
        ScriptedUpstream(answering(OK, echo, echo, no, OK, echo)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server) as gateway,
        connected(gateway.port) as client,
    ):
        answers = await asked(client, request(), 5)
        assert remembers(gateway)
        assert [200, 200, 200, 200, 502] == statuses(answers)
        assert b"at-two" not in answers[-1].head + answers[-1].body
    tokens = values(sent(upstream), b"Authorization")
    assert [b"Bearer at-one"] * 4 + [b"Bearer at-two"] * 2 == tokens[:6]


@on_both_loops
async def test_a_token_that_cannot_be_had(tmp_path: Path):
    """Without one nothing is forwarded, remembered or not."""
    server = ScriptedAuthorizationServer(default=error_reply("invalid_client", 401))
    server.script.append(token_reply("at-short", expires_in=2))
    async with (
        server,
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server) as gateway,
        connected(gateway.port) as client,
    ):
        assert [200] * 3 == statuses(await asked(client, request()))
        assert remembers(gateway)
        async with asyncio.timeout(20):
            while (answer := (await asked(client, request(), 1))[0]).status == 200:
                pass
        assert 503 == answer.status
    assert {b"Bearer at-short"} == set(values(sent(upstream), b"Authorization"))


@on_both_loops
async def test_a_body_of_the_same_length(tmp_path: Path):
    """The head is the same, the body its own; what is too large for the route never is remembered."""
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {body_bytes: 8}") as gateway,
        connected(gateway.port) as client,
    ):
        bodies = [b"one", b"two", b"six", b"ten"]
        for body in bodies:
            await client.send(request(b"POST", body=body))
            assert 200 == (await client.answer()).status
        assert remembers(gateway)
        head = request(b"POST", body=b"now").removesuffix(b"now")
        for piece in (head, b"n", b"o", b"w"):
            await client.send(piece)
        assert 200 == (await client.answer()).status
        for _ in range(3):
            async with connected(gateway.port) as other:
                await other.send(request(b"POST", body=b"nine octets"))
                assert 413 == (await other.answer()).status
        assert remembers(gateway)
    assert [*bodies, b"now"] == [octets.partition(b"\r\n\r\n")[2] for octets in sent(upstream)]


@on_both_loops
async def test_a_client_that_ends_its_connection_with_each_request(tmp_path: Path):
    """`Connection: close` is heard each time, and told."""
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for _ in range(4):
            async with connected(gateway.port) as client:
                await client.send(request(b"GET", b"/", b"Connection: close"))
                answer = await client.answer()
                assert (200, b"close") == (answer.status, answer.field(b"Connection"))
                assert await client.closed()
        assert remembers(gateway)


@pytest.mark.parametrize("first", [request(), request(b"GET", b"/", b"Connection: close")])
@on_both_loops
async def test_the_same_answer_to_clients_that_stay_and_that_leave(tmp_path: Path, first: bytes):
    """Who is to leave is told so, whoever got that answer before."""
    heads = [request(), request(), request(), first, first, first, request()]
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for head in heads:
            async with connected(gateway.port) as client:
                answers = await asked(client, head, 1)
            expected = b"close" if b"close" in head else None
            assert [expected] == [answer.field(b"Connection") for answer in answers]


@on_both_loops
async def test_the_last_answer_while_draining(tmp_path: Path):
    """It says that the connection ends, though the same one did not before."""
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        answers = await asked(client, request())
        assert remembers(gateway)
        gateway.gateway.begin_draining()
        answers += await asked(client, request(), 1)
        assert await client.closed()
    assert [None, None, None, b"close"] == [answer.field(b"Connection") for answer in answers]


# ---- answers that come again


@on_both_loops
async def test_the_same_answer_to_get_and_head(tmp_path: Path):
    """It has no body for HEAD and its body for GET, in any order."""
    head = OK.removesuffix(b"fine")

    async def by_method(connection: ScriptedConnection) -> None:
        while True:
            connection.send(head if (await connection.request()).startswith(b"HEAD ") else OK)

    async with (
        ScriptedUpstream(by_method) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        for _ in range(2):
            for method, body in ((b"GET", b"fine"), (b"HEAD", b"")):
                answers = await asked(client, request(method))
                assert [(200, body, b"4")] * 3 == [
                    (answer.status, answer.body, answer.field(b"Content-Length")) for answer in answers
                ]
        assert remembers(gateway, 2)
        assert 1 == len(upstream.connections)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n" + DATE + b"\r\n\r\n", id="304"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\n\r\n", id="204"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + DATE + b"\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
            id="chunked",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine", id="without Date"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, id="behind an interim one"),
    ],
)
@on_both_loops
async def test_an_answer_that_comes_again(tmp_path: Path, given: bytes):
    """It is the same each time, Date apart, and its connection serves the next."""
    async with (
        ScriptedUpstream(always(given)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        answers = []
        for _ in range(4):
            await client.send(request())
            answer = await client.answer()
            if answer.status == 103:
                answer = await client.answer()
            answers.append(answer)
        assert remembers(gateway)
        assert 1 == len(upstream.connections)
    assert all(answer.field(b"Date") for answer in answers)
    without_date = [
        [line for line in answer.head.split(b"\r\n") if not line.startswith(b"Date:")] for answer in answers
    ]
    assert [without_date[0]] * 4 == without_date
    assert 1 == len({answer.body for answer in answers})


@on_both_loops
async def test_the_same_answer_by_two_routes(tmp_path: Path):
    """Each is answered by its own rules; what shows one credential's token is refused to that one."""
    echo = ok(b"fine", DATE, b"X-Echo: at-main", b"Server: theirs", b"Location: /base/x")
    async with (
        ScriptedAuthorizationServer() as main,
        ScriptedAuthorizationServer() as second,
        ScriptedUpstream(always(echo)) as upstream,
    ):
        main.default = token_reply("at-main")
        second.default = token_reply("at-second")
        url = f"http://127.0.0.1:{upstream.port}/base"
        file = tmp_path / "proxy.yaml"
        file.write_text(f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  main: {{token_endpoint: "{main.url}", client_id: a, client_secret: s}}
  second: {{token_endpoint: "{second.url}", client_id: a, client_secret: s}}
routes:
  - {{name: a, match: {{path_prefix: /a}}, upstream: "{url}", credential: second, remove_response_headers: [Server]}}
  - {{name: b, match: {{path_prefix: /b}}, upstream: "{url}", credential: second, rewrite_location: false}}
  - {{name: c, match: {{path_prefix: /c}}, upstream: "{url}", credential: main}}
""")
        loaded = load(file, environ={}, use_env_file=False)
        async with running(loaded) as gateway, connected(gateway.port) as client:
            for _ in range(2):
                for target, status, server, location in (
                    (b"/a", 200, None, b"/x"),
                    (b"/b", 200, b"theirs", b"/base/x"),
                    (b"/c", 502, None, None),
                ):
                    for answer in await asked(client, request(b"GET", target)):
                        assert status == answer.status
                        if status == 200:
                            assert (server, location) == (answer.field(b"Server"), answer.field(b"Location"))
                        else:
                            assert b"at-main" not in answer.head
            assert remembers(gateway, 3)


# ---- writes that wait for the end of the turn


@on_both_loops
async def test_pipelined_requests_that_repeat(tmp_path: Path):
    """Their answers come in order, small and large ones mixed, interim ones in front of theirs."""
    bodies = [b"small", b"x" * 100_000, b"", b"y" * 16_384, b"z"]

    async def in_turn(connection: ScriptedConnection) -> None:
        number = 0
        while True:
            await connection.request()
            interim = b"HTTP/1.1 103 Early Hints\r\nX-For: %d\r\n\r\n" % number
            connection.send(interim + ok(bodies[number % len(bodies)], DATE, b"X-Number: %d" % number))
            number += 1

    async with (
        ScriptedUpstream(in_turn) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request() * 20)
        for number in range(20):
            interim, answer = await client.answer(), await client.answer()
            assert (103, b"%d" % number) == (interim.status, interim.field(b"X-For"))
            assert (200, b"%d" % number) == (answer.status, answer.field(b"X-Number"))
            assert bodies[number % len(bodies)] == answer.body
        assert remembers(gateway)


@on_both_loops
async def test_a_client_that_repeats_and_does_not_read(tmp_path: Path):
    """It is held back, not buffered for; as soon as it reads it gets everything in order."""
    size, times = 512 * 1024, 16
    async with (
        ScriptedUpstream(always(ok(b"x" * size, DATE))) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request() * times)
        connection = await upstream.connection()
        await connection.until(lambda: len(connection.requests) >= 2)
        await asyncio.sleep(0.2)  # noqa: TID251  # for what must not happen
        assert len(connection.requests) < times
        assert [size] * times == [len((await client.answer()).body) for _ in range(times)]


@on_both_loops
async def test_a_request_of_another_kind_behind_those_that_repeat(tmp_path: Path):
    """The connection changes hands behind the last answer, whatever the next request is."""
    others = [
        (request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n\r\n", 200),
        (request(b"GET", b"/", version=b"1.0"), 200),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
    ]
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for other, status in others:
            async with connected(gateway.port) as client:
                await client.send(request() * 3 + other)
                got = [(await client.answer()).status for _ in range(4)]
                assert [200, 200, 200, status] == got
        assert remembers(gateway)


@on_both_loops
async def test_a_client_that_half_closes_behind_those_that_repeat(tmp_path: Path):
    """It gets every answer, and then the end."""
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await asked(client, request())
            await client.send(request() * 3)
            client.writer.write_eof()
            assert [200] * 3 == [(await client.answer()).status for _ in range(3)]
            assert await client.closed()
        assert remembers(gateway)


@on_both_loops
async def test_an_answer_that_begins_and_is_cut_in_one_turn(tmp_path: Path):
    """The client sees that its answer has begun: with nothing it would take the request for unheard, and send it again.

    Under TLS, a part of an answer and the goodbye behind it are mostly read together.
    """
    authority = Authority(tmp_path)
    pair = authority.pair("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    part = ok(b"a whole answer", DATE).removesuffix(b"answer")

    async def cutting(connection: ScriptedConnection) -> None:
        for answer in (OK, OK, part):
            await connection.request()
            connection.send(answer)
        connection.close()

    async with ScriptedUpstream(cutting, ssl=context) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        route = f"tls: {{ca_file: {authority.file}}}\nretries: {{connect: 0}}"
        async with in_front_of(url, tmp_path, route=route) as gateway, connected(gateway.port) as client:
            assert [200] * 2 == statuses(await asked(client, request(b"POST", body=b"a"), 2))
            await client.send(request(b"POST", body=b"a"))
            seen = b""
            with suppress(ConnectionError):
                while octets := await client.reader.read(65536):
                    seen += octets
            assert remembers(gateway)
    assert (b"HTTP/1.1 200 OK", b"a whole ") == (seen.partition(b"\r\n")[0], seen.partition(b"\r\n\r\n")[2])
