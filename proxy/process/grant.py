"""One token request outside the gateway's life, told to people: for `bearer-proxy token` and `check --live`."""

from __future__ import annotations

import base64
import binascii
import json

from proxy.clock import Clock
from proxy.oauth.client import TokenEndpointClient
from proxy.oauth.registration import Registration
from proxy.oauth.response import TokenGrant, TokenRequestError
from proxy.secret import OverlappingSecrets
from proxy.tokens.lifetime import MIN_GRANT_INTERVAL_S
from proxy.tokens.notices import far_apart, missing_scopes
from proxy.tokens.source import CredentialSettings
from proxy.tokens.static_source import StaticCredential, read_token

_NEXT = 1  # index of the second of two client secrets


async def granted(credential: CredentialSettings | StaticCredential, clock: Clock) -> TokenGrant:
    """Returns a token for a credential, got as the gateway would. Raises TokenRequestError."""
    if isinstance(credential, StaticCredential):
        return TokenGrant(access_token=read_token(credential), expires_in=None)
    asked, client = credential.registration, TokenEndpointClient(clock)
    try:
        return await client.request(asked)
    except TokenRequestError as error:
        secrets = asked.client_secret
        if not error.of_the_client or not isinstance(secrets, OverlappingSecrets):
            raise
        secrets.choose(_NEXT)
        await clock.sleep(MIN_GRANT_INTERVAL_S)
        return await client.request(asked)
    finally:
        await client.close()


def registration(credential: CredentialSettings | StaticCredential) -> Registration | None:
    """Returns what is said to an authorization server; None for a credential that asks none."""
    return None if isinstance(credential, StaticCredential) else credential.registration


def warnings(grant: TokenGrant, asked: Registration | None) -> list[str]:
    """Returns what is odd about a grant although it is used, a line each."""
    lines = []
    if asked is not None and isinstance(asked.client_secret, OverlappingSecrets) and asked.client_secret.index == _NEXT:
        lines.append("warning: the first client secret is refused; the token came by the second")
    if missing := missing_scopes(None if asked is None else asked.scope, grant.scope):
        lines.append(f"warning: asked for and not granted: {' '.join(missing)}")
    if grant.expires_in_warning is not None:
        lines.append(f"warning: {grant.expires_in_warning}; default_lifetime counts")
    if grant.doubt is not None:
        lines.append(f"warning: {grant.doubt}")
    if grant.clock_skew_s is not None and far_apart(grant.clock_skew_s):
        way = "ahead of" if grant.clock_skew_s > 0 else "behind"
        lines.append(f"warning: the authorization server's clock is {abs(grant.clock_skew_s):.0f} s {way} ours")
    return lines


def summary(grant: TokenGrant, asked: Registration | None) -> list[str]:
    """Returns a grant's facts, a line each; of the token its length and, of a long one, the first four characters."""
    token = grant.access_token.reveal()
    shown = token[:4] if len(token) >= 32 else ""
    return [
        f"token type: {grant.token_type}",
        f"lifetime:   {'not told' if grant.expires_in is None else f'{grant.expires_in:g} s'}",
        f"scope:      {grant.scope or 'as requested'}",
        f"token:      {shown}… ({len(token)} characters, not shown; --header or --json prints it)",
        *warnings(grant, asked),
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
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(header, dict) or not isinstance(payload, dict):
        return None
    return json.dumps({"header": header, "claims": payload}, indent=2)
