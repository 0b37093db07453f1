"""A whole gateway on loopback for tests, built from YAML text as an operator would write it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proxy.clock import Clock, SystemClock
from proxy.config.load import Loaded, load
from proxy.gateway.settings import TcpAddress
from proxy.process.assemble import Gateway


class Taken:
    """Which path plain requests take in the gateways of the present test (``tests/support/both_paths.py``)."""

    direct = True


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that serves, and how to reach it."""

    gateway: Gateway

    @property
    def port(self) -> int:
        """The port of the proxy listener."""
        address = self.gateway.addresses[0]
        assert isinstance(address, TcpAddress)
        return address.port

    @property
    def url(self) -> str:
        """Scheme, host and port of the proxy listener."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Scheme, host and port of the admin listener."""
        return f"http://{self.gateway.admin_address}"

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Scrapes /metrics; keys are the sample's name and its sorted labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/metrics") as response:
            assert response.status == 200
            text = await response.text()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def sample(self, name: str, **labels: str) -> float:
        """Returns one sample's value, 0.0 if there is none."""
        return (await self.samples()).get((name, tuple(sorted(labels.items()))), 0.0)


@asynccontextmanager
async def running_gateway(
    text: str, folder: Path, *, environ: Mapping[str, str] | None = None, clock: Clock | None = None
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway with this configuration, on free ports unless the text names some."""
    file = folder / "proxy.yaml"
    file.write_text(text, encoding="utf-8")
    loaded = load(file, environ=dict(environ or {}), use_env_file=False)
    async with running(loaded, clock=clock) as gateway:
        yield gateway


@asynccontextmanager
async def running(loaded: Loaded, *, clock: Clock | None = None) -> AsyncIterator[RunningGateway]:
    """Runs a gateway with a configuration that has been loaded."""
    gateway = Gateway(loaded.settings, clock or SystemClock(), direct=Taken.direct)
    await gateway.start()
    try:
        yield RunningGateway(gateway)
    finally:
        await gateway.stop(5.0)


def simple_configuration(
    token_endpoint: str, upstream: str, *, credential: str = "", route: str = "", top: str = ""
) -> str:
    """Returns a configuration with one credential `main` and one catch-all route `all`, plus extra lines.

    The extra texts are whole YAML lines, indented by the caller's two (top: none).
    """
    return f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
{top}
credentials:
  main:
    token_endpoint: {token_endpoint}
    client_id: legacy-app
    client_secret: ${{CLIENT_SECRET}}
{_indented(credential, 4)}
routes:
  - name: all
    match: {{path_prefix: /}}
    upstream: {upstream}
    credential: main
{_indented(route, 4)}
"""


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line.strip() else line for line in text.splitlines())
