"""Client authentication: what a token request must show so that the authorization server knows the client.

Exactly one method per request, the configured one: no probing of the other after a refusal, which would send the secret
twice and double every failure. A further method is a further case of ``authenticate``. The results hold secrets; their
``repr`` does not.

Source: RFC 6749 §2.3 and §2.3.1, Appendix B; RFC 7617 (Basic).
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import quote_plus

from proxy.oauth.grant import Form
from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatedRequest:
    """A token request's parameters and header fields, complete but for those that HTTP itself needs."""

    form: Form = field(repr=False)
    headers: list[tuple[str, str]] = field(repr=False)


def authenticate(registration: Registration, secret: Secret, form: Form) -> AuthenticatedRequest:
    """Returns the request with the client's credentials in the one place that its method names."""
    match registration.method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            return AuthenticatedRequest(form=form, headers=[("Authorization", basic(registration, secret))])
        case ClientAuthMethod.CLIENT_SECRET_POST:
            credentials = [("client_id", registration.client_id), ("client_secret", secret.reveal())]
            return AuthenticatedRequest(form=[*form, *credentials], headers=[])
        case method:
            assert_never(method)


def basic(registration: Registration, secret: Secret) -> str:
    """Returns the Basic credentials: id and secret form-urlencoded, each by itself, before they are joined.

    Without that step a `:` in the id could not be told from the separator; `basic_form_encoding` leaves it out for
    servers that do not decode (RFC 6749 §2.3.1).
    """
    client_id, client_secret = registration.client_id, secret.reveal()
    if registration.basic_form_encoding:
        client_id, client_secret = quote_plus(client_id), quote_plus(client_secret)
    return "Basic " + b64encode(f"{client_id}:{client_secret}".encode()).decode("ascii")


def hidden_texts(registration: Registration, secret: Secret) -> list[str]:
    """Returns every shape in which a token request carries a secret, for those who must not quote one."""
    plain = secret.reveal()
    headers = [value for _, value in registration.token_request_headers]
    return [plain, quote_plus(plain), basic(registration, secret).removeprefix("Basic "), *headers]


def refusal_hint(registration: Registration, secret: Secret) -> str:
    """Returns what an operator may look at after `invalid_client`, beside the values themselves."""
    match registration.method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            texts = (registration.client_id, secret.reveal())
            if all(quote_plus(text) == text for text in texts):
                return "check client_id and client_secret, or try token_endpoint_auth_method: client_secret_post"
            if registration.basic_form_encoding:
                return (
                    "the client_id or client_secret has characters that form-encoding changes; "
                    "for a server that does not decode them set basic_form_encoding: false"
                )
            return (
                "the client_id or client_secret has characters that form-encoding changes, and basic_form_encoding "
                "is false; most servers want it true"
            )
        case ClientAuthMethod.CLIENT_SECRET_POST:
            return "check client_id and client_secret, or try token_endpoint_auth_method: client_secret_basic"
        case method:
            assert_never(method)
