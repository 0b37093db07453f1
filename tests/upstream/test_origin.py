"""How an origin is written, and which are this machine."""

from __future__ import annotations

import pytest

from proxy.upstream.origin import Origin


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("http", "api.example", 80), b"api.example"),
        (Origin("http", "api.example", 443), b"api.example:443"),
        (Origin("https", "api.example", 443), b"api.example"),
        (Origin("https", "api.example", 80), b"api.example:80"),
        (Origin("http", "127.0.0.1", 8080), b"127.0.0.1:8080"),
        (Origin("https", "::1", 443), b"[::1]"),
        (Origin("http", "2001:db8::1", 8080), b"[2001:db8::1]:8080"),
    ],
)
def test_authority(origin: Origin, authority: bytes):
    """IPv6 stands in brackets; the default port of the scheme, and of no other, is left out."""
    assert origin.authority == authority
    assert str(origin) == f"{origin.scheme}://{authority.decode()}"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("localhost.", True),
        ("api.localhost", True),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.example", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("api.example", False),
    ],
)
def test_loopback(host: str, loopback: bool):
    """Only what can be nothing else than this machine counts: a token may go there over plain http."""
    assert Origin("http", host, 80).is_loopback is loopback


def test_equality():
    """Origins are values."""
    assert Origin("http", "a", 80) == Origin(scheme="http", host="a", port=80)
    assert len({Origin("http", "a", 80), Origin("http", "a", 80), Origin("http", "a", 81)}) == 2
    assert (Origin("https", "a", 1).secure, Origin("http", "a", 1).secure) == (True, False)
