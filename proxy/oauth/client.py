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
from proxy.errors import ConfigurationError, ErrorType
from proxy.oauth.client_auth import authenticate, hidden_texts, refusal_hint
from proxy.oauth.grant import FORM_CONTENT_TYPE, client_credentials_form, form_encoded
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, TokenGrant, TokenRequestError, parse
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
        status, headers, body = await self._exchanged(registration, secret, context)
        try:
            return parse(status, headers, body, now_wall=self._clock.wall(), hidden=hidden_texts(registration, secret))
        except TokenRequestError as error:
            if error.outcome is Outcome.INVALID_CLIENT and error.hint is None:
                error.hint = refusal_hint(registration, secret)
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
            failure = _explained(error)
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
        raise TokenRequestError(Outcome.TLS, reason, hint="check the files of the credential's tls section")


def _secret(registration: Registration) -> Secret:
    try:
        return registration.client_secret.read()
    except ConfigurationError as error:
        reason = str(error)
    raise TokenRequestError(
        Outcome.INVALID_CLIENT, reason, hint="nothing was sent; the file is looked for again before the next try"
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


def _explained(error: Exception) -> TokenRequestError:
    """Returns the failure in words of our own; of aiohttp's error, only its type and the system's words are used."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return TokenRequestError(
                Outcome.TLS,
                f"the token endpoint's certificate is not accepted: {_verification(error)}",
                hint="a private authority's certificate is named by tls.ca_file, another host name by tls.server_name",
                error_type=ErrorType.TLS_CERTIFICATE_ERROR,
            )
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return TokenRequestError(Outcome.TLS, "no TLS connection with the token endpoint")
        case aiohttp.ClientConnectorDNSError():
            return TokenRequestError(
                Outcome.CONNECT,
                "the token endpoint's host name has no address",
                hint="check the host of token_endpoint",
                error_type=ErrorType.DNS_ERROR,
            )
        case aiohttp.ClientConnectorError(os_error=reason):
            refused = isinstance(reason, ConnectionRefusedError)
            return TokenRequestError(
                Outcome.CONNECT,
                f"no connection to the token endpoint: {'connection refused' if refused else type(reason).__name__}",
                error_type=ErrorType.CONNECTION_REFUSED if refused else None,
            )
        case TimeoutError():  # of `asyncio.timeout`; after the connector's, which may hold the system's own
            return TokenRequestError(Outcome.TIMEOUT, "no whole reply within the timeout")
        case aiohttp.ClientPayloadError():
            return TokenRequestError(
                Outcome.CONNECT, "the reply was cut off", error_type=ErrorType.HTTP_RESPONSE_INCOMPLETE
            )
        case aiohttp.ClientConnectionError() | OSError():
            return TokenRequestError(
                Outcome.CONNECT,
                "the connection was closed before the reply",
                error_type=ErrorType.CONNECTION_TERMINATED,
            )
        case aiohttp.ClientResponseError():
            return TokenRequestError(
                Outcome.MALFORMED, "the reply is not HTTP", hint="check the scheme and port of token_endpoint"
            )
        case _:
            return TokenRequestError(Outcome.MALFORMED, f"the token request failed: {type(error).__name__}")


def _verification(error: Exception) -> str:
    """Returns OpenSSL's word for what is wrong with a certificate."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    return getattr(error, "verify_message", "") or type(error).__name__
