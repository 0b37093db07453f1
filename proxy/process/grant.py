"""One token request outside the gateway's life, told to people: for `bearer-proxy token` and `check --live`."""

from __future__ import annotations

import base64
import binascii
import json

from proxy.clock import Clock
from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.response import TokenGrant, TokenRequestError
from proxy.tokens.source import CredentialSettings
from proxy.tokens.static_source import StaticCredential, read_token


async def granted(credential: CredentialSettings | StaticCredential, clock: Clock) -> TokenGrant:
    """Returns a token for a credential, got as the gateway would. Raises TokenRequestError."""
    if isinstance(credential, StaticCredential):
        return TokenGrant(access_token=read_token(credential), expires_in=None)
    client = TokenEndpointClient(clock)
    try:
        return await client.request(credential.registration)
    finally:
        await client.close()


def told(error: TokenRequestError) -> list[str]:
    """Returns a failure's facts for an operator, a line each; nothing secret."""
    lines = [error.detail]
    if error.description:
        lines.append(f"the authorization server says: {error.description}")
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return lines


def summary(grant: TokenGrant) -> list[str]:
    """Returns a grant's facts, a line each; of the token its length and, of a long one, the first four characters."""
    token = grant.access_token.reveal()
    shown = token[:4] if len(token) >= 32 else ""
    return [
        f"token type: {grant.token_type}",
        f"lifetime:   {'not told' if grant.expires_in is None else f'{grant.expires_in:g} s'}",
        f"scope:      {grant.scope or 'as requested'}",
        f"token:      {shown}… ({len(token)} characters, not shown; --header or --json prints it)",
    ]


def document(grant: TokenGrant) -> str:
    """Returns the grant as JSON, the whole token included."""
    return json.dumps(
        {
            "access_token": grant.access_token.reveal(),
            "token_type": grant.token_type,
            "expires_in": grant.expires_in,
            "scope": grant.scope,
        }
    )


def claims(grant: TokenGrant) -> str | None:
    """Returns a JWT's header and claims as JSON, never its signature; None for a token that is no JWT (RFC 7519 §3).

    Nothing is verified: the token is for the upstream, which does.
    """
    parts = grant.access_token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        header, payload = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, binascii.Error):
        return None
    if not isinstance(header, dict) or not isinstance(payload, dict):
        return None
    return json.dumps({"header": header, "claims": payload}, indent=2)
