"""Mixed traffic through a gateway process for a long time: nothing fails, nothing is mistaken, nothing grows.

`SOAK_S=180 pytest -s -m slow tests/soak` takes three minutes in place of thirty, and shows what was measured.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.demo.authorization_server import DemoClient
from proxy.demo.servers import DemoServers
from proxy.secret import Secret
from proxy.tasks import Tasks
from proxy.units import KIB, MIB
from tests.soak.api import SoakApi
from tests.soak.traffic import Traffic
from tests.soak.usage import Usage, growth
from tests.support import program

CLOCK = SystemClock()
LIFETIME_S = 5
ROTATION_S = 7  # of the client's secret and of a key that is sent to the upstream
SHORT_S = 25
LONG_S = int(os.environ.get("SOAK_S", "1800"))
SEED = 7


def replace(file: Path, text: str) -> None:
    """Writes a file as secrets are written: whole, or not at all."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(file)


async def rotate(folder: Path, servers: DemoServers, api: SoakApi, rotations: list[float]) -> None:
    """Gives the authorization server and the gateway a new secret at the same moment, and the upstream a new key."""
    while True:
        client = DemoClient(client_id="legacy-app", client_secret=Secret(secrets.token_urlsafe()), scopes=("a",))
        servers.authorization_server._clients["legacy-app"] = client
        replace(folder / "secret", client.client_secret.reveal())
        api.keys.append(secrets.token_urlsafe())
        replace(folder / "key", api.keys[-1])
        rotations.append(CLOCK.now())
        await CLOCK.sleep(ROTATION_S)


async def watch(usage: Usage, every_s: float) -> None:
    """Looks at what the gateway uses."""
    while True:
        await CLOCK.sleep(every_s)
        usage.look()


async def read_log(gateway: program.Serving) -> None:
    """Keeps the pipe of the log empty."""
    assert gateway.process.stderr is not None
    while line := await gateway.process.stderr.readline():
        gateway.lines.append(line.decode().rstrip("\n"))


async def in_flight(admin: str) -> int:
    """Returns how many requests the gateway says to be under way."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{admin}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("bearer_proxy_http_requests_in_flight{")]
    assert lines
    return int(sum(float(line.split(" ")[1]) for line in lines))


@pytest.mark.timeout(LONG_S + 120)
@pytest.mark.parametrize("duration_s", [SHORT_S, pytest.param(LONG_S, marks=pytest.mark.slow)], ids=["short", "long"])
async def test_soak(tmp_path: Path, duration_s: int):
    """Streams, tunnels, long answers, requests and cancels, with tokens of five seconds and secrets that change: all flat, no fault."""
    servers = DemoServers(clock=CLOCK, lifetime_s=LIFETIME_S)
    api, tasks, rotations = SoakApi(servers.tokens, CLOCK), Tasks(), list[float]()
    async with servers:
        upstream = await api.start()
        tasks.start(rotate(tmp_path, servers, api, rotations), name="rotation")
        await CLOCK.sleep(0)
        file = tmp_path / "proxy.yaml"
        file.write_text(f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
log: {{access: false}}
credentials:
  main: {{token_endpoint: {servers.authorization_server.token_endpoint}, client_id: legacy-app, client_secret_file: secret}}
routes:
  - name: all
    match: {{path_prefix: /}}
    upstream: {upstream}
    credential: main
    set_request_headers: {{X-Key: {{value_file: key}}}}
""")
        try:
            async with program.serving("-c", str(file), cwd=tmp_path) as gateway:
                log = tasks.start(read_log(gateway), name="log")
                usage = Usage(gateway.process.pid)
                usage.look()
                looks = tasks.start(watch(usage, max(0.25, duration_s / 400)), name="usage")
                traffic = Traffic(f"http://127.0.0.1:{gateway.port}", CLOCK, SEED)
                await traffic.run(CLOCK.now() + duration_s)
                looks.cancel()
                await CLOCK.sleep(6)  # connections to the upstream that nobody uses are closed after 4 s
                left = await in_flight(gateway.admin)
                after = Usage(gateway.process.pid)
                after.look()
                log.cancel()
                await asyncio.wait({log})
                ended = await gateway.stop()
        finally:
            await tasks.stop()
            await api.stop()
    print(  # what this test is for, beside its verdict
        f"\n{duration_s} s: {sum(traffic.done.values())} exchanges {dict(traffic.done)}; {servers.authorization_server.grants} tokens, "
        f"{len(rotations)} rotations; resident {usage.resident[0] / MIB:.1f} MiB at first, "
        f"{usage.resident[len(usage.resident) // 2] / MIB:.1f} in the middle, {usage.resident[-1] / MIB:.1f} at the end, growth "
        f"{growth(usage.resident) / KIB:.0f} KiB; descriptors {usage.descriptors[0]} at first, {max(usage.descriptors)} at most, "
        f"growth {growth(usage.descriptors):.0f}, {after.descriptors[0]} afterwards; refusals {dict(api.refusals)}"
    )
    assert [] == traffic.faults
    assert {} == dict(api.refusals)
    assert {"plain", "alone", "long", "events", "chat"} <= set(traffic.done)
    assert sum(number for name, number in traffic.done.items() if name.endswith("cancelled")) > 0
    assert servers.authorization_server.grants >= duration_s / LIFETIME_S
    assert growth(usage.resident) < 4 * MIB
    assert growth(usage.descriptors) < 15  # streams and tunnels are more at one time than at another
    assert (
        after.descriptors[0] <= usage.descriptors[0] + 5
    )  # a connection to the token endpoint, the log's, the admin's
    assert 0 == left
    assert 0 == ended.code
    assert "Traceback" not in ended.err
    assert "level=error" not in ended.err
    assert '"level":"error"' not in ended.err
