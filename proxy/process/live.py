"""Tries every credential and every upstream of a configuration: for `bearer-proxy check --live`.

One token is got per credential, as the gateway would; each upstream is connected to, TLS included, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import GatewayError
from proxy.gateway.settings import Settings
from proxy.oauth.response import TokenRequestError
from proxy.process import diagnosis, grant, hints
from proxy.upstream.pool import PoolKey, Pools


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one try, for people."""

    fine: bool
    lines: tuple[str, ...]


async def findings(settings: Settings, clock: Clock) -> AsyncIterator[Finding]:
    """Tries one after the other."""
    for credential in settings.credentials:
        try:
            got = await grant.granted(credential, clock)
        except TokenRequestError as error:
            told = await diagnosis.told(grant.registration(credential), error)
            yield Finding(fine=False, lines=(f"credential {credential.name}: no token", *told))
        else:
            lifetime = "lifetime not told" if got.expires_in is None else f"lifetime {got.expires_in:g} s"
            line = f"credential {credential.name}: token granted, {lifetime}"
            yield Finding(fine=True, lines=(line, *grant.warnings(got, grant.registration(credential))))
    pools = Pools(clock)
    try:
        tried: set[PoolKey] = set()
        for route in settings.routes:
            key = PoolKey(origin=route.upstream, tls=route.tls, limits=route.pool)
            if key in tried:
                continue
            tried.add(key)
            pool = pools.get(key)
            try:
                pool.release(await pool.acquire(connect_timeout_s=route.timeouts.connect_s))
            except GatewayError as error:
                why = "" if error.detail == error.error_type else f" ({error.detail})"
                lines = [f"upstream {route.upstream} of route {route.name}: {error.error_type}{why}"]
                if (hint := hints.hint(error)) is not None:
                    lines.append(f"hint: {hint}")
                yield Finding(fine=False, lines=tuple(lines))
            else:
                yield Finding(fine=True, lines=(f"upstream {route.upstream} of route {route.name}: connected",))
    finally:
        await pools.close()
