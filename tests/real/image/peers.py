"""Runs inside the image: the demonstration's two servers, for a gateway that shares this container's network.

Prints the gateway's settings as one line of JSON, then serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal

from proxy.clock import SystemClock
from proxy.demo import DemoServers


async def main() -> None:
    """Serves both."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with DemoServers(clock=SystemClock()) as servers:
        print(json.dumps(servers.settings()), flush=True)
        await stopped.wait()


asyncio.run(main())
