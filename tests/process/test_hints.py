"""What operators are told to look at: every failure has a hint, and `call` and `check --live` show it for real ones."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config.load import load
from proxy.config.schema import json_schema
from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway import rescue
from proxy.gateway.settings import Settings
from proxy.metrics import GatewayMetrics
from proxy.process.call import Request, call, told
from proxy.process.hints import hint
from proxy.process.live import findings
from tests.support.scripted_upstream import Script, ScriptedConnection, ScriptedUpstream, always, ok, silent
from tests.upstream.certificates import Authority, alerting_server, server_context

OF_THE_UPSTREAM = {
    Problem.UPSTREAM_UNREACHABLE,
    Problem.UPSTREAM_PROTOCOL,
    Problem.UPSTREAM_TLS,
    Problem.UPSTREAM_TIMEOUT,
}
WORDS = [
    *GatewayMetrics([]).unmatched.upstream_errors,
    ErrorType.TLS_ALERT_RECEIVED,
    ErrorType.DESTINATION_UNAVAILABLE,
]  # fmt: skip


def hints() -> list[str]:
    refusals = [hint(Refusal(problem)) for problem in Problem if problem not in OF_THE_UPSTREAM]
    failures = [hint(GatewayError(word, Side.UPSTREAM)) for word in WORDS]
    return [text for text in [*refusals, *failures] if text is not None]


@pytest.mark.parametrize(
    "problem", [problem for problem in Problem if problem not in OF_THE_UPSTREAM], ids=lambda problem: problem.suffix
)
def test_a_refusal_has_a_hint(problem: Problem):
    """Every reply that the gateway makes by a rule of its own."""
    assert hint(Refusal(problem))


@pytest.mark.parametrize("word", WORDS)
def test_a_failure_of_the_upstream_has_a_hint(word: ErrorType):
    """Every word that the metric of upstream errors can show, told as one of the upstream's problems."""
    error = GatewayError(word, Side.UPSTREAM)
    assert hint(error)
    assert rescue.problem_of(error) in OF_THE_UPSTREAM


def test_what_is_neither_has_that_of_its_problem():
    """No token, no free connection, a fault of the gateway's own."""
    pairs = {
        Side.AUTHORIZATION_SERVER: ("bearer-proxy token", ErrorType.CONNECTION_REFUSED),
        Side.GATEWAY: ("pool.max_connections", ErrorType.CONNECTION_LIMIT_REACHED),
    }
    for side, (shown, word) in pairs.items():
        assert shown in (hint(GatewayError(word, side)) or "")
    assert "its log" in (hint(GatewayError(ErrorType.PROXY_INTERNAL_ERROR, Side.GATEWAY)) or "")


def test_a_hint_names_only_what_can_be_configured():
    """`section.key` is a key of the schema, somewhere."""
    schema = json_schema()
    known = {f"{section}.{key}" for section, key in paths(schema, schema)}
    named = {name for text in hints() for name in re.findall(r"\b[a-z_]+\.[a-z_]+\b(?!/)", text)}
    assert named - known == {"resolv.conf"}
    assert len(named) > 15


def paths(schema: Any, node: Any) -> Iterator[tuple[str, str]]:
    """Yields each key with its section's."""
    for name, member in node.get("properties", {}).items():
        for inner in sections(schema, member):
            for key in inner.get("properties", {}):
                yield name, key
            yield from paths(schema, inner)


def sections(schema: Any, member: Any) -> Iterator[Any]:
    if "$ref" in member:
        yield schema["$defs"][member["$ref"].rpartition("/")[2]]
    for inner in (member.get("items"), member.get("additionalProperties"), *member.get("anyOf", ())):
        if isinstance(inner, dict):
            yield from sections(schema, inner)


# ---- real failures


def configured(folder: Path, upstream: str, route: str = "") -> Settings:
    file = folder / "proxy.yaml"
    file.write_text(
        f"version: 1\nroutes:\n- name: all\n  match: {{path_prefix: /, methods: [GET]}}\n  upstream: {upstream}\n"
        f"  credential: none\n  allow_plain_http: true\n  retries: {{connect: 0}}\n{route}",
        encoding="utf-8",
    )
    return load(file, environ={}, use_env_file=False).settings


async def called(settings: Settings, method: str = "GET", url: str = "/") -> list[str]:
    failure = await call(
        settings, SystemClock(), Request(method=method, url=url), on_head=lambda _: None, on_data=lambda _: None
    )
    return [] if failure is None else told(failure)


async def checked(settings: Settings) -> list[str]:
    return [line for finding in [found async for found in findings(settings, SystemClock())] for line in finding.lines]


async def closing(connection: ScriptedConnection) -> None:
    await connection.request()
    connection.close()


async def cutting(connection: ScriptedConnection) -> None:
    await connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    connection.close()


@pytest.mark.parametrize(
    ("script", "word", "looked_at"),
    [
        pytest.param(always(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "http_protocol_error", "HTTP/2", id="no HTTP"),
        pytest.param(always(ok(b"", b"X: " + b"a" * 40_000)), "http_response_header_section_size", "limits.head_bytes", id="big"),
        pytest.param(silent, "http_response_timeout (no response in time)", "timeouts.first_byte", id="no answer"),
        pytest.param(closing, "connection_terminated", "https", id="closed"),
        pytest.param(cutting, "http_response_incomplete", "its own log", id="cut off"),
    ],
)  # fmt: skip
async def test_call_with_an_upstream_that_fails(tmp_path: Path, script: Script, word: str, looked_at: str):
    """The RFC 9209 word, and what to look at."""
    async with ScriptedUpstream(script) as upstream:
        lines = await called(
            configured(tmp_path, f"http://127.0.0.1:{upstream.port}", "  timeouts: {first_byte: 300ms}\n")
        )
    assert lines[0].startswith(f"failed at the upstream: {word}")
    assert lines[1].startswith("hint: ")
    assert looked_at in lines[1]


async def test_an_upstream_that_cannot_be_reached(tmp_path: Path):
    """`call` and `check --live` say the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for upstream, word, looked_at in (
        (nobody, "connection_refused", "host and port"),
        ("http://upstream.invalid", "dns_error", "spelling"),
    ):
        settings = configured(tmp_path, upstream)
        lines, live = await called(settings), await checked(settings)
        assert f"failed at the upstream: {word}" == lines[0].partition(" (")[0]
        assert live[0].startswith(f"upstream {upstream}")
        assert word in live[0]
        assert lines[1] == live[1]
        assert looked_at in lines[1]


async def test_an_upstream_whose_tls_fails(tmp_path: Path):
    """An unknown authority, a wrong name, plain http instead, and a client certificate that is asked for in vain."""
    authority = Authority(tmp_path)
    right = server_context(authority.pair("localhost"))
    other = server_context(authority.pair("api.example", file="other"))
    trusted = f"  tls: {{ca_file: {authority.file}}}\n"
    for context, route, word, looked_at in (
        (right, "", "tls_certificate_error", "tls.ca_file"),
        (other, trusted, "tls_certificate_error", "tls.server_name"),
        (None, trusted, "tls_protocol_error", "speaks TLS at all"),
    ):
        async with ScriptedUpstream(silent if context else talking_first, ssl=context) as upstream:
            settings = configured(tmp_path, f"https://localhost:{upstream.port}", route)
            lines, live = await called(settings), await checked(settings)
        assert word in lines[0]
        assert looked_at in lines[1]
        assert word in live[0]
        assert lines[1] == live[1]

    # TLS 1.3 tells it only once a request is sent, so `check --live` cannot know
    demanding = server_context(
        authority.pair("localhost", file="demanding"), clients_of=authority, version=ssl.TLSVersion.TLSv1_2
    )
    with alerting_server(demanding) as port:
        settings = configured(tmp_path, f"https://localhost:{port}", trusted)
        lines, live = await called(settings), await checked(settings)
    assert "tls_alert_received" in lines[0]
    assert "tls.cert_file" in lines[1]
    assert lines[1] == live[1]


async def talking_first(connection: ScriptedConnection) -> None:
    connection.send(b"220 ready\r\n")


async def test_call_with_a_request_that_is_refused(tmp_path: Path):
    """The rule, and the key that holds it."""
    settings = configured(tmp_path, "http://127.0.0.1:1")
    for method, url, shown, looked_at in (
        ("GET", "http://api.example/", "refused: host-not-allowed (access.allowed_hosts does not list api.example)", "allowed_hosts"),
        ("POST", "/", "refused: method-not-allowed", "match.methods"),
        ("GET", "/a/../b", "refused: ambiguous-path", "path_policy"),
        ("TRACE", "/", "refused: not-implemented (method)", "TRACE"),
    ):  # fmt: skip
        lines = await called(settings, method, url)
        assert shown == lines[0]
        assert looked_at in lines[1]


async def test_an_answer_of_the_upstream_is_no_failure(tmp_path: Path):
    """Whatever its status."""
    for status in (b"200 OK", b"503 Service Unavailable"):
        async with ScriptedUpstream(always(ok(b"mine", status=status))) as upstream:
            assert [] == await called(configured(tmp_path, f"http://127.0.0.1:{upstream.port}"))
