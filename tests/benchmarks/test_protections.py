"""The requests that the gateway must refuse while it is measured: they are refused, and it shows when one is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from tests.benchmarks.protections import PROTECTIONS, failed
from tests.support.gateway import running_gateway

CONFIGURATION = """\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  main: {{token_endpoint: "{token}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}
routes:
  - {{name: api, match: {{path_prefix: /api}}, upstream: "{upstream}", credential: main{more}}}
  - {{name: reading, match: {{path_prefix: /api/reading, methods: [GET]}}, upstream: "{upstream}", credential: main}}
{top}
"""


async def faults(folder: Path, *, more: str = "", top: str = "") -> list[str]:
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = CONFIGURATION.format(token=settings["TOKEN_URL"], upstream=settings["UPSTREAM_URL"], more=more, top=top)
        async with running_gateway(text, folder, environ=settings) as gateway:
            return await asyncio.to_thread(failed, gateway.port)


async def test_the_gateway_as_it_is_measured(tmp_path: Path) -> None:
    """Its defaults refuse every one."""
    assert await faults(tmp_path) == []


async def test_a_gateway_that_lets_something_pass(tmp_path: Path) -> None:
    """Each protection that is switched off is named; the others stand."""
    found = await faults(tmp_path, more=", path_policy: raw", top="access: {browser_requests: allow}")

    names = {fault.partition(":")[0] for fault in found}
    assert {"foreign Origin", "cross-site fetch", "dot segment", "encoded dot segment"} == names
    assert len(found) < len(PROTECTIONS)
