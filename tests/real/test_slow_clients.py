"""slowhttptest against a running gateway, with honest traffic beside it: no honest request fails or waits for long.

The gateway is a process of its own, with the bound for each client that the README advises where strangers can connect.
The attack comes from 127.0.0.1, honest requests from 127.0.0.2; what was measured is printed (`pytest -s`).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from proxy.tasks import Tasks
from tests.real.needs import needs
from tests.support import program
from tests.support.gateway import simple_configuration

CLOCK = SystemClock()
ATTACK_S = 20
CONNECTIONS = 400
PER_CLIENT = 50
ATTACKS = {
    "slow heads": ["-H", "-i", "2"],
    "slow bodies": ["-B", "-i", "2", "-s", "100000"],
    "slow reading": ["-X", "-n", "5", "-z", "5", "-w", "1", "-y", "512"],
}
LIMITS = f"limits: {{connections_per_client: {PER_CLIENT}}}"


@dataclass
class Honest:
    """What became of the honest requests."""

    durations_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def ask(self, url: str) -> None:
        """Sends one request after the other, each on a connection of its own, until cancelled."""
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                begun_s = CLOCK.now()
                try:
                    async with session.get(url) as response:
                        await response.read()
                        if response.status != 200:
                            self.failed.append(str(response.status))
                except aiohttp.ClientError as error:
                    self.failed.append(type(error).__name__)
                self.durations_s.append(CLOCK.now() - begun_s)
                await CLOCK.sleep(0.05)

    def part_s(self, part: float) -> float:
        """Returns the duration that this part of the requests did not exceed."""
        return sorted(self.durations_s)[int(part * (len(self.durations_s) - 1))]


async def attack(options: list[str], url: str) -> int:
    """Runs slowhttptest to its end and returns its exit code."""
    words = ["-c", str(CONNECTIONS), "-r", "200", "-l", str(ATTACK_S), "-p", "3", "-v", "1", "-u", url]
    process = await asyncio.create_subprocess_exec(
        needs("slowhttptest"), *options, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
async def test_honest_requests_beside_an_attack(tmp_path: Path, name: str):
    """Not one fails, and 99 of 100 take less than a second."""
    needs("slowhttptest")
    async with DemoServers(clock=CLOCK, lifetime_s=600) as servers:
        settings = servers.settings()
        file = tmp_path / "proxy.yaml"
        file.write_text(simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"], top=LIMITS))
        async with program.serving("-c", str(file), cwd=tmp_path, env=settings) as gateway:
            honest = Honest()
            tasks = Tasks()
            for _ in range(4):
                tasks.start(honest.ask(f"http://localhost:{gateway.port}/orders"), name="honest client")
            path = "/stream?lines=5000&seconds=0" if name == "slow reading" else "/orders"
            attacked = await attack(ATTACKS[name], f"http://127.0.0.1:{gateway.port}{path}")
            await tasks.stop()
            refused = await refusals(gateway.admin)
            ended = await gateway.stop()
    print(  # what this test is for, beside its verdict
        f"\n{name}: {CONNECTIONS} connections for {ATTACK_S} s; refused {refused}; honest: {len(honest.durations_s)} requests, "
        f"{len(honest.failed)} failed, p50 {honest.part_s(0.5) * 1000:.1f} ms, p99 {honest.part_s(0.99) * 1000:.1f} ms, "
        f"longest {honest.part_s(1) * 1000:.1f} ms"
    )
    assert attacked == 0
    assert refused["overloaded"] >= CONNECTIONS - 2 * PER_CLIENT  # the attack did reach us
    assert honest.failed == []
    assert len(honest.durations_s) > 5 * ATTACK_S
    assert honest.part_s(0.99) < 1.0
    assert ended.code == 0
    assert "Traceback" not in ended.err


async def refusals(admin: str) -> dict[str, int]:
    """Returns how many requests and connections were refused, by reason."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{admin}/metrics") as response:
        text = await response.text()
    found = re.findall(r'(?m)^bearer_proxy_requests_refused_total\{reason="([^"]*)"\} ([0-9.e+]+)', text)
    return {reason: int(float(count)) for reason, count in found if float(count)}
