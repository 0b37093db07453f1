"""What changes in a message on its way, in both directions, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.errors import Problem, Refusal
from proxy.gateway.access import Peer, Visitor
from proxy.gateway.rewrite import (
    RequestRules,
    ResponseRules,
    inbound_lines,
    mapped_location,
    outbound_lines,
    outbound_target,
)
from proxy.http1.fields import Field
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.wire import RequestHead, ResponseHead
from proxy.routing import ClientAuthorization, Forwarding, HostHeader, LiteralHost, Match, UnderscoreFields
from proxy.secret import FixedSecret, Secret
from tests.gateway.routes import route

NO_BODY = Framing(BodyKind.NONE)


def sent(
    *fields: Field, framing: Framing = NO_BODY, trusted: bool = False, method: bytes = b"GET", **changes: object
) -> list[Field]:
    """Returns what the upstream gets, apart from the token."""
    head = RequestHead(method, b"/orders/7", (1, 1), ((b"Host", b"localhost:8080"), *fields))
    visitor = Visitor(
        peer=Peer(ip_address("10.0.0.9")),
        secure=False,
        refused=None,
        trusted=trusted,
        address=b"10.0.0.9",
        name="10.0.0.9",
    )
    lines = outbound_lines(head, RequestRules(route(**changes)), visitor, host=b"localhost:8080", framing=framing)
    return [tuple(line.split(b": ", 1)) for line in lines]


OURS = [
    (b"Via", b"1.1 bearer-proxy"),
    (b"X-Forwarded-For", b"10.0.0.9"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"localhost:8080"),
]


def test_fields_pass_in_order_and_byte_for_byte():
    """Names keep their spelling, values their octets, repeated lines their order; ours come after."""
    theirs = [(b"aCCept", b"*/*"), (b"Cookie", b"a=\xff\xe9"), (b"X-A", b"1"), (b"X-B", b""), (b"X-A", b"2")]
    assert [(b"Host", b"api.example"), *theirs, *OURS] == sent(*theirs)


@pytest.mark.parametrize(
    "field",
    [
        (b"Connection", b"close"), (b"Keep-Alive", b"x"), (b"Proxy-Connection", b"x"), (b"TE", b"trailers"),
        (b"Trailer", b"x"), (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c"), (b"Proxy-Authorization", b"x"),
        (b"Proxy-Authenticate", b"x"), (b"Expect", b"100-continue"), (b"Content-Length", b"3"), (b"authorization", b"x"),
        (b"X-Forwarded-For", b"evil"), (b"x-forwarded-HOST", b"evil"), (b"X-Forwarded-Proto", b"https"),
        (b"Forwarded", b"for=evil"), (b"X-Real-IP", b"evil"), (b"X-Request-Id", b"theirs"),
        (b"X-Forwarded-Prefix", b"/evil"), (b"x-forwarded-user", b"evil"), (b"Proxy-Status", b"x"),
    ],
)  # fmt: skip
def test_what_ends_at_this_hop_does_not_pass(field: Field):
    """Connection-specific fields, framing, credentials and a client's claims about itself go no further."""
    assert [(b"Host", b"api.example"), *OURS] == sent(field)


def test_what_connection_lists_does_not_pass_but_ours_do():
    """`Connection` removes the client's own fields, never those that the gateway sets."""
    listed = (b"Connection", b"x-a, Host, authorization, x-request-id, VIA, x-forwarded-for, content-length")
    body = Framing(BodyKind.LENGTH, 5)
    assert [(b"Host", b"api.example"), (b"Content-Length", b"5"), *OURS] == sent(listed, (b"X-A", b"1"), framing=body)


def test_chunked_stays_chunked():
    """A body of unknown length is framed by the gateway itself."""
    assert (b"Transfer-Encoding", b"chunked") in sent(framing=Framing(BodyKind.CHUNKED))


def test_a_trusted_proxy_is_believed_and_appended_to():
    """X-Forwarded-For grows by one hop; the outer scheme and host stay."""
    fields = sent(
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        trusted=True,
    )
    assert (b"X-Forwarded-For", b"1.2.3.4, 10.0.0.9") in fields
    assert (b"X-Forwarded-Proto", b"https") in fields
    assert (b"X-Forwarded-Host", b"shop.example") in fields


def test_forwarding_can_be_off():
    """Neither Via nor X-Forwarded-* are told, and the client's claims still go no further."""
    fields = sent((b"X-Forwarded-For", b"evil"), forwarding=Forwarding(via=False, x_forwarded=False))
    assert [(b"Host", b"api.example")] == fields


@pytest.mark.parametrize(
    ("name", "policy", "becomes"),
    [
        pytest.param(b"X_Forwarded_For", UnderscoreFields.TWINS, "refused", id="twin of a claim"),
        pytest.param(b"Content_Length", UnderscoreFields.TWINS, "refused", id="twin of framing"),
        pytest.param(b"X_Team", UnderscoreFields.TWINS, "refused", id="twin of a field we set"),
        pytest.param(b"X_Request_Id", UnderscoreFields.TWINS, "refused", id="twin of the request id"),
        pytest.param(b"my_field", UnderscoreFields.TWINS, "passed", id="twin of nothing"),
        pytest.param(b"my_field", UnderscoreFields.REFUSE, "refused", id="any, refuse"),
        pytest.param(b"my_field", UnderscoreFields.DROP, "dropped", id="any, drop"),
        pytest.param(b"Content_Length", UnderscoreFields.DROP, "dropped", id="twin, drop"),
    ],
)
def test_underscore_twins(name: bytes, policy: UnderscoreFields, becomes: str):
    """A name that an upstream could read as one of ours never arrives."""
    changes = {"underscore_fields": policy, "set_request_headers": ((b"X-Team", FixedSecret(Secret("legacy"))),)}
    if becomes == "refused":
        with pytest.raises(Refusal) as refused:
            sent((name, b"1"), **changes)
        assert Problem.BAD_REQUEST is refused.value.problem
    else:
        assert (becomes == "passed") == ((name, b"1") in sent((name, b"1"), **changes))


def test_a_loop_is_refused_at_the_third_round():
    """Our own pseudonym three times in Via is a loop; twice may be two gateways in a row."""
    assert sent((b"Via", b"1.1 bearer-proxy, 1.0 other"), (b"Via", b"1.1 bearer-proxy (x)"))
    with pytest.raises(Refusal) as refused:
        sent((b"Via", b"1.1 bearer-proxy, 1.1 bearer-proxy"), (b"Via", b"1.1 bearer-proxy"))
    assert Problem.LOOP_DETECTED is refused.value.problem


@pytest.mark.parametrize(
    ("host_header", "expected"),
    [
        (HostHeader.UPSTREAM, b"api.example"),
        (HostHeader.CLIENT, b"localhost:8080"),
        (LiteralHost(b"other.example"), b"other.example"),
    ],
)
def test_host(host_header: HostHeader | LiteralHost, expected: bytes):
    """Host is the upstream's, the client's or a literal one, and stands first."""
    assert (b"Host", expected) == sent(host_header=host_header)[0]


def test_max_forwards_counts_down_for_options():
    """RFC 9110 §7.6.2: OPTIONS counts down; other methods leave the field alone."""
    assert (b"Max-Forwards", b"4") in sent((b"Max-Forwards", b"5"), method=b"OPTIONS")
    assert (b"Max-Forwards", b"5") in sent((b"Max-Forwards", b"5"))


def test_a_client_may_authorize_itself_only_where_that_is_asked_for():
    """Without a credential the client's own Authorization is removed, unless the route passes it."""
    own = (b"Authorization", b"Basic x")
    assert own not in sent(own, credential=None, client_authorization=ClientAuthorization.REMOVE)
    assert own in sent(own, credential=None, client_authorization=ClientAuthorization.PASS)


def test_another_token_field_strips_both():
    """With a token field of another name, neither that nor Authorization passes from the client."""
    fields = sent((b"X-Api-Token", b"x"), (b"Authorization", b"y"), header_name=b"X-Api-Token")
    assert [(b"Host", b"api.example"), *OURS] == fields


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (b"/orders", None, b"/v1"), (b"/orders/", None, b"/v1/"), (b"/orders/7", b"x", b"/v1/7?x"),
        (b"/orders//7", None, b"/v1//7"), (b"/orders/%2F", b"", b"/v1/%2F?"),
    ],
)  # fmt: skip
def test_target(path: bytes, query: bytes | None, expected: bytes):
    """The prefix goes, the base path comes, the rest is kept byte for byte."""
    assert expected == outbound_target(route(), path, query)


def test_response_fields_pass_and_the_rules_apply():
    """The upstream's fields pass in order; connection-specific and listed ones, and those the rules name, do not."""
    received = (
        (b"ETag", b'"x"'), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"), (b"Server", b"secret/1.0"), (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"),
        (b"X-Obs", b"\xff"),
    )  # fmt: skip
    rules = route(
        remove_response_headers=frozenset({b"server"}), set_response_headers=((b"X-Set", FixedSecret(Secret("1"))),)
    )
    expected = [
        (b"ETag", b'"x"'), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Obs", b"\xff"), (b"X-Set", b"1"),
    ]  # fmt: skip
    lines = inbound_lines(ResponseHead((1, 1), 200, b"OK", received), ResponseRules(rules), method=b"GET")
    assert expected == [tuple(line.split(b": ", 1)) for line in lines]


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [(b"GET", 200, False), (b"HEAD", 200, True), (b"GET", 304, True), (b"GET", 204, False), (b"HEAD", 204, False)],
)
def test_content_length_is_kept_where_it_frames_nothing(method: bytes, status: int, kept: bool):
    """It tells of the body that a GET would have had."""
    head = ResponseHead((1, 1), status, b"", ((b"Content-Length", b"5"),))
    assert kept == bool(inbound_lines(head, ResponseRules(route()), method=method))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"https://api.example/v1/7?a#b", b"/orders/7?a#b"),
        (b"https://API.example:443/v1", b"/orders"),
        (b"/v1/7", b"/orders/7"),
        (b"/v1/7?next=/v1/8", b"/orders/7?next=/v1/8"),
        (b"7", b"7"),
        (b"/other", b"/other"),
        (b"/v10", b"/v10"),
        (b"https://api.example/other", b"https://api.example/other"),
        (b"http://api.example/v1/7", b"http://api.example/v1/7"),
        (b"https://evil.example/v1/7", b"https://evil.example/v1/7"),
        (b"https://api.example:8443/v1/7", b"https://api.example:8443/v1/7"),
        (b"https://api.example@evil.example/v1/7", b"https://api.example@evil.example/v1/7"),
        (b"//api.example/v1", b"//api.example/v1"),
        (b"/v1//evil.example", b"/orders//evil.example"),
        (b"", b""),
    ],
)
def test_location_is_mapped_back(value: bytes, expected: bytes):
    """References to the upstream's own origin and base path become the gateway's; all others stay untouched."""
    assert expected == mapped_location(value, route())


def test_location_without_a_strip_never_becomes_another_authority():
    """A path that would read as `//host` after the base is cut off stays as it is."""
    plain = route(prefix=b"/", strip_prefix=False)
    assert b"/x" == mapped_location(b"https://api.example/v1/x", plain)
    assert b"/v1//evil.example" == mapped_location(b"/v1//evil.example", plain)


def test_location_of_an_exact_route_stays():
    """A stripped exact route has nothing below it that a reference could be mapped to."""
    exact = route(match=Match(path_exact=b"/orders"))
    assert b"/v1/7" == mapped_location(b"/v1/7", exact)
