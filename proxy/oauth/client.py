"""One call of a token endpoint: the only network that ``oauth`` knows.

Each call has a connection of its own, follows no redirect, keeps no cookie, heeds no proxy variable of the environment,
asks for no compression, reads no more than a mebibyte, and ends within the registration's timeout. It is sent once: when
to ask again is for ``proxy.tokens`` to say. Whatever goes wrong becomes a ``TokenRequestError`` in words of our own, for
aiohttp's errors hold the request and with it the client's secret.

Source: RFC 6749 §3.2, §4.4.2.
"""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from yarl import URL

from proxy.clock import Clock
from proxy.errors import ConfigurationError
from proxy.oauth.advice import advice
from proxy.oauth.client_auth import authenticate, hidden_texts
from proxy.oauth.failure import explained
from proxy.oauth.grant import FORM_CONTENT_TYPE, client_credentials_form, form_encoded
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, Stage, TokenGrant, TokenRequestError, parse
from proxy.secret import Secret
from proxy.tls import TlsContexts
from proxy.units import KIB, MIB

MAX_REPLY_OCTETS = 1 * MIB
_MAX_FIELD_OCTETS = 16 * KIB
_PARALLEL_CALLS = 0  # no bound of its own: there is at most one call per credential


class TokenEndpointClient:
    """Asks token endpoints for access tokens. Made anywhere; used and closed on one event loop."""

    __slots__ = ("_clock", "_contexts", "_session")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._contexts = TlsContexts()
        self._session: aiohttp.ClientSession | None = None

    async def request(self, registration: Registration) -> TokenGrant:
        """Returns one new access token. Raises TokenRequestError; when cancelled, the connection is closed."""
        secret = _secret(registration)
        context = self._context(registration)
        sent_at_s = self._clock.now()
        status, headers, body = await self._exchanged(registration, secret, context)
        try:
            return parse(
                status,
                headers,
                body,
                now_wall=self._clock.wall(),
                round_trip_s=self._clock.now() - sent_at_s,
                hidden=hidden_texts(registration, secret),
            )
        except TokenRequestError as error:
            error.hint = advice(registration, secret, error)
            raise

    async def close(self) -> None:
        """Closes what is open. The client may be used again afterwards."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _exchanged(
        self, registration: Registration, secret: Secret, context: ssl.SSLContext | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Returns the reply's status, fields and body."""
        request = authenticate(registration, secret, client_credentials_form(registration))
        headers = [
            *registration.token_request_headers,  # none of the names below: a registration refuses them
            *request.headers,
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Content-Type", FORM_CONTENT_TYPE),
        ]
        if all(name.lower() != "user-agent" for name, _ in headers):
            headers.append(("User-Agent", "bearer-proxy"))
        try:
            async with (
                asyncio.timeout(registration.timeout_s),
                self._opened().post(
                    URL(registration.token_endpoint, encoded=True),  # as configured, its query octet by octet
                    data=form_encoded(request.form),
                    headers=headers,
                    allow_redirects=False,
                    ssl=context if context is not None else True,
                    server_hostname=registration.tls.server_name if registration.tls is not None else None,
                ) as response,
            ):
                body = await _bounded(response)
                return response.status, dict(response.headers), body
        except TokenRequestError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # aiohttp raises more than it documents; none may pass as it is
            failure = explained(error, registration)
        # Raised out here, so that neither cause nor context leads to an error that holds the request.
        raise failure

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

    def _context(self, registration: Registration) -> ssl.SSLContext | None:
        if not registration.token_endpoint.lower().startswith("https:"):
            return None
        try:
            return self._contexts.get(registration.tls)
        except ConfigurationError as error:
            reason = str(error)
        raise TokenRequestError(
            Outcome.TLS, reason, hint="check the files of the credential's tls section", stage=Stage.CONFIGURATION
        )


def _secret(registration: Registration) -> Secret:
    try:
        return registration.client_secret.read()
    except ConfigurationError as error:
        reason = str(error)
    raise TokenRequestError(
        Outcome.INVALID_CLIENT,
        reason,
        hint="nothing was sent; the file is looked for again before the next try",
        stage=Stage.CONFIGURATION,
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
