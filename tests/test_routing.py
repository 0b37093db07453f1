"""Which route serves a request: order, segment boundaries, methods, ties, and what a match costs."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import ConfigurationError
from proxy.routing import Match, Matched, NoRoute, Route, RouteMatch, RouteName, RouteTable, WrongMethod
from proxy.secret import FixedSecret, Secret
from proxy.upstream.origin import Origin

UPSTREAM = Origin(scheme="http", host="127.0.0.1", port=8081)


def route(name: str, **match) -> Route:
    return Route(name=RouteName(name), match=Match(**match), upstream=UPSTREAM, credential=None)


def served(table: RouteTable, path: bytes, host: bytes | None = b"h", method: bytes = b"GET") -> str | None:
    found = table.match(host, path, method)
    return found.route.name if isinstance(found, Matched) else None


@pytest.mark.parametrize(
    ("prefix", "path", "matches"),
    [
        (b"/orders", b"/orders", True),
        (b"/orders", b"/orders/", True),
        (b"/orders", b"/orders/7", True),
        (b"/orders", b"/orders//7", True),
        (b"/orders", b"/ordersx", False),
        (b"/orders", b"/orders;x", False),
        (b"/orders", b"/orders%2F7", False),
        (b"/orders", b"/Orders", False),
        (b"/orders", b"/order", False),
        (b"/orders", b"//orders", False),
        (b"/orders", b"/x/orders", False),
        (b"/orders", b"/%6Frders", False),
        (b"/orders/", b"/orders", False),
        (b"/orders/", b"/orders/", True),
        (b"/orders/", b"/orders/7", True),
        (b"/orders/", b"/orders//", True),
        (b"/a/b", b"/a/b/c/d/e/f", True),
        (b"/a/b", b"/a", False),
        (b"/a//b", b"/a//b/c", True),
        (b"/a//b", b"/a/b/c", False),
        (b"/", b"/", True),
        (b"/", b"/anything/at/all", True),
        (b"/", b"//", True),
        (None, b"/anything", True),
    ],
)
def test_a_prefix(prefix, path, matches):
    """It ends at a segment boundary of the path's own bytes; nothing is decoded, merged or folded."""
    assert served(RouteTable([route("a", path_prefix=prefix)]), path) == ("a" if matches else None)


@pytest.mark.parametrize(
    ("path", "matches"),
    [(b"/orders", True), (b"/orders/", False), (b"/orders/7", False), (b"/order", False), (b"/", False)],
)
def test_an_exact_path(path, matches):
    """It is the whole path."""
    assert served(RouteTable([route("a", path_exact=b"/orders")]), path) == ("a" if matches else None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/", "root"), (b"/x", "root"), (b"/orders", "exact"), (b"/orders/", "below"), (b"/orders/7", "below"),
        (b"/orders/7/lines", "below"), (b"/orders/old", "old"), (b"/orders/old/7", "old"), (b"/orders/oldest", "below"),
        (b"/ordersx", "root"),
    ],
)  # fmt: skip
def test_the_order_of_paths(path, name):
    """The exact path wins, then the longest prefix, in whatever order the routes are written."""
    routes = [
        route("root", path_prefix=b"/"),
        route("orders", path_prefix=b"/orders"),
        route("below", path_prefix=b"/orders/"),
        route("old", path_prefix=b"/orders/old"),
        route("exact", path_exact=b"/orders"),
    ]
    assert served(RouteTable(routes), path) == name
    assert served(RouteTable(reversed(routes)), path) == name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"api.example", "exact"), (b"www.example", "wide"), (b"a.b.example", "wide"), (b"x.eu.example", "narrow"),
        (b"a.b.eu.example", "narrow"), (b"eu.example", "wide"), (b"example", "any"), (b"notexample", "any"),
        (b".example", "any"), (b"[::1]", "six"), (b"other", "any"), (b"", "any"), (None, "any"),
    ],
)  # fmt: skip
def test_the_order_of_hosts(host, name):
    """The exact host wins, then the longest wildcard, for one or more labels more, then a route without a host."""
    routes = [
        route("any", path_prefix=b"/"),
        route("wide", host="*.example", path_prefix=b"/"),
        route("narrow", host="*.eu.example", path_prefix=b"/"),
        route("exact", host="api.example", path_prefix=b"/"),
        route("six", host="[::1]", path_prefix=b"/"),
    ]
    assert served(RouteTable(routes), b"/x", host) == name
    assert served(RouteTable(reversed(routes)), b"/x", host) == name


def test_a_path_that_the_better_host_does_not_have():
    """The host weighs more than the path, among the routes that match both."""
    table = RouteTable(
        [
            route("any-orders", path_prefix=b"/orders"),
            route("wild", host="*.example", path_prefix=b"/wild"),
            route("exact", host="api.example", path_prefix=b"/api"),
            route("root", host="api.example", path_exact=b"/"),
        ]
    )
    assert served(table, b"/api", b"api.example") == "exact"
    assert served(table, b"/wild", b"api.example") == "wild"
    assert served(table, b"/orders/7", b"api.example") == "any-orders"
    assert table.match(b"api.example", b"/none", b"GET") == NoRoute()


def test_no_route_at_all():
    """A table without routes serves nothing."""
    assert RouteTable([]).match(b"h", b"/", b"GET") == NoRoute()


def test_a_request_without_host():
    """Only a route without a host serves it."""
    table = RouteTable([route("a", host="h", path_prefix=b"/")])
    assert table.match(None, b"/", b"GET") == NoRoute()


def test_routes_of_one_path_by_method():
    """Each method has its route; a method of none is refused with all that there are."""
    table = RouteTable(
        [
            route("read", path_prefix=b"/orders", methods=frozenset({b"GET"})),
            route("write", path_prefix=b"/orders", methods=frozenset({b"POST", b"PUT"})),
        ]
    )
    assert served(table, b"/orders/7", method=b"GET") == "read"
    assert served(table, b"/orders/7", method=b"PUT") == "write"
    assert table.match(b"h", b"/orders/7", b"DELETE") == WrongMethod((b"GET", b"HEAD", b"POST", b"PUT"))
    assert table.match(b"h", b"/orders/7", b"get") == WrongMethod((b"GET", b"HEAD", b"POST", b"PUT"))


def test_a_route_for_get():
    """It admits HEAD, and says so; a route for HEAD does not admit GET."""
    table = RouteTable(
        [
            route("get", path_exact=b"/g", methods=frozenset({b"GET"})),
            route("head", path_exact=b"/h", methods=frozenset({b"HEAD"})),
        ]
    )
    assert served(table, b"/g", method=b"HEAD") == "get"
    assert table.match(b"h", b"/g", b"POST") == WrongMethod((b"GET", b"HEAD"))
    assert table.match(b"h", b"/h", b"GET") == WrongMethod((b"HEAD",))


def test_a_wrong_method_where_a_lesser_route_would_take_it():
    """It is refused: the lesser route may carry a mightier credential."""
    table = RouteTable(
        [
            route("all", path_prefix=b"/"),
            route("orders", path_prefix=b"/orders", methods=frozenset({b"GET"})),
            route("exact", path_exact=b"/status", methods=frozenset({b"GET"})),
            route("host", host="api.example", path_prefix=b"/", methods=frozenset({b"GET"})),
        ]
    )
    assert table.match(b"h", b"/orders/7", b"DELETE") == WrongMethod((b"GET", b"HEAD"))
    assert table.match(b"h", b"/status", b"DELETE") == WrongMethod((b"GET", b"HEAD"))
    assert table.match(b"api.example", b"/x", b"DELETE") == WrongMethod((b"GET", b"HEAD"))
    assert served(table, b"/x", method=b"DELETE") == "all"


def test_a_path_written_exactly_and_as_a_prefix():
    """Both are routes for that very path: what the exact one does not take, the prefix may."""
    table = RouteTable(
        [
            route("read", path_exact=b"/orders", methods=frozenset({b"GET"})),
            route("write", path_prefix=b"/orders", methods=frozenset({b"GET", b"POST"})),
        ]
    )
    assert served(table, b"/orders", method=b"GET") == "read"
    assert served(table, b"/orders", method=b"POST") == "write"
    assert served(table, b"/orders/7", method=b"GET") == "write"
    assert table.match(b"h", b"/orders", b"PUT") == WrongMethod((b"GET", b"HEAD", b"POST"))
    every = RouteTable([route("read", path_exact=b"/", methods=frozenset({b"GET"})), route("every")])
    assert served(every, b"/", method=b"GET") == "read"
    assert served(every, b"/", method=b"POST") == "every"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path_prefix": b"/a"}, {"path_prefix": b"/a"}),
        ({"path_exact": b"/a"}, {"path_exact": b"/a"}),
        ({}, {"path_prefix": b"/"}),
        ({"host": "*.h", "path_prefix": b"/a"}, {"host": "*.h", "path_prefix": b"/a"}),
        ({"methods": frozenset({b"GET"})}, {}),
        ({}, {"methods": frozenset({b"GET"})}),
        ({"methods": frozenset({b"GET", b"PUT"})}, {"methods": frozenset({b"POST", b"PUT"})}),
        ({"methods": frozenset({b"GET"})}, {"methods": frozenset({b"HEAD"})}),
        ({"methods": frozenset({b"HEAD"})}, {"methods": frozenset({b"GET"})}),
    ],
)
def test_two_routes_that_could_tie(one, other):
    """They are a configuration error that names both."""
    with pytest.raises(ConfigurationError, match=r"first.*second"):
        RouteTable([route("first", **one), route("between", path_prefix=b"/b"), route("second", **other)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path_prefix": b"/a"}, {"path_exact": b"/a"}),
        ({"path_prefix": b"/a"}, {"path_prefix": b"/a/"}),
        ({"path_prefix": b"/a"}, {"path_prefix": b"/a", "host": "h"}),
        ({"host": "*.b.h"}, {"host": "*.h"}),
        ({"host": "b.h"}, {"host": "*.h"}),
        ({"methods": frozenset({b"GET"})}, {"methods": frozenset({b"POST"})}),
    ],
)
def test_two_routes_that_cannot_tie(one, other):
    """One is always better, or their methods are apart."""
    RouteTable([route("first", **one), route("second", **other)])


@pytest.mark.parametrize(
    "match",
    [
        {"path_prefix": b"/a", "path_exact": b"/a"},
        {"path_prefix": b"a"},
        {"path_prefix": b""},
        {"path_exact": b""},
        {"path_exact": b"*"},
        {"host": ""},
        {"host": "API.example"},
        {"host": "*"},
        {"host": "a.*.example"},
        {"host": "*.*.example"},
        {"host": "*example"},
        {"host": "*."},
        {"host": "h\xe9"},
        {"methods": frozenset()},
    ],
)
def test_a_match_that_could_never_serve(match):
    """It is a configuration error that names the route."""
    with pytest.raises(ConfigurationError, match="lonely"):
        RouteTable([route("lonely", **match)])


def test_a_route_shown_in_a_log():
    """The values of the fields that it sets are secrets."""
    secret = FixedSecret(Secret("hunter2"))
    shown = Route(
        name=RouteName("a"),
        match=Match(),
        upstream=UPSTREAM,
        credential=None,
        set_request_headers=((b"X-Key", secret),),
        set_response_headers=((b"X-Key", secret),),
    )
    assert "hunter2" not in repr(shown)
    assert "hunter2" not in repr(Matched(shown))


SEGMENTS = st.sampled_from([b"/", b"/a", b"/b", b"/ab", b"//", b"/a%2Fb"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(b"".join)
HOSTS = st.sampled_from(["h", "a.h", "b.a.h", "c.b.a.h", "x"])
PATTERNS = st.one_of(st.none(), HOSTS, HOSTS.map(lambda host: f"*.{host}"))
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"])
MATCHES = st.builds(
    lambda host, path, exact, methods: Match(
        host=host, path_exact=path if exact else None, path_prefix=None if exact else path, methods=methods
    ),
    PATTERNS,
    PATHS,
    st.booleans(),
    st.one_of(st.none(), st.frozensets(METHODS, min_size=1)),
)


def rank(match: Match, host: bytes | None, path: bytes) -> tuple[int, ...] | None:
    """The rule as written: how well a route's host and path fit, the greater the better; None if they do not."""
    text = "" if host is None else host.decode()
    if match.host is None:
        by_host = 0
    elif match.host.startswith("*."):
        if not text.endswith(match.host[1:]) or len(text) == len(match.host) - 1:
            return None
        by_host = len(match.host)
    elif match.host == text:
        by_host = 1000
    else:
        return None
    if match.path_exact is not None:
        return (by_host, 1000) if match.path_exact == path else None
    prefix = match.path_prefix or b"/"
    within = path == prefix or path.startswith(prefix if prefix.endswith(b"/") else prefix + b"/")
    return (by_host, len(prefix)) if within else None


def admitted(match: Match) -> frozenset[bytes]:
    if match.methods is None:
        return frozenset({b"GET", b"HEAD", b"POST", b"PUT"})
    return match.methods | {b"HEAD"} if b"GET" in match.methods else match.methods


def naive(routes: list[Route], host: bytes | None, path: bytes, method: bytes) -> RouteMatch:
    ranked = [(place, each) for each in routes if (place := rank(each.match, host, path)) is not None]
    if not ranked:
        return NoRoute()
    best = max(place for place, _ in ranked)
    here = [each for place, each in ranked if place == best]
    if best[1] == 1000:  # the same path as a prefix, at the same host, is there for the methods left over
        here += [each for place, each in ranked if place[0] == best[0] and each.match.path_prefix == path]
    for each in here:
        if method in admitted(each.match):
            return Matched(each)
    return WrongMethod(tuple(sorted(frozenset().union(*(admitted(each.match) for each in here)))))


@settings(deadline=None, max_examples=500)
@given(
    st.lists(MATCHES, max_size=8), st.one_of(st.none(), HOSTS.map(str.encode), st.just(b".h")), PATHS, METHODS
)  # fmt: skip
@example([Match(path_exact=b"/a", methods=frozenset({b"GET"})), Match(path_prefix=b"/a")], b"h", b"/a", b"PUT")
def test_a_match_against_the_rule_as_written(matches, host, path, method):
    """The compiled table finds what trying every route finds; it refuses the same tables."""
    routes = [
        Route(name=RouteName(f"r{number}"), match=match, upstream=UPSTREAM, credential=None)
        for number, match in enumerate(matches)
    ]
    tie = any(
        (one.match.host, one.match.path_exact, one.match.path_prefix)
        == (other.match.host, other.match.path_exact, other.match.path_prefix)
        and admitted(one.match) & admitted(other.match)
        for number, one in enumerate(routes)
        for other in routes[:number]
    )
    if tie:
        with pytest.raises(ConfigurationError):
            RouteTable(routes)
    else:
        assert RouteTable(routes).match(host, path, method) == naive(routes, host, path, method)


def calls(table: RouteTable, host: bytes | None, path: bytes) -> int:
    """Counts every function call of one match, those into C (dictionary look-ups, searches) included."""
    count = 0

    def count_calls(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(count_calls)
    try:
        table.match(host, path, b"GET")
    finally:
        sys.setprofile(None)
    return count


def many(number: int) -> RouteTable:
    return RouteTable(
        [
            *(route(f"p{i}", path_prefix=b"/orders/%06d" % i) for i in range(number)),
            *(route(f"e{i}", path_exact=b"/exact/%06d" % i) for i in range(number)),
            *(route(f"h{i}", host=f"{i:06d}.example", path_prefix=b"/") for i in range(number)),
            *(route(f"w{i}", host=f"*.{i:06d}.example", path_prefix=b"/") for i in range(number)),
        ]
    )


@pytest.mark.parametrize(
    ("host", "path"),
    [
        (b"h", b"/orders/000001/a/b/c"), (b"h", b"/exact/000001"), (b"000001.example", b"/x"), (b"a.b.000001.example", b"/x"),
        (b"h", b"/none/at/all"), (None, b"/"),
    ],
)  # fmt: skip
def test_the_cost_of_a_match(host, path):
    """A match among 4000 routes takes as many operations as one among 8."""
    assert calls(many(1000), host, path) == calls(many(2), host, path) < 40


@pytest.mark.parametrize(
    ("host", "path"), [(b"h", b"/" * 30_000), (b"h", b"/a" * 15_000), (b"a." * 15_000 + b"example", b"/x")]
)
def test_the_cost_of_a_hostile_path_or_host(host, path):
    """The walk is bounded by the longest prefix and wildcard configured, not by what a client sends."""
    assert calls(many(2), host, path) < 80
