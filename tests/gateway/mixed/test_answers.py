"""Tens of thousands of mixed requests: no answer goes to another request, and nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from tests.gateway.mixed.clients import Crowd
from tests.gateway.mixed.upstream import MixedUpstream
from tests.support.both_loops import on_both_loops
from tests.support.gateway import running_gateway, simple_configuration
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer

CLOCK = SystemClock()
SEED = 4
CLIENTS = 40
TOP = "log: {level: warning, access: false}"
ROUTE = "pool: {max_connections: 25, max_idle: 25}\nretries: {connect: 3, budget: 1}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("requests", [400, pytest.param(50_000, marks=pytest.mark.slow)])
@on_both_loops
async def test_every_answer_is_the_requests_own(tmp_path: Path, requests: int):
    """Answers, problems and interim responses bear the nonce of what was asked, or are visibly cut; a POST arrives once."""
    async with ScriptedAuthorizationServer() as server, MixedUpstream(SEED) as upstream:
        text = simple_configuration(server.url, f"http://127.0.0.1:{upstream.port}", route=ROUTE, top=TOP)
        async with running_gateway(text, tmp_path, environ={"CLIENT_SECRET": "s"}) as gateway:
            crowd = Crowd(gateway.port, SEED, requests)
            begun_s = CLOCK.now()
            await crowd.run(CLIENTS)
            took_s = CLOCK.now() - begun_s
            async with asyncio.timeout(20):
                while gateway.gateway.in_flight:  # the clients have left; what was done for them ends
                    await CLOCK.sleep(0.01)
            busy = await gateway.sample("bearer_proxy_upstream_connections", route="all", state="busy")
    outcomes = ", ".join(f"{name}: {number}" for name, number in crowd.outcomes.most_common())
    print(  # what this test is for, beside its verdict
        f"\n{len(crowd.asked)} requests in {took_s:.1f} s over {upstream.connections} connections to the upstream; {outcomes}"
    )
    assert [] == crowd.faults
    assert [] == upstream.faults
    assert 0 == busy
    posts = {asked.nonce for asked in crowd.asked if asked.method == b"POST"}
    assert {} == {nonce: times for nonce, times in upstream.executed.items() if nonce in posts and times > 1}
    answered = sum(number for name, number in crowd.outcomes.items() if name in {"200", "204", "304"})
    assert answered > len(crowd.asked) / 2
    failures = {name for name in crowd.outcomes if name.startswith("problem") and "broken upstream" not in name}
    assert {
        name for name in failures if "POST" not in name
    } == set()  # only what is safe to repeat survives an idle close
    assert set(crowd.outcomes) - failures >= {
        "200",
        "204",
        "304",
        "401",
        "cut (broken upstream)",
        "cancelled in an answer",
    }
