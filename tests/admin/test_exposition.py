"""The metrics as Prometheus reads them: names, types and labels, from plain values."""

from __future__ import annotations

import math
import platform
import random
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.admin.exposition import Exposition, preferred_format
from proxy.clock import SystemClock
from proxy.errors import ErrorType, Problem
from proxy.tokens.access_token import CredentialName, TokenState
from proxy.tokens.source import Durations
from tests.admin.facts import FRESH, WITHOUT_TOKEN, Counts, Facts

CANARY = "c4n4ry-s3cr3t"
OPENMETRICS = "application/openmetrics-text"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

# name -> type, label names: the outward promise
METRICS = {
    "http_requests_total": ("counter", {"route", "method", "code"}),
    "http_request_duration_seconds": ("histogram", {"route"}),
    "http_requests_in_flight": ("gauge", {"route"}),
    "request_body_bytes_total": ("counter", {"route"}),
    "response_body_bytes_total": ("counter", {"route"}),
    "upstream_duration_seconds": ("histogram", {"route"}),
    "upstream_errors_total": ("counter", {"route", "error"}),
    "upstream_connections": ("gauge", {"route", "state"}),
    "requests_refused_total": ("counter", {"reason"}),
    "token_requests_total": ("counter", {"credential", "outcome"}),
    "token_request_duration_seconds": ("histogram", {"credential"}),
    "token_lookups_total": ("counter", {"credential", "result"}),
    "token_expiry_timestamp_seconds": ("gauge", {"credential"}),
    "token_next_refresh_timestamp_seconds": ("gauge", {"credential"}),
    "token_state": ("gauge", {"credential", "state"}),
    "token_consecutive_failures": ("gauge", {"credential"}),
    "token_replays_total": ("counter", {"route", "result"}),
    "outage_budget_seconds": ("gauge", set()),
    "authorization_server_clock_skew_seconds": ("gauge", {"credential"}),
    "token_scopes_missing": ("gauge", {"credential"}),
    "client_secret_in_use": ("gauge", {"credential", "index"}),
    "log_lines_dropped_total": ("counter", set()),
    "build_info": ("gauge", {"version", "python"}),
}


def at_work():
    facts = Facts(log_lines_dropped=4)
    orders = facts.metrics.route("orders")
    for seconds in (0.003, 0.003, 0.2, 100.0):
        orders.durations.observe(seconds)
    orders.count_request(b"GET", 200)
    orders.count_request(b"GET", 200)
    orders.count_request(b"BREW", 501)
    orders.in_flight = 2
    orders.request_body_bytes = 1024
    orders.response_body_bytes = 1 << 53
    orders.upstream_durations.observe(0.1)
    orders.count_upstream_error(ErrorType.CONNECTION_REFUSED)
    orders.count_replay("ok")
    facts.metrics.unmatched.count_request(b"GET", 404)
    facts.metrics.unmatched.durations.observe(0.001)
    facts.metrics.count_refused(Problem.NO_ROUTE)
    return facts


def with_two_secrets():
    """Returns the facts of a gateway that has something to tell for every metric."""
    facts = at_work()
    facts.tokens = [replace(FRESH, client_secrets=2, client_secret_in_use=0)]
    return facts


async def rendered(facts, accept=""):
    body, content_type = await Exposition(facts.admin_facts(), SystemClock(), version="1.2.3").render(accept)
    return body.decode(), content_type


async def families(facts, accept=""):
    text, _ = await rendered(facts, accept)
    parse = parse_openmetrics if OPENMETRICS in accept else parse_text
    return {family.name: family for family in parse(text)}


async def samples(facts):
    """Returns every sample of `bearer_proxy_`: (name, its labels) -> value."""
    return {
        (sample.name.removeprefix("bearer_proxy_"), *sorted(sample.labels.items())): sample.value
        for family in (await families(facts)).values()
        for sample in family.samples
        if sample.name.startswith("bearer_proxy_")
    }


def of(name, **labels):
    return (name, *sorted(labels.items()))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_names_types_and_labels(accept):
    """They are exactly those promised, in both formats."""
    found = {
        name.removeprefix("bearer_proxy_"): family
        for name, family in (await families(with_two_secrets(), accept)).items()
        if name.startswith("bearer_proxy_")
    }
    shapes = {}
    for name, family in found.items():
        full = f"{name}_total" if family.type == "counter" else name
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert len(labels) == 1, name
        shapes[full] = (family.type, set(labels.pop()))
        assert family.documentation
    assert shapes == METRICS


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_the_process(accept):
    """The usual metrics of the process are there."""
    names = set(await families(at_work(), accept))
    assert {
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
        "process_max_fds",
    } <= names
    assert any(name.startswith("process_cpu_seconds") for name in names)


async def test_requests():
    """Counted by route, method and code; what matched no route has an empty one."""
    found = await samples(at_work())
    assert {key: value for key, value in found.items() if key[0] == "http_requests_total"} == {
        of("http_requests_total", route="orders", method="GET", code="200"): 2,
        of("http_requests_total", route="orders", method="other", code="501"): 1,
        of("http_requests_total", route="", method="GET", code="404"): 1,
    }
    assert found[of("http_requests_in_flight", route="orders")] == 2
    assert found[of("request_body_bytes_total", route="orders")] == 1024
    assert found[of("response_body_bytes_total", route="orders")] == 1 << 53
    assert found[of("requests_refused_total", reason="no-route")] == 1
    assert found[of("requests_refused_total", reason="draining")] == 0


async def test_durations():
    """Buckets are cumulative, from 5 ms to 10 s, then 30 and 60."""
    found = await samples(at_work())
    name = "http_request_duration_seconds"
    buckets = {
        dict(key[1:])["le"]: value
        for key, value in found.items()
        if key[0] == f"{name}_bucket" and dict(key[1:])["route"] == "orders"
    }
    assert list(map(float, buckets)) == [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, math.inf]
    assert list(buckets.values()) == [2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert found[of(f"{name}_count", route="orders")] == 4
    assert found[of(f"{name}_sum", route="orders")] == pytest.approx(100.206)
    assert found[of(f"{name}_count", route="open")] == 0


async def test_an_upstream():
    """Errors by RFC 9209 words, connections by state, replays by result."""
    found = await samples(at_work())
    assert found[of("upstream_errors_total", route="orders", error="connection_refused")] == 1
    assert found[of("upstream_errors_total", route="open", error="dns_error")] == 0
    assert found[of("upstream_connections", route="orders", state="connecting")] == 1
    assert found[of("upstream_connections", route="orders", state="idle")] == 2
    assert found[of("upstream_connections", route="orders", state="busy")] == 3
    assert found[of("upstream_duration_seconds_count", route="orders")] == 1
    assert found[of("token_replays_total", route="orders", result="ok")] == 1
    assert found[of("token_replays_total", route="orders", result="suppressed")] == 0
    assert not any(key[0].startswith("upstream") and ("route", "") in key for key in found)


async def test_a_token():
    """Requests, look-ups, durations, instants, state, skew and budget."""
    found = await samples(at_work())
    assert found[of("token_requests_total", credential="orders", outcome="ok")] == 3
    assert found[of("token_requests_total", credential="orders", outcome="connect")] == 1
    assert found[of("token_requests_total", credential="orders", outcome="malformed")] == 0
    assert found[of("token_lookups_total", credential="orders", result="ready")] == 7
    assert found[of("token_lookups_total", credential="orders", result="waited")] == 2
    assert found[of("token_lookups_total", credential="orders", result="failed")] == 1
    assert found[of("token_request_duration_seconds_count", credential="orders")] == 4
    assert found[of("token_request_duration_seconds_sum", credential="orders")] == 62.25
    assert found[of("token_request_duration_seconds_bucket", credential="orders", le="0.1")] == 3
    assert found[of("token_expiry_timestamp_seconds", credential="orders")] == 1_700_003_000
    assert found[of("token_next_refresh_timestamp_seconds", credential="orders")] == 1_700_002_280.5
    assert found[of("token_consecutive_failures", credential="orders")] == 0
    assert found[of("authorization_server_clock_skew_seconds", credential="orders")] == -1.5
    assert found[of("outage_budget_seconds")] == 2990
    states = {dict(key[1:])["state"]: value for key, value in found.items() if key[0] == "token_state"}
    assert states == {state.value: int(state is TokenState.FRESH) for state in TokenState}


async def test_no_token():
    """Its instants are absent, not zero; its state is none and the budget zero."""
    found = await samples(Facts(tokens=[WITHOUT_TOKEN]))
    names = {key[0] for key in found}
    assert not names & {
        "token_expiry_timestamp_seconds",
        "token_next_refresh_timestamp_seconds",
        "authorization_server_clock_skew_seconds",
    }
    assert found[of("token_state", credential="orders", state="none")] == 1
    assert found[of("outage_budget_seconds")] == 0


async def test_two_client_secrets():
    """The one that brought the token is told from the other; before that, neither works. One alone has no series."""
    facts = at_work()
    for in_use, expected in ((None, (0, 0)), (0, (1, 0)), (1, (0, 1))):
        facts.tokens = [
            replace(FRESH, client_secrets=2, client_secret_in_use=in_use),
            replace(FRESH, name=CredentialName("stock")),
        ]
        found = await samples(facts)
        told = [key for key in found if key[0] == "client_secret_in_use"]
        assert told == [of("client_secret_in_use", credential="orders", index=index) for index in ("0", "1")]
        assert tuple(found[key] for key in told) == expected


async def test_scopes_that_were_not_granted():
    """Their number is told."""
    facts = at_work()
    facts.tokens = [replace(FRESH, scope_missing=("orders.write", "stock.read"))]
    assert (await samples(facts))[of("token_scopes_missing", credential="orders")] == 2


async def test_a_token_without_an_end():
    """It has no expiry to show."""
    static = replace(FRESH, expires_at_wall_s=math.inf, next_refresh_at_wall_s=None, usable_for_s=math.inf)
    found = await samples(Facts(tokens=[static]))
    assert "token_expiry_timestamp_seconds" not in {key[0] for key in found}
    assert found[of("outage_budget_seconds")] == math.inf


async def test_no_credentials():
    """There is no budget to show."""
    assert "outage_budget_seconds" not in {key[0] for key in await samples(Facts(tokens=[]))}


async def test_the_rest():
    """Dropped log lines and the build."""
    found = await samples(at_work())
    assert found[of("log_lines_dropped_total")] == 4
    assert found[of("build_info", version="1.2.3", python=platform.python_version())] == 1


async def test_thousands_of_random_requests():
    """They add no series but `other` methods and the codes of our own replies."""
    facts = at_work()
    chance = random.Random(2)
    before = set(await samples(facts))
    for _ in range(5000):
        method = chance.choice([chance.randbytes(6), CANARY.encode(), b"get", b"TRACE"])
        facts.metrics.unmatched.count_request(method, chance.choice([404, 501]))
    added = set(await samples(facts)) - before
    assert added == {of("http_requests_total", route="", method="other", code=code) for code in ("404", "501")}


async def test_what_the_authorization_server_said():
    """No text of its reaches a metric."""
    status = replace(FRESH, scope=CANARY, last_error=CANARY)
    for accept in ("", OPENMETRICS):
        assert CANARY not in (await rendered(Facts(tokens=[status]), accept))[0]


async def test_several_credentials():
    """Each has its own series, and the document stays one."""
    second = replace(FRESH, name=CredentialName("second"), durations=Durations(), shares_with=CredentialName("orders"))
    found = await samples(Facts(tokens=[FRESH, second]))
    assert found[of("token_request_duration_seconds_count", credential="second")] == 0


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS, True),
        (f"{OPENMETRICS}; version=1.0.0", True),
        (f'{OPENMETRICS}; version="1.0.0"; charset=utf-8', True),
        (PROMETHEUS, True),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        (f"{OPENMETRICS};version=0.0.1", False),
        (f"{OPENMETRICS};version=2.0.0", False),
        (f"{OPENMETRICS};version={CANARY}", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (";;;,q=1;q=q,application/openmetrics-text;q=9", True),
        (",".join(["a"] * 1000), False),
    ],
)
async def test_the_format(accept, openmetrics):
    """OpenMetrics for who asks for it by name; the content type is one of two, and repeats nothing of the field."""
    text, content_type = await rendered(Facts(), accept)
    assert content_type == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if openmetrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )
    assert text.endswith("# EOF\n") is openmetrics
    assert text.count("# EOF") == openmetrics
    assert preferred_format(accept).startswith(OPENMETRICS if openmetrics else "text/plain")


async def test_many_routes():
    """The event loop gets its turns while a large document is rendered, and each metric is declared once."""
    import asyncio

    facts = Facts()
    from proxy.metrics import GatewayMetrics

    facts.metrics = GatewayMetrics([f"route{number}" for number in range(300)])
    facts.connections = {f"route{number}": Counts() for number in range(300)}
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        handle[0] = loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    handle = [loop.call_soon(turn)]
    text, _ = await rendered(facts, OPENMETRICS)
    handle[0].cancel()

    assert turns > 100
    assert len(list(parse_openmetrics(text))) >= len(METRICS)
    declared = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))


async def test_a_sandbox_without_a_usable_proc(monkeypatch, caplog):
    """The process's own metrics are missing, the rest is there."""
    from prometheus_client.process_collector import ProcessCollector

    def broken(self):
        raise ValueError(CANARY)

    monkeypatch.setattr(ProcessCollector, "collect", broken)
    names = set(await families(at_work()))
    assert not any(name.startswith("process_") for name in names)
    assert "bearer_proxy_build_info" in names
