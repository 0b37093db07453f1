"""One HTTP exchange with an authorization server: the only network that ``oauth`` knows.

Each exchange has a connection of its own, follows no redirect, keeps no cookie, heeds no proxy variable of the environment
and no .netrc, asks for no compression and undoes none, and reads no more than a mebibyte. Whatever goes wrong becomes a
``TokenRequestError`` in words of our own, for aiohttp's errors hold the request and with it the client's secret. How long
it may take is for the caller to say.

Source: RFC 9110 §9.3.6 (CONNECT through a proxy), RFC 9112 §3.2.2 (absolute-form to one).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from proxy.errors import ConfigurationError
from proxy.oauth.failure import explained
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import KIB, MIB

MAX_REPLY_OCTETS = 1 * MIB
_MAX_FIELD_OCTETS = 16 * KIB
_PARALLEL_CALLS = 0  # no bound of its own: there is at most one call per credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What is sent, and what people call the place it goes to."""

    method: str
    url: str  # as configured or published, its query octet by octet
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    place: str  # "the token endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The whole reply."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport:
    """The way to authorization servers. Made anywhere; used and closed on one event loop."""

    __slots__ = ("_contexts", "_session")

    def __init__(self) -> None:
        self._contexts = TlsContexts()
        self._session: aiohttp.ClientSession | None = None

    async def exchanged(self, sent: Sent, registration: Registration) -> Received:
        """Returns the reply. Raises TokenRequestError; when cancelled, the connection is closed."""
        tls, proxy = registration.tls, registration.proxy
        context = self._context(sent.url, tls)
        headers = list(sent.headers)
        to_proxy: dict[str, str] = {}
        if proxy is not None and proxy.authorization is not None:
            if context is None:  # without a tunnel the request itself goes to the proxy
                headers.append(("Proxy-Authorization", proxy.authorization.reveal()))
            else:
                to_proxy["Proxy-Authorization"] = proxy.authorization.reveal()
        if all(name.lower() != "user-agent" for name, _ in headers):
            headers.append(("User-Agent", "bearer-proxy"))
        try:
            async with self._opened().request(
                sent.method,
                URL(sent.url, encoded=True),
                data=sent.body,
                headers=headers,
                allow_redirects=False,
                ssl=context if context is not None else True,
                server_hostname=tls.server_name if tls is not None else None,
                proxy=None if proxy is None else URL(proxy.url, encoded=True),
                proxy_headers=to_proxy or None,
            ) as response:
                body = await _bounded(response)
                return Received(status=response.status, headers=dict(response.headers), body=body)
        except TokenRequestError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # aiohttp raises more than it documents; none may pass as it is
            failure = explained(error, registration, place=sent.place)
        # Raised out here, so that neither cause nor context leads to an error that holds the request.
        raise failure

    async def close(self) -> None:
        """Closes what is open. May be used again afterwards."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    force_close=True,  # token requests are rare: a kept connection would mostly be found closed
                    use_dns_cache=False,
                    limit=_PARALLEL_CALLS,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
                max_line_size=_MAX_FIELD_OCTETS,
                max_field_size=_MAX_FIELD_OCTETS,
            )
        return self._session

    def _context(self, url: str, tls: TlsSettings | None) -> ssl.SSLContext | None:
        if not url.lower().startswith("https:"):
            return None
        try:
            return self._contexts.get(tls)
        except ConfigurationError as error:
            reason = str(error)
        raise TokenRequestError(
            Outcome.TLS, reason, hint="check the files of the credential's tls section", stage=Stage.CONFIGURATION
        )


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """Returns the body. Raises TokenRequestError, and gives the connection up, once it is longer than the bound."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_REPLY_OCTETS:
            response.close()
            raise TokenRequestError(
                Outcome.MALFORMED,
                f"the reply is longer than {MAX_REPLY_OCTETS} octets (HTTP {response.status})",
                status=response.status,
            )
    return bytes(body)
