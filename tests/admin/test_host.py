"""The admin listener's Host: its own address or an allowed name, so that a rebound name reads nothing."""

from __future__ import annotations

import pytest

from proxy.admin.host import host_is_ours
from proxy.http1.target import parse_host

V4, V6, POD = ("127.0.0.1", 9464), ("::1", 9464), ("10.1.2.3", 9464)


@pytest.mark.parametrize(
    ("host", "local", "bound_host"),
    [
        (b"127.0.0.1:9464", V4, "127.0.0.1"),
        (b"localhost:9464", V4, "127.0.0.1"),
        (b"LOCALHOST:9464", V4, "127.0.0.1"),
        (b"[::1]:9464", V4, "localhost"),
        (b"[::1]:9464", V6, "::1"),
        (b"[0:0::1]:9464", V6, "::1"),
        (b"localhost:9464", V6, "::"),
        (b"127.0.0.2:9464", ("127.0.0.2", 9464), "0.0.0.0"),
        (b"127.0.0.1", ("127.0.0.1", 80), "127.0.0.1"),
        (b"10.1.2.3:9464", POD, "0.0.0.0"),
        (b"10.1.2.3:9464", ("::ffff:10.1.2.3", 9464), "::"),
        (b"[fe80::1]:9464", ("fe80::1%eth0", 9464), "::"),
        (b"Metrics.Example:9464", POD, "metrics.example"),
    ],
)
def test_the_listeners_own_address(host, local, bound_host):
    """It passes: the address of the connection, the configured name, and loopback by all its names."""
    assert host_is_ours(parse_host(host), local, bound_host=bound_host, allowed=())


@pytest.mark.parametrize(
    ("host", "local", "bound_host"),
    [
        (b"evil.example:9464", V4, "127.0.0.1"),
        (b"127.0.0.1:9465", V4, "127.0.0.1"),
        (b"127.0.0.1", V4, "127.0.0.1"),
        (b"10.1.2.4:9464", POD, "0.0.0.0"),
        (b"0.0.0.0:9464", V4, "127.0.0.1"),
        (b"localhost:9464", POD, "0.0.0.0"),
        (b"127.0.0.1:9464", POD, "0.0.0.0"),
        (b"localhost.evil.example:9464", V4, "localhost"),
        (b"[::ffff:127.0.0.1]:9465", V4, "127.0.0.1"),
    ],
)
def test_another_name_or_port(host, local, bound_host):
    """It is refused."""
    assert not host_is_ours(parse_host(host), local, bound_host=bound_host, allowed=())


@pytest.mark.parametrize(
    ("host", "allowed", "passes"),
    [
        (b"metrics.example:1", (b"metrics.example",), True),
        (b"METRICS.example", (b"metrics.example",), True),
        (b"a.metrics.example", (b"metrics.example",), False),
        (b"a.metrics.example", (b"*.metrics.example",), True),
        (b"metrics.example", (b"*.metrics.example",), False),
        (b"anything", (b"*",), True),
        (b"[2001:db8::1]:99", (b"[2001:db8::1]",), True),
        (b"evil.example", (b"metrics.example", b"localhost"), False),
    ],
)
def test_the_configured_names(host, allowed, passes):
    """They pass for any port."""
    assert host_is_ours(parse_host(host), POD, bound_host="0.0.0.0", allowed=allowed) is passes
