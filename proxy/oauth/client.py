"""A token request from beginning to end: where it goes, what proves the client, the exchange, and what the reply means.

It ends within the registration's timeout, discovery included, and is sent once: when to ask again is for ``proxy.tokens``
to say. Whatever goes wrong is a ``TokenRequestError``.

Source: RFC 6749 §3.2, §4.4.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.errors import ConfigurationError
from proxy.oauth.advice import advice
from proxy.oauth.assertion import signing_key
from proxy.oauth.client_auth import Attempt, AuthenticatedRequest, authenticate
from proxy.oauth.discovery import Discovery
from proxy.oauth.failure import explained
from proxy.oauth.grant import FORM_CONTENT_TYPE, client_credentials_form, form_encoded
from proxy.oauth.registration import Registration, extra_headers
from proxy.oauth.response import Outcome, Stage, TokenGrant, TokenRequestError, parse
from proxy.oauth.transport import Received, Sent, Transport
from proxy.secret import Secret

_JTI_OCTETS = 24


@dataclass(frozen=True, slots=True)
class _Exchange:
    request: AuthenticatedRequest
    received: Received
    sent_at_s: float
    doubt: str | None  # what the metadata says against the method


class TokenEndpointClient:
    """Asks token endpoints for access tokens. Made anywhere; used and closed on one event loop."""

    __slots__ = ("_clock", "_discovery", "_transport")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport = Transport()
        self._discovery = Discovery(self._transport, clock)

    async def request(self, registration: Registration) -> TokenGrant:
        """Returns one new access token. Raises TokenRequestError; when cancelled, the connection is closed."""
        proof = _proof(registration)
        try:
            async with asyncio.timeout(registration.timeout_s):
                exchange = await self._exchanged(registration, proof)
        except TimeoutError as error:
            failure = explained(error, registration)
        except TokenRequestError as error:
            failure = error
        else:
            try:
                grant = parse(
                    exchange.received.status,
                    exchange.received.headers,
                    exchange.received.body,
                    now_wall=self._clock.wall(),
                    round_trip_s=self._clock.now() - exchange.sent_at_s,
                    hidden=exchange.request.hidden,
                )
            except TokenRequestError as error:
                failure = error
                hints = [advice(registration, proof, failure)]
                if failure.outcome is Outcome.INVALID_CLIENT:
                    hints.append(exchange.doubt)
                failure.hint = "; ".join(hint for hint in hints if hint) or None
            else:
                return replace(grant, doubt=exchange.doubt)
        if failure.error_code is None:
            self._discovery.doubt(registration)
        # Raised out here, so that neither cause nor context leads to what the request held.
        raise failure

    async def close(self) -> None:
        """Closes what is open. The client may be used again afterwards."""
        await self._transport.close()

    async def _exchanged(self, registration: Registration, proof: Secret) -> _Exchange:
        issuer, endpoint, doubt = registration.issuer, registration.token_endpoint, None
        if endpoint is None:
            document = await self._discovery.document(registration)
            issuer, endpoint = document.issuer, document.endpoint_for(registration)
            doubt = document.doubt(registration)
        attempt = Attempt(
            token_endpoint=endpoint,
            issuer=issuer,
            now_wall=self._clock.wall(),
            jti=secrets.token_urlsafe(_JTI_OCTETS),
        )
        if registration.private_key is not None:
            await asyncio.to_thread(_prepared, registration, proof)
        request = _authenticated(registration, proof, attempt)
        sent = Sent(
            method="POST",
            url=endpoint,
            headers=[
                *request.headers,  # none of the names below: a registration refuses them
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("Content-Type", FORM_CONTENT_TYPE),
            ],
            body=form_encoded(request.form),
            place="the token endpoint",
        )
        sent_at_s = self._clock.now()
        return _Exchange(request, await self._transport.exchanged(sent, registration), sent_at_s, doubt)


def _proof(registration: Registration) -> Secret:
    try:
        return registration.proof.read()
    except ConfigurationError as error:
        reason = str(error)
    raise _nothing_sent(reason)


def _prepared(registration: Registration, proof: Secret) -> None:
    """Reads a private key that is new, so that it is at hand when an assertion is signed; for a thread."""
    with contextlib.suppress(ConfigurationError):  # raised again where it is told
        signing_key(proof, registration.method, registration.assertion)


def _authenticated(registration: Registration, proof: Secret, attempt: Attempt) -> AuthenticatedRequest:
    try:
        extra = extra_headers(registration)
        request = authenticate(registration, proof, client_credentials_form(registration), attempt)
        return replace(request, headers=[*extra, *request.headers])
    except ConfigurationError as error:
        reason = str(error)
    raise _nothing_sent(reason)


def _nothing_sent(reason: str) -> TokenRequestError:
    return TokenRequestError(
        Outcome.INVALID_CLIENT,
        reason,
        hint="nothing was sent; the file is looked for again before the next try",
        stage=Stage.CONFIGURATION,
    )
