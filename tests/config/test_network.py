"""Addresses, hosts, networks, origins and URLs: what is read, and what is refused."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.config import network
from proxy.gateway.settings import TcpAddress, UnixAddress
from proxy.routing import HostHeader
from proxy.upstream.origin import Origin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("LocalHost:80", TcpAddress("localhost", 80)),
        (":8080", TcpAddress("0.0.0.0", 8080)),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock"))),
    ],
)
def test_an_address(text, expected):
    """A port alone is every IPv4 address, as in other programs."""
    assert network.address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["8080", "localhost", "a:", "a:b", "a:65536", "::1:80", "[::1]", "[x]:80", "[fe80::1%eth0]:1", "a b:1", "http://a:1",
     "unix:a", "unix:", f"unix:/{'a' * 107}", "[]:1", "-:1", "*:80"],
)  # fmt: skip
def test_no_address(text):
    """A listener is never guessed."""
    with pytest.raises(ValueError, match=r"expected host:port|unix socket"):
        network.address(text)


def test_admin_off():
    """No address at all."""
    assert network.admin_address("off") is None
    assert network.admin_address("[::1]:1") == TcpAddress("::1", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:/a", True),
        ("0.0.0.0:1", False), ("[::]:1", False), (":1", False), ("gateway:1", False), ("10.0.0.1:1", False),
    ],
)  # fmt: skip
def test_who_can_connect(text, expected):
    """A name is taken for the world, except the one that cannot be."""
    assert network.is_loopback(network.address(text)) is expected


def test_networks():
    """An address is a network of one; bits beyond the prefix are a mistake."""
    assert network.network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert network.network("::1") == ip_network("::1/128")
    with pytest.raises(ValueError, match="bits beyond its prefix"):
        network.network("10.0.0.1/8")
    for text in ("x", "10.0.0.0/33", "10.0.0", "localhost"):
        with pytest.raises(ValueError, match="expected an IP address or a network"):
            network.network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("API.example", b"api.example"),
        ("*.Example", b"*.example"),
        ("127.0.0.1", b"127.0.0.1"),
        ("[::1]", b"[::1]"),
        ("::1", b"[::1]"),
        ("a_b", b"a_b"),
        ("*", b"*"),
    ],
)
def test_a_host(text, expected):
    """Lower-case and without port, as the gateway compares it."""
    assert network.allowed_host(text) == expected


@pytest.mark.parametrize(
    "text", ["a:80", "a b", "*a", "a.*", "**.a", "http://a", "a/b", "münchen.example", "-a", "a..b"]
)
def test_no_host(text):
    """A host that no request can name would be a rule without effect."""
    with pytest.raises(ValueError, match="expected a host name without port"):
        network.allowed_host(text)


def test_the_host_field():
    """A name may have a port here, because Host may."""
    assert network.host_field("Api.example:8443") == b"Api.example:8443"
    assert network.host_field("[::1]:1") == b"[::1]:1"
    for text in ("a b", "a:65536", "a/b", "a\n", "é"):
        with pytest.raises(ValueError, match=r"host name|above 65535"):
            network.host_field(text)
    assert HostHeader("client") is HostHeader.CLIENT


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("https://api.example/v1", Origin("https", "api.example", 443), "/v1"),
        ("https://api.example", Origin("https", "api.example", 443), ""),
        ("https://api.example/", Origin("https", "api.example", 443), "/"),
        ("HTTP://API.example:8080/A/%2f/b/", Origin("http", "api.example", 8080), "/A/%2f/b/"),
        ("http://[::1]:9000/x", Origin("http", "::1", 9000), "/x"),
    ],
)
def test_an_upstream(text, origin, path):
    """The path is kept as it is written: it comes before the requests' own."""
    parsed = network.upstream_url(text)
    assert (parsed.origin, parsed.path) == (origin, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://a", "expected a URL"),
        ("a.example", "expected a URL"),
        ("https://", "expected a URL"),
        ("https:///x", "expected a URL"),
        ("https://u@a", "no user information"),
        ("https://u:p@a", "no user information"),
        ("https://a#x", "no fragment"),
        ("https://a/#", "no fragment"),
        ("https://a?x=1", "no query"),
        ("https://a/?", "no query"),
        ("https://a b", "no spaces"),
        ("https://a/é", "non-ASCII"),
        ("https://a:0/", "not one"),
        ("https://a:/", "not one"),
        ("https://a:65536/", "not one"),
        ("https://a..b/", "not one"),
        ("https://[::1/", "not one"),
        ("https://a/b/../c", "ambiguous path: a dot segment"),
        ("https://a//b", "ambiguous path: a leading //"),
        ("https://a/%zz", "ambiguous path: a malformed percent-encoding"),
    ],
)
def test_no_upstream(text, message):
    """What two readers could read differently is not forwarded to."""
    with pytest.raises(ValueError, match=message):
        network.upstream_url(text)


def test_a_token_endpoint():
    """Keeps its query (RFC 6749 §3.2)."""
    assert network.url("https://a/t?tenant=1").text == "https://a/t?tenant=1"


def test_an_origin():
    """As browsers send it."""
    assert network.origin("https://App.example:8443") == b"https://app.example:8443"
    for text in ("https://a/", "a.example", "null", "https://a:99999", "*"):
        with pytest.raises(ValueError, match=r"expected an origin|not one"):
            network.origin(text)
