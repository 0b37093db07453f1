"""The parts put together: what routes share, and how it is counted."""

from __future__ import annotations

from pathlib import Path

from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

CONNECTIONS = "bearer_proxy_upstream_connections"


async def test_routes_that_share_connections(tmp_path: Path):
    """Each connection counts once, under the first of the routes that may use it; a sum over routes is true."""
    async with ScriptedUpstream(always(ok(b"fine"))) as upstream:
        routes = "".join(
            f"- {{name: {name}, match: {{path_prefix: /{name}}}, upstream: 'http://127.0.0.1:{upstream.port}', "
            f"credential: none{more}}}\n"
            for name, more in (("a", ""), ("b", ""), ("c", ", pool: {max_idle: 5}"))
        )
        text = f"version: 1\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\nroutes:\n{routes}"
        async with running_gateway(text, tmp_path) as gateway:
            for name in (b"b", b"a", b"c"):
                answer = await ask(gateway.port, b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % name)
                assert 200 == answer.status
            shown = {
                tuple(value for _, value in labels): value
                for (name, labels), value in (await gateway.samples()).items()
                if name == CONNECTIONS
            }
        assert 2 == len(upstream.connections)
    states = ("connecting", "idle", "busy")
    assert {(name, state): float(state == "idle") for name in "ac" for state in states} == shown
