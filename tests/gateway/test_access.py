"""Who may use the gateway."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from proxy.errors import Problem
from proxy.gateway.access import Access, Peer
from proxy.gateway.settings import AccessRules, BrowserRequests, RequiredHeader
from proxy.http1.fields import Field
from proxy.http1.wire import RequestHead
from proxy.secret import FixedSecret, Secret

DEFAULT = Access(AccessRules())


def head(fields: tuple[Field, ...]) -> RequestHead:
    return RequestHead(b"GET", b"/", (1, 1), fields)


@pytest.mark.parametrize(
    ("peername", "expected"),
    [
        (("127.0.0.1", 1), None),
        (("127.200.0.1", 1), None),
        (("::1", 1, 0, 0), None),
        (("::ffff:127.0.0.1", 1, 0, 0), None),
        (("10.0.0.1", 1), Problem.CLIENT_NOT_ALLOWED),
        (("fe80::1%eth0", 1, 0, 2), Problem.CLIENT_NOT_ALLOWED),
        (("::ffff:10.0.0.1", 1, 0, 0), Problem.CLIENT_NOT_ALLOWED),
    ],
)
def test_clients(peername: object, expected: Problem | None):
    """By default loopback and unix sockets only; IPv4-mapped addresses count as IPv4."""
    assert expected is DEFAULT.client_refused(Peer.from_peername(peername))


def test_a_unix_socket_peer_passes():
    """The socket file's mode guards it."""
    assert DEFAULT.client_refused(Peer(None)) is None


@pytest.mark.parametrize("peername", [None, "", (), b"x"])
def test_nobody_is_taken_for_a_unix_socket_peer(peername: object):
    """A connection whose peer is not known any more must not pass the rule for clients."""
    with pytest.raises(ValueError, match="not the name"):
        Peer.from_peername(peername)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"localhost", None),
        (b"[::1]", None),
        (b"api.example", None),  # a route's host
        (b"a.b.wild.example", None),
        (b"wild.example", Problem.HOST_NOT_ALLOWED),
        (b"evilwild.example", Problem.HOST_NOT_ALLOWED),
        (b"evil.example", Problem.HOST_NOT_ALLOWED),
        (b"localhost.evil.example", Problem.HOST_NOT_ALLOWED),
        (None, None),  # HTTP/1.0
    ],
)
def test_hosts(host: bytes | None, expected: Problem | None):
    """A Host that is not listed is refused, so that a rebound name opens nothing; routes' hosts count as listed."""
    assert expected is Access(AccessRules(), (b"api.example", b"*.wild.example")).host_refused(host)


def test_any_host():
    """`*` admits every Host."""
    assert Access(AccessRules(allowed_hosts=(b"*",))).host_refused(b"evil.example") is None


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        pytest.param((), False, id="no browser"),
        pytest.param(((b"Origin", b"http://localhost:8080"),), False, id="own origin"),
        pytest.param(((b"origin", b"http://LOCALHOST:8080"),), False, id="own origin, other case"),
        pytest.param(((b"Sec-Fetch-Site", b"same-origin"),), False, id="same-origin"),
        pytest.param(((b"Sec-Fetch-Site", b"none"),), False, id="typed by the user"),
        pytest.param(((b"Origin", b"https://evil.example"),), True, id="foreign origin"),
        pytest.param(((b"Origin", b"http://localhost:8081"),), True, id="another port"),
        pytest.param(((b"Origin", b"null"),), True, id="null origin"),
        pytest.param(((b"Sec-Fetch-Site", b"cross-site"),), True, id="cross-site"),
        pytest.param(((b"sec-fetch-site", b"Same-Site"),), True, id="same-site"),
        pytest.param(
            ((b"Origin", b"http://localhost:8080"), (b"Origin", b"https://evil.example")), True, id="two origins"
        ),
        pytest.param(
            ((b"Origin", b"https://good.example"), (b"Sec-Fetch-Site", b"cross-site")), False, id="allowed origin"
        ),
    ],
)
def test_browsers(fields: tuple[Field, ...], refused: bool):
    """What another site's page made a browser send is refused, unless its origin is listed."""
    access = Access(AccessRules(allowed_origins=(b"https://good.example",)))
    assert (Problem.BROWSER_REFUSED if refused else None) is access.request_refused(head(fields), b"localhost:8080")
    allowing = Access(AccessRules(browser_requests=BrowserRequests.ALLOW))
    assert allowing.request_refused(head(fields), b"localhost:8080") is None


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ((), False),
        (((b"X-Gateway-Key", b"wrong"),), False),
        (((b"x-gateway-key", b"right"),), True),
        (((b"X-Gateway-Key", b"right"), (b"X-Gateway-Key", b"right")), False),
        (((b"X_Gateway_Key", b"right"),), False),
    ],
)
def test_shared_key(fields: tuple[Field, ...], passes: bool):
    """The key is shown exactly once."""
    rules = AccessRules(required_header=RequiredHeader(name=b"X-Gateway-Key", value=FixedSecret(Secret("right"))))
    assert (None if passes else Problem.KEY_REQUIRED) is Access(rules).request_refused(head(fields), b"localhost")


def test_inside():
    """A peer without an address lies in no network."""
    networks = (ip_network("10.0.0.0/8"),)
    assert Peer(ip_address("10.1.2.3")).inside(networks)
    assert not Peer(None).inside(networks)
