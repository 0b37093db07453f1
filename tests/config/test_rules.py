"""The rules between keys: each mistake has its own words, at the exact place."""

import pytest

from tests.config.written import CREDENTIAL, MINIMAL, ROUTE, faults, with_credential, with_route
from tests.upstream.certificates import Authority

HTTP_AS = MINIMAL.replace("https://as.example", "http://as.example")
HTTP_API = MINIMAL.replace("https://api.example", "http://api.example")
NONE = MINIMAL.replace("credential: orders", "credential: none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HTTP_AS, "3:21: credentials.orders.token_endpoint: would send the client secret over plain http; use https, or set allow_plain_http: true"),
        (MINIMAL.replace("https://as.example/token", "https://as.example/#x"), "3:21: credentials.orders.token_endpoint: must have no fragment (#)"),
        (with_credential("token_url: https://as.example/token"), "6:16: credentials.orders.token_url: excludes token_endpoint: give one of the two"),
        (with_credential("client_secret_file: /dev/null"), "6:25: credentials.orders.client_secret_file: excludes client_secret: give one of the two"),
        (MINIMAL.replace("    client_secret: ${SECRET}\n", ""), "2:3: credentials.orders: one of client_secret and client_secret_file is needed"),
        (MINIMAL.replace("${SECRET}", "''"), "5:20: credentials.orders.client_secret: is empty; leave the key out or give it a value"),
        (MINIMAL.replace("${SECRET}", "${NO:-}"), "2:3: credentials.orders: one of client_secret and client_secret_file is needed: NO is not set, or empty"),
        (MINIMAL.replace("${SECRET}", "[a, b, c]"), "5:5: credentials.orders.client_secret: takes one secret, or a list of two: the current and the next"),
        (MINIMAL.replace("${SECRET}", "[]"), "5:5: credentials.orders.client_secret: takes one secret, or a list of two: the current and the next"),
        (MINIMAL.replace("${SECRET}", "[a, '']"), "5:24: credentials.orders.client_secret[1]: is empty; leave the key out or give it a value"),
        (MINIMAL.replace("${SECRET}", "{a: b}"), "5:5: credentials.orders.client_secret: expected a list"),
        (MINIMAL.replace("client_secret: ${SECRET}", "client_secret_file: [/dev/null, /nonexistent]"), "5:37: credentials.orders.client_secret_file[1]: the file cannot be read: No such file or directory"),
        (with_credential("scopes: [a]\nscope: a"), "7:12: credentials.orders.scope: excludes scopes: give one of the two"),
        (with_credential("scopes: a b"), "6:13: credentials.orders.scopes: expected a list"),
        (with_credential("scopes: [a b]"), "6:14: credentials.orders.scopes[0]: is not one scope: visible ASCII without space, double quote and backslash"),
        (with_credential("scope: a  b"), '6:12: credentials.orders.scope: scopes stand with one space between each, without double quote and backslash: "a.read a.write"'),
        (with_credential("scope: [a]"), "6:5: credentials.orders.scope: expected a text of scopes; a list is `scopes`"),
        (with_credential("resource: [api]"), "6:16: credentials.orders.resource[0]: expected an absolute URI without fragment"),
        (with_credential("endpoint_params: {client_id: x}"), "6:23: credentials.orders.endpoint_params.client_id: is sent already: it would be in the request twice"),
        (with_credential("scope: a\nendpoint_params: {scope: x}"), "7:23: credentials.orders.endpoint_params.scope: is sent already: it would be in the request twice"),
        (with_credential("token_request_headers: {Host: x}"), "6:29: credentials.orders.token_request_headers.Host: is set by the gateway"),
        (with_credential("token_request_headers: {X-A: x, x-a: y}"), "6:37: credentials.orders.token_request_headers.x-a: is given twice, in other letters"),
        (with_credential("token_request_headers: {X A: x}"), "6:29: credentials.orders.token_request_headers.'X A': is not a header's name"),
        (with_credential("token_endpoint_auth_method: client_secret_baisc"), '6:33: credentials.orders.token_endpoint_auth_method: expected one of: client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth (did you mean "client_secret_basic"?)'),
        (with_credential("basic_form_encoding: no"), "6:26: credentials.orders.basic_form_encoding: expected true or false"),
        (with_credential("refresh: {at_ratio: 0}"), "6:25: credentials.orders.refresh.at_ratio: must be above 0"),
        (with_credential("refresh: {at_ratio: 0.3, jitter: 0.3}"), "6:38: credentials.orders.refresh.jitter: must be below at_ratio, or a token would be renewed as soon as it came"),
        (with_credential("backoff: {initial: 2s, max: 1s}"), "6:33: credentials.orders.backoff.max: must not be below initial"),
        (with_credential("default_lifetime: 2h\nmax_lifetime: 1h"), "6:23: credentials.orders.default_lifetime: must not be above max_lifetime"),
        (with_credential("timeout: -1s"), "6:14: credentials.orders.timeout: a duration is a number and a unit: 100ms, 30s, 5m, 1h"),
        (with_credential("timeout: 1h"), "6:14: credentials.orders.timeout: must be between 100ms and 10m"),
        (with_credential("tls: {key_file: /dev/null}"), "6:21: credentials.orders.tls.key_file: needs cert_file: a key without its certificate is of no use"),
        (with_credential("tls: {verify: false}"), "6:11: credentials.orders.tls.verify: is an unknown key"),
        (with_credential("tls: {min_version: 1.1}"), "6:24: credentials.orders.tls.min_version: expected 1.2 or 1.3"),
    ],
)  # fmt: skip
def test_a_credential_that_cannot_work(text, expected):
    """Told before the first token request, by file and line."""
    assert faults(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HTTP_API, "9:15: routes[0].upstream: would send the token over plain http; use https, or set allow_plain_http: true"),
        (MINIMAL.replace("credential: orders", "credential: order"), '10:17: routes[0].credential: no credential has this name (did you mean "orders"?)'),
        (with_route("client_authorization: pass"), "11:27: routes[0].client_authorization: pass is for `credential: none` only: the upstream gets one Authorization, ours"),
        (with_route("client_authorization: remove"), "11:27: routes[0].client_authorization: expected one of: replace, refuse, pass"),
        (NONE + "    client_authorization: replace\n", "11:27: routes[0].client_authorization: replace needs a credential; with `credential: none` it is removed, or `pass` forwards it"),
        (with_route("header_name: Content-Length"), "11:18: routes[0].header_name: belongs to the connection and its framing; the gateway sets it"),
        (with_route("header_name: X Token"), "11:18: routes[0].header_name: is not a header's name"),
        (with_route("set_request_headers: {authorization: x}"), "11:27: routes[0].set_request_headers.authorization: carries the token, or nothing"),
        (with_route("header_name: X-Token\nset_request_headers: {x-token: x}"), "12:27: routes[0].set_request_headers.x-token: carries the token, or nothing"),
        (with_route("set_request_headers: {Host: x}"), "11:27: routes[0].set_request_headers.Host: is set by the gateway"),
        (with_route("set_request_headers: {Transfer-Encoding: x}"), "11:27: routes[0].set_request_headers.Transfer-Encoding: belongs to the connection and its framing; the gateway sets it"),
        (with_route("set_request_headers: {Connection: x}"), "11:27: routes[0].set_request_headers.Connection: belongs to the connection and its framing; the gateway sets it"),
        (with_route("set_request_headers: {X-Forwarded-For: x}"), "11:27: routes[0].set_request_headers.X-Forwarded-For: is set by the gateway, unless forwarding.x_forwarded is false"),
        (with_route("set_request_headers: {X-A: a, x-a: b}"), "11:35: routes[0].set_request_headers.x-a: is given twice, in other letters"),
        (with_route('set_request_headers: {X-A: "a\\r\\nX-B: b"}'), "11:32: routes[0].set_request_headers.X-A: holds a control character, which no header's value can"),
        (with_route('set_request_headers: {X-A: {value: " a"}}'), "11:40: routes[0].set_request_headers.X-A.value: begins or ends with white space, which no header's value can"),
        (with_route("set_request_headers: {X-A: {value: a, value_file: /dev/null}}"), "11:55: routes[0].set_request_headers.X-A.value_file: excludes value: give one of the two"),
        (with_route("set_response_headers: {Content-Length: 1}"), "11:28: routes[0].set_response_headers.Content-Length: belongs to the connection and its framing; the gateway sets it"),
        (with_route("remove_request_headers: [Cookie, Host]"), "11:38: routes[0].remove_request_headers[1]: is set by the gateway"),
        (with_route("remove_response_headers: [Connection]"), "11:31: routes[0].remove_response_headers[0]: belongs to the connection and its framing; the gateway sets it"),
        (with_route("host_header: a b"), "11:18: routes[0].host_header: expected upstream, client, or a host name, perhaps with a port"),
        (with_route("path_policy: lax"), "11:18: routes[0].path_policy: expected one of: strict, raw"),
        (with_route("rate_limit: {requests_per_second: 0}"), "11:39: routes[0].rate_limit.requests_per_second: must be above 0"),
        (with_route("rate_limit: {burst: 1}"), "11:5: routes[0].rate_limit.requests_per_second: is missing"),
        (with_route("pool: {max_connections: 0}"), "11:29: routes[0].pool.max_connections: must be between 1 and 100000"),
        (with_route("retries: {connect: -1}"), "11:24: routes[0].retries.connect: expected a whole number"),
        (with_route("timeouts: {connect: 0}"), "11:25: routes[0].timeouts.connect: must be between 10ms and 10m"),
        (with_route("on_unauthorized: {max_replay_body: 1GiB}"), "11:40: routes[0].on_unauthorized.max_replay_body: must be between 0 and 64MiB"),
        (with_route("limits: {body_bytes: 1MB}"), "11:26: routes[0].limits.body_bytes: a size is a whole number and a unit: 512B, 64KiB, 1MiB, 2GiB"),
        (with_route("limits: {head_bytes: 1KiB}"), '11:14: routes[0].limits.head_bytes: is an unknown key (did you mean "body_bytes"?)'),
        (MINIMAL.replace("path_prefix: /orders", "path_prefix: orders"), "8:26: routes[0].match.path_prefix: a path begins with / and is as requests have it: no query, no spaces, others percent-encoded"),
        (MINIMAL.replace("path_prefix: /orders", "path_prefix: /a, path_exact: /a"), "8:42: routes[0].match.path_exact: excludes path_prefix: give one of the two"),
        (MINIMAL.replace("path_prefix: /orders", ""), "8:5: routes[0].match: one of path_prefix, path_exact and host is needed; `path_prefix: /` is for every path"),
        (MINIMAL.replace("path_prefix: /orders", "path_prefix: /a, methods: [get]"), '8:40: routes[0].match.methods[0]: is not a method that the gateway forwards; their names are upper-case (did you mean "GET"?)'),
        (MINIMAL.replace("path_prefix: /orders", "path_prefix: /a, methods: []"), "8:30: routes[0].match.methods: is empty; leave it out for every method"),
        (MINIMAL.replace("path_prefix: /orders", "host: 'a:80'"), "8:19: routes[0].match.host: expected a host name without port, such as api.example or *.example (ASCII; xn-- for others)"),
        (MINIMAL.replace("path_prefix: /orders", "host: a.example") + "    strip_prefix: true\n", "11:19: routes[0].strip_prefix: needs match.path_prefix: there is nothing to strip"),
        (CREDENTIAL + "routes: []\n", "6:1: routes: needs a route"),
    ],
)  # fmt: skip
def test_a_route_that_cannot_work(text, expected):
    """Told before the first request, by file and line."""
    assert faults(text) == [expected]


def test_plain_http_where_nobody_else_reads():
    """Loopback is fine, and so is what was allowed; without a token, an upstream may be plain."""
    assert (
        faults(
            MINIMAL.replace("https://as.example", "http://127.0.0.1:1").replace("https://api.example", "http://[::1]:2")
        )
        == []
    )
    assert faults(HTTP_AS.replace("${SECRET}\n", "${SECRET}\n    allow_plain_http: true\n")) == []
    assert faults(HTTP_API + "    allow_plain_http: true\n") == []
    assert faults(HTTP_API.replace("credential: orders", "credential: none")) == []


SECOND = "  - {{name: {name}, match: {match}, upstream: 'https://b.example', credential: none}}\n"


@pytest.mark.parametrize(
    "match",
    ["{path_prefix: /orders}", "{path_prefix: /orders, methods: [GET]}"],
)
def test_two_routes_that_could_tie(match):
    """The fault points at the second, and names both."""
    text = MINIMAL + SECOND.format(name="second", match=match)
    assert faults(text) == [
        "11:20: routes[1].match: routes orders and second match the same requests: same host, same path, a common method"
    ]


def test_ties_are_told_with_everything_else():
    """Faults elsewhere, in the routes that tie too, do not hide them."""
    text = "listen: x\n" + MINIMAL.replace("/v1", "?") + SECOND.format(name="second", match="{path_prefix: /orders}")
    assert [line.split(": ")[1] for line in faults(text)] == ["listen", "routes[0].upstream", "routes[1].match"]


def test_routes_that_do_not_tie():
    """Another host, path, kind of path, or other methods."""
    matches = ["{path_exact: /orders}", "{path_prefix: /orders/}", "{path_prefix: /orders, host: a.example}"]
    text = MINIMAL + "".join(SECOND.format(name=f"r{i}", match=match) for i, match in enumerate(matches))
    assert faults(text) == []
    methods = text.replace("{path_prefix: /orders}", "{path_prefix: /orders, methods: [GET]}", 1)
    assert faults(methods + SECOND.format(name="w", match="{path_prefix: /orders, methods: [POST]}")) == []
    assert len(faults(methods + SECOND.format(name="w", match="{path_prefix: /orders, methods: [HEAD]}"))) == 1


def test_two_routes_of_one_name():
    """Names are labels of metrics."""
    text = MINIMAL + SECOND.format(name="orders", match="{path_prefix: /}")
    assert faults(text) == ["11:12: routes[1].name: another route has this name"]


EXPOSED = (
    "other machines can connect there, and whoever does acts with the gateway's tokens: access.allowed_hosts and "
    "access.allowed_clients must both be written out (without a file: BEARER_PROXY_ALLOWED_HOSTS and "
    "BEARER_PROXY_ALLOWED_CLIENTS)"
)
LISTS = "access: {allowed_hosts: [gateway], allowed_clients: [10.0.0.0/8]}\n"


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "'[::]:8080'", "':8080'", "10.0.0.1:8080", "gateway:8080"])
def test_a_listener_that_other_machines_can_reach(address):
    """Is refused until both lists are written out: one is not enough, and neither is an empty variable."""
    text = f"listen: {address}\n" + MINIMAL
    assert faults(text) == [f"1:9: listen: {EXPOSED}"]
    assert faults(text + "access: {allowed_hosts: [gateway]}\n") == [f"1:9: listen: {EXPOSED}"]
    assert faults(text + "access: {allowed_clients: [10.0.0.0/8]}\n") == [f"1:9: listen: {EXPOSED}"]
    assert faults(text + LISTS.replace("[gateway]", "'${NO:-}'")) == [f"1:9: listen: {EXPOSED}"]
    assert faults(text + LISTS) == []


def test_one_of_several_listeners_that_others_can_reach():
    """Is enough."""
    text = "listen: [127.0.0.1:8080, 0.0.0.0:8081]\n" + MINIMAL
    assert faults(text) == [f"1:1: listen: {EXPOSED}"]


def test_a_listener_with_faulty_lists():
    """The lists are written out, and wrong: that alone is told."""
    text = "listen: 0.0.0.0:8080\naccess: {allowed_hosts: [gateway], allowed_clients: [x]}\n" + MINIMAL
    assert faults(text) == ["2:54: access.allowed_clients[0]: expected an IP address or a network such as 10.0.0.0/8"]


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ("listen: []", "1:1: listen: needs an address"),
        ("listen: [127.0.0.1:1, 127.0.0.1:1]", "1:1: listen: has an address twice"),
        ("listen: [127.0.0.1:1, x]", "1:23: listen[1]: expected host:port or unix:/path"),
        ("listen: 127.0.0.1:1, x", "1:9: listen: expected host:port or unix:/path"),
        ("admin: 127.0.0.1:8080", "1:8: admin: is an address of `listen`; it must be one of its own"),
        ("admin: no", "1:8: admin: expected host:port or unix:/path"),
        ("version: 2", "1:10: version: expected 1, the only version there is"),
        ("drain_timeout: 20", "1:16: drain_timeout: a duration is a number and a unit: 100ms, 30s, 5m, 1h"),
        ("shutdown_delay: 2h", "1:17: shutdown_delay: must be between 0s and 1h"),
        ("limits: {head_bytes: 1B}", "1:22: limits.head_bytes: must be between 1KiB and 1MiB"),
        ("limits: {connections: 0}", "1:23: limits.connections: must be between 1 and 1000000"),
        ("limits: {head_timeout: 0}", "1:24: limits.head_timeout: must be between 100ms and 1h"),
        ("log: {level: warn}", '1:14: log.level: expected one of: debug, info, warning, error (did you mean "warning"?)'),
        ("access: {allowed_hosts: [a, '*']}", '1:10: access.allowed_hosts: "*" stands alone: it is any host'),
        ("access: {allowed_hosts: 'a, b c'}", "1:25: access.allowed_hosts: expected a host name without port, such as api.example or *.example (ASCII; xn-- for others)"),
        ("access: {allowed_clients: [10.0.0.1/8]}", "1:28: access.allowed_clients[0]: has address bits beyond its prefix length; give the network's own address, such as 10.0.0.0/8"),
        ("access: {require_header: {value: x}}", "1:10: access.require_header.name: is missing"),
        ("access: {require_header: {name: X-Key}}", "1:10: access.require_header: one of value and value_file is needed"),
        ("access: {require_header: {name: Host, value: x}}", "1:33: access.require_header.name: is set by the gateway"),
    ],
)  # fmt: skip
def test_a_gateway_that_cannot_work(top, expected):
    """Told before it starts, by file and line."""
    assert faults(f"{top}\n" + MINIMAL) == [expected]


GATEWAY = "access: {allowed_hosts: [gateway, '*.internal'], allowed_clients: [10.0.0.0/8, '::1']}\n"
ONLY_NARROWER = "a route may only narrow them"


@pytest.mark.parametrize(
    ("top", "access", "expected"),
    [
        (GATEWAY, "{allowed_clients: [10.1.0.0/16, 192.168.0.0/16]}", f"12:45: routes[0].access.allowed_clients[1]: is not inside the gateway's access.allowed_clients; {ONLY_NARROWER}"),
        (GATEWAY, "{allowed_clients: [0.0.0.0/0]}", f"12:32: routes[0].access.allowed_clients[0]: is not inside the gateway's access.allowed_clients; {ONLY_NARROWER}"),
        (GATEWAY, "{allowed_clients: '::/0'}", f"12:31: routes[0].access.allowed_clients: is not inside the gateway's access.allowed_clients; {ONLY_NARROWER}"),
        (GATEWAY, "{allowed_hosts: [gateway, other]}", f"12:39: routes[0].access.allowed_hosts[1]: is not among the gateway's access.allowed_hosts; {ONLY_NARROWER}"),
        (GATEWAY, "{allowed_hosts: ['*']}", f"12:30: routes[0].access.allowed_hosts[0]: is not among the gateway's access.allowed_hosts; {ONLY_NARROWER}"),
        ("", "{browser_requests: allow}", "11:32: routes[0].access.browser_requests: the gateway's access.browser_requests is refuse; a route may only narrow it"),
        ("", "{allowed_origins: ['https://a.example']}", "11:32: routes[0].access.allowed_origins[0]: is not among the gateway's access.allowed_origins; a route may only narrow them"),
        ("access: {require_header: {name: X-Key, value: x}}\n", "{require_header: {name: X-Other, value: y}}", "12:14: routes[0].access.require_header: the gateway asks for a key already, in access.require_header"),
        ("", "{trusted_proxies: [10.0.0.1]}", "11:14: routes[0].access.trusted_proxies: is an unknown key"),
    ],
)  # fmt: skip
def test_a_route_that_would_open_what_the_gateway_closes(top, access, expected):
    """A route's access only narrows."""
    assert faults(top + MINIMAL + f"    access: {access}\n") == [expected]


def test_a_route_that_narrows():
    """Networks inside, hosts among the gateway's or its own, browsers refused, a key asked for."""
    text = "access: {browser_requests: allow, allowed_hosts: [gateway, '*.internal'], allowed_clients: [10.0.0.0/8]}\n"
    narrower = (
        "{allowed_clients: [10.1.2.3], allowed_hosts: [gateway, a.internal, own.example], browser_requests: refuse, "
        "allowed_origins: ['https://a.example'], require_header: {name: X-Key, value: x}}"
    )
    route = ROUTE.replace("path_prefix: /orders", "host: own.example, path_prefix: /orders")
    assert faults(text + CREDENTIAL + route + f"    access: {narrower}\n") == []
    assert faults("access: {allowed_hosts: '*'}\n" + MINIMAL + "    access: {allowed_hosts: [any.example]}\n") == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: "/nonexistent/canary", "the file cannot be read: No such file or directory"),
        (str, "the file is a directory"),
        (lambda folder: _file(folder, b" \n"), "the file is empty"),
        (lambda folder: _file(folder, b"\xff"), "the file is not UTF-8 text"),
        (lambda folder: _file(folder, b"a" * 1_048_577), "the file is larger than 1 MiB"),
    ],
)
def test_a_secret_file_that_holds_no_secret(tmp_path, make, expected):
    """Told at start, not with the first request; the file's name may come from a variable and is not repeated."""
    text = MINIMAL.replace("client_secret: ${SECRET}", f"client_secret_file: {make(tmp_path)}")
    assert faults(text) == [f"5:25: credentials.orders.client_secret_file: {expected}"]


def test_files_of_tls_and_headers(tmp_path):
    """They are looked into as well: a header's value may not break the line."""
    broken = _file(tmp_path, b"a\r\nX-Evil: b\n")
    text = with_route(f"set_request_headers: {{X-A: {{value_file: {broken}}}}}\ntls: {{ca_file: /nonexistent}}")
    assert faults(text) == [
        "11:45: routes[0].set_request_headers.X-A.value_file: the file's text holds a control character, which no header's value can",
        "12:20: routes[0].tls.ca_file: the file cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cert_file: {0}/a.pem, key_file: {0}/a.key, client_ca_file: {0}/ca.pem", None),
        ("cert_file: {0}/both.pem", None),
        ("key_file: {0}/a.key", "tls.cert_file: is missing"),
        ("cert_file: {0}/none.pem", "tls.cert_file: the file cannot be read: No such file or directory"),
        (
            "cert_file: {0}/a.pem, key_file: {0}/b.key",
            "tls.cert_file: the file cannot be used (the key is not the certificate's: KEY_VALUES_MISMATCH)",
        ),
        ("cert_file: {0}/a.pem, key_file: {0}/locked.key", "tls.cert_file: the file cannot be used (not PEM, or its key is locked)"),
        ("cert_file: {0}/a.key, key_file: {0}/a.key", "tls.cert_file: the file cannot be used (not PEM, or its key is locked)"),
        ("cert_file: {0}/both.pem, client_ca_file: {0}/a.key", "tls.client_ca_file: the file cannot be used (NO_CERTIFICATE_OR_CRL_FOUND)"),
        ("cert_file: {0}/both.pem, min_version: 1.0", "tls.min_version: is an unknown key"),
    ],
)  # fmt: skip
def test_tls_towards_clients(tmp_path, given, expected):
    """What it could not serve with is told before it serves: files that are not there, not PEM, locked, or no pair."""
    authority = Authority(tmp_path)
    one = authority.pair("a", file="a")
    authority.pair("b", file="b")
    authority.pair("c", file="locked", passphrase=b"open sesame")
    (tmp_path / "locked.pem").rename(tmp_path / "unused.pem")
    (tmp_path / "both.pem").write_bytes(one.cert.read_bytes() + one.key.read_bytes())
    found = faults(f"tls: {{{given.format(tmp_path)}}}\n" + MINIMAL)
    if expected is None:
        assert found == []
    else:
        (fault,) = found
        assert fault.endswith(expected)
        assert fault.startswith("1:")


def _file(folder, data):
    path = folder / "secret"
    path.write_bytes(data)
    return str(path)
