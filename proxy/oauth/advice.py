"""What an operator may look at after an authorization server refused: one hint for each kind of refusal.

Hints are texts of our own and name configuration keys; nothing of the reply and no value of the registration is quoted.

Source: RFC 6749 §5.2 (error codes), RFC 8707 §2 (`invalid_target`).
"""

from __future__ import annotations

from urllib.parse import quote_plus

from proxy.oauth.client_auth import refusal_hint
from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.oauth.response import Outcome, TokenRequestError
from proxy.secret import Secret

_BY_CODE = {
    "unauthorized_client": (
        "the client is known but may not do this: allow it the client_credentials grant, and this way of "
        "authenticating, at the authorization server"
    ),
    "unsupported_grant_type": (
        "this endpoint does not offer the client_credentials grant: check token_endpoint, or have it switched on"
    ),
    "invalid_grant": "the grant was refused: check endpoint_params, and that the client is active",
    "invalid_target": "check resource and audience: the server does not issue tokens for that one to this client",
    "access_denied": "the server's policy denies this client the token: check audience, scopes and the client's roles",
    "server_error": "a fault of the authorization server; the gateway tries again by itself",
    "temporarily_unavailable": "the authorization server is overloaded or under maintenance",
}


def advice(registration: Registration, secret: Secret, error: TokenRequestError) -> str | None:
    """Returns the hint for a refusal; the error's own where it has one that nothing here betters."""
    encoding = _encoding_hint(registration, secret)
    match error.outcome:
        case Outcome.INVALID_CLIENT:
            return error.hint or refusal_hint(registration, secret)
        case Outcome.INVALID_SCOPE if registration.scope is None:
            return "the server wants a scope named: set scopes"
        case Outcome.INVALID_SCOPE:
            return "check scopes: one is misspelt, or not allowed to this client"
        case Outcome.OAUTH_ERROR if error.error_code is None:
            return "; ".join(part for part in (error.hint, encoding) if part)
        case Outcome.OAUTH_ERROR if error.error_code == "invalid_request":
            # oidc-provider says so to Basic credentials that it cannot decode
            return encoding or "a parameter is missing or not wanted: some servers need audience, resource or scopes"
        case _:
            return error.hint or _BY_CODE.get(error.error_code or "")


def _encoding_hint(registration: Registration, secret: Secret) -> str | None:
    """Returns the hint at `basic_form_encoding` where that makes a difference."""
    if registration.method is not ClientAuthMethod.CLIENT_SECRET_BASIC:
        return None
    if all(quote_plus(text) == text for text in (registration.client_id, secret.reveal())):
        return None
    return refusal_hint(registration, secret)
