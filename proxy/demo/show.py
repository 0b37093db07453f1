"""The demonstration: an authorization server, a protected API and the gateway, and real requests between them.

Each step is a real exchange over loopback and says what was sent and what came back; a step that does not end as it
should makes the demonstration fail. It stays up afterwards, for trying, until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from dataclasses import replace

import aiohttp

from proxy.clock import Clock, SystemClock
from proxy.config.load import load
from proxy.demo.servers import DemoServers
from proxy.process.assemble import Gateway
from proxy.process.worker import run_loop
from proxy.tasks import Tasks
from proxy.units import SECONDS

_PREFERRED_PORTS = {"listen": 8080, "admin": 9464}
_LIFETIME_S = 5 * SECONDS  # short, so that a renewal is seen
_PATIENCE_S = 30 * SECONDS  # for the renewal, on a slow machine


class StepFailedError(Exception):
    """A step did not end as it should; the text says what came instead."""


def run_demo(*, listen: str | None, once: bool) -> int:
    """Runs the demonstration; returns the exit code: 0 if every step went as it should, 1 otherwise."""
    try:
        return run_loop(_demo(listen, once=once))
    except KeyboardInterrupt:  # before anybody listened for it
        return 0
    except StepFailedError as failure:
        print(f"the demonstration failed: {failure}", file=sys.stderr)
        return 1


async def _demo(listen: str | None, *, once: bool) -> int:
    stopped = _on_signal()
    clock = SystemClock()
    async with DemoServers(clock=clock, lifetime_s=_LIFETIME_S) as servers:
        loaded = load(
            None,
            environ=servers.settings(),
            use_env_file=False,
            search=(),
            listen=listen or f"127.0.0.1:{_free_port('listen')}",
            admin=f"127.0.0.1:{_free_port('admin')}",
        )
        gateway = Gateway(replace(loaded.settings, log=replace(loaded.settings.log, access=False)), clock)
        await gateway.start()
        try:
            if await _told(servers, gateway, clock, stopped) and not once:
                _what_to_try(servers, gateway)
                await stopped.wait()
        finally:
            await gateway.stop(1 * SECONDS)
    return 0


def _free_port(role: str) -> int:
    """Returns the usual port if nobody has it, else 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PREFERRED_PORTS[role]))
        except OSError:
            return 0
    return _PREFERRED_PORTS[role]


async def _told(servers: DemoServers, gateway: Gateway, clock: Clock, stopped: asyncio.Event) -> bool:
    """Tells the story; returns False if somebody has heard enough."""
    tasks = Tasks()
    story = tasks.start(_story(servers, gateway, clock), name="the story")
    enough = tasks.start(stopped.wait(), name="until Ctrl-C")
    try:
        await asyncio.wait({story, enough}, return_when=asyncio.FIRST_COMPLETED)
        if not story.done():
            return False
        story.result()
        return True
    finally:
        await tasks.stop()


async def _story(servers: DemoServers, gateway: Gateway, clock: Clock) -> None:
    url = f"http://{gateway.addresses[0]}"
    api = servers.protected_api.url
    _say("Three programs are running, on this machine only:")
    _say(f"  authorization server  {servers.authorization_server.issuer}  (its tokens live {_LIFETIME_S:g} s)")
    _say(f"  protected API         {api}  (answers only with a valid token)")
    _say(f"  bearer-proxy          {url}  -> {api}")
    async with aiohttp.ClientSession(trust_env=False) as session:
        _step(1, "A legacy client, which knows nothing of OAuth, asks the API directly.")
        status, text, challenge = await _get(session, f"{api}/orders")
        _shown(f"GET {api}/orders", status, challenge or text)
        _expect(status == 401, f"the API should have refused, but answered {status}")

        _step(2, "The same request through the gateway.")
        status, text, _ = await _get(session, f"{url}/orders")
        _shown(f"GET {url}/orders", status, text)
        _expect(status == 200, f"the gateway answered {status}")

        _step(3, "What the API received: one Authorization field, which the client never sent.")
        status, text, _ = await _get(session, f"{url}/whoami")
        _expect(status == 200, f"the gateway answered {status}")
        seen = json.loads(text)
        count = sum(1 for name, _ in seen["fields"] if name.lower() == "authorization")
        for name, value in seen["fields"]:
            _say(f"      {name}: {value}")
        _expect(count == 1, f"the API saw {count} Authorization fields")

        grants = servers.authorization_server.grants
        _step(4, f"The token lives {_LIFETIME_S:g} s. The gateway renews it ahead of time; requests go on meanwhile.")
        requests = await _until_renewed(session, url, servers, grants, clock)
        _say(
            f"      {requests} requests, all answered 200; tokens granted so far: {servers.authorization_server.grants}"
        )
    _say("")
    _say("It works.")


async def _until_renewed(
    session: aiohttp.ClientSession, url: str, servers: DemoServers, grants: int, clock: Clock
) -> int:
    """Asks again and again until a newer token was granted and used; returns how many requests that took."""
    until_s = clock.now() + _PATIENCE_S
    requests = 0
    while servers.authorization_server.grants == grants:
        await _asked(session, url)
        requests += 1
        _expect(clock.now() < until_s, f"no newer token within {_PATIENCE_S:g} s")
        await clock.sleep(0.1)
    await _asked(session, url)
    return requests + 1


async def _asked(session: aiohttp.ClientSession, url: str) -> None:
    status, _, _ = await _get(session, f"{url}/orders/7")
    _expect(status == 200, f"the gateway answered {status}")


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, str, str | None]:
    async with session.get(url) as response:
        return response.status, (await response.text()).strip(), response.headers.get("WWW-Authenticate")


def _expect(truth: bool, otherwise: str) -> None:  # noqa: FBT001
    if not truth:
        raise StepFailedError(otherwise)


def _say(text: str) -> None:
    print(text, flush=True)


def _step(number: int, text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    _say(f"\n{bold}{number}. {text}{plain}")


def _shown(request: str, status: int, text: str) -> None:
    _say(f"      {request}")
    _say(f"      -> {status}  {text if len(text) <= 100 else text[:99] + '…'}")


def _what_to_try(servers: DemoServers, gateway: Gateway) -> None:
    url = f"http://{gateway.addresses[0]}"
    given = servers.settings()
    _say(f"""
It stays up until Ctrl-C. Try:
  curl -i {servers.protected_api.url}/orders            without a token: refused
  curl -i {url}/orders            through the gateway: answered
  curl -i -H 'Authorization: Bearer mine' {url}/whoami      a client's own token is replaced
  curl -i {url}/stream            a stream, passed on as it comes
  curl -s http://{gateway.admin_address}/metrics | grep bearer_proxy_token
  curl -s http://{gateway.admin_address}/readyz?verbose

What the gateway does for its clients, by hand: get a token with the demo's client id and secret, and use it.
  curl -s -d grant_type=client_credentials -d client_id={given["CLIENT_ID"]} \\
    --data-urlencode 'client_secret={given["CLIENT_SECRET"]}' {given["TOKEN_URL"]}
  curl -i -H 'Authorization: Bearer THE-TOKEN' {servers.protected_api.url}/orders""")


def _on_signal() -> asyncio.Event:
    """Returns an event that Ctrl-C or SIGTERM sets."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped
