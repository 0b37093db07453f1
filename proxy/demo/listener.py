"""One loopback listener for a demonstration server: start, address, stop, and start again on the same port."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from aiohttp import web

_SHUTDOWN_S = 0.2  # for requests still open; a demonstration does not wait for them


class Listener:
    """Serves an aiohttp application. It can be stopped and started again, on the port it had, as a restart would."""

    def __init__(self, make_application: Callable[[], web.Application]) -> None:
        self._make_application = make_application
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.url = ""  # scheme, host and port; no slash at the end

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> str:
        """Listens and returns the URL. Port 0 is a free one, or the one of last time. Raises OSError."""
        if self._runner is not None:
            raise RuntimeError("is running already")
        runner = web.AppRunner(self._make_application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port or self._port, ssl_context=tls, reuse_address=True).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{name}:{self._port}"
        return self.url

    async def stop(self) -> None:
        """Closes the port and every connection; connecting is then refused. Stopping twice is fine."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
