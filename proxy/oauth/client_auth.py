"""Client authentication: what a token request must show so that the authorization server knows the client.

Exactly one method per request, the configured one: no probing of the other after a refusal, which would send the secret
twice and double every failure. A further method is a further case of ``authenticate``. The results hold secrets; their
``repr`` does not.

Source: RFC 6749 §2.3 and §2.3.1, Appendix B; RFC 7617 (Basic); RFC 7523 §2.2 (assertions); RFC 8705 §2 (certificates).
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import quote_plus

from proxy.oauth.assertion import ASSERTION_TYPE, given, signed, signing_key
from proxy.oauth.grant import Form
from proxy.oauth.registration import AUDIENCE_ISSUER, AUDIENCE_TOKEN_ENDPOINT, ClientAuthMethod, Registration
from proxy.secret import Secret

SIGNING_METHODS = frozenset({ClientAuthMethod.CLIENT_SECRET_JWT, ClientAuthMethod.PRIVATE_KEY_JWT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What differs from one token request of a registration to the next."""

    token_endpoint: str  # where it goes
    issuer: str | None = None  # the authorization server's identifier, where it is known
    now_wall: float  # Unix time
    jti: str  # never used before


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatedRequest:
    """A token request's parameters and header fields, complete but for those that HTTP itself needs."""

    form: Form = field(repr=False)
    headers: list[tuple[str, str]] = field(repr=False)
    hidden: list[str] = field(repr=False)  # every shape in which the request carries a secret, for who may quote none


def authenticate(registration: Registration, proof: Secret, form: Form, attempt: Attempt) -> AuthenticatedRequest:
    """Returns the request with the client's proof in the one place that its method names.

    Raises ConfigurationError if the proof cannot serve: a key that is none, an assertion that has expired.
    """
    match registration.method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            headers = [("Authorization", basic(registration, proof))]
            return AuthenticatedRequest(form=form, headers=headers, hidden=hidden_texts(registration, proof))
        case ClientAuthMethod.CLIENT_SECRET_POST:
            shown = [("client_id", registration.client_id), ("client_secret", proof.reveal())]
            return AuthenticatedRequest(form=[*form, *shown], headers=[], hidden=hidden_texts(registration, proof))
        case ClientAuthMethod.CLIENT_SECRET_JWT | ClientAuthMethod.PRIVATE_KEY_JWT:
            assertion = _assertion(registration, proof, attempt)
            shown = [
                ("client_id", registration.client_id),
                ("client_assertion_type", ASSERTION_TYPE),
                ("client_assertion", assertion),
            ]
            hidden = [assertion, *hidden_texts(registration, proof)]
            return AuthenticatedRequest(form=[*form, *shown], headers=[], hidden=hidden)
        case ClientAuthMethod.TLS_CLIENT_AUTH | ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH:
            shown = [("client_id", registration.client_id)]  # the certificate is shown by the handshake
            return AuthenticatedRequest(form=[*form, *shown], headers=[], hidden=hidden_texts(registration, None))
        case method:
            assert_never(method)


def _assertion(registration: Registration, proof: Secret, attempt: Attempt) -> str:
    if registration.client_assertion is not None:
        return given(proof, attempt.now_wall)
    settings = registration.assertion
    return signed(
        signing_key(proof, registration.method, settings),
        settings,
        client_id=registration.client_id,
        audience=audience(registration, attempt),
        now_wall=attempt.now_wall,
        jti=attempt.jti,
    )


def audience(registration: Registration, attempt: Attempt) -> str:
    """Returns whom an assertion is for: the issuer where it is known (rfc7523bis), else the token endpoint; one text."""
    wanted = registration.assertion.audience
    if wanted is None or wanted == AUDIENCE_ISSUER:
        return attempt.issuer or attempt.token_endpoint
    return attempt.token_endpoint if wanted == AUDIENCE_TOKEN_ENDPOINT else wanted


def basic(registration: Registration, secret: Secret) -> str:
    """Returns the Basic credentials: id and secret form-urlencoded, each by itself, before they are joined.

    Without that step a `:` in the id could not be told from the separator; `basic_form_encoding` leaves it out for
    servers that do not decode (RFC 6749 §2.3.1).
    """
    client_id, client_secret = registration.client_id, secret.reveal()
    if registration.basic_form_encoding:
        client_id, client_secret = quote_plus(client_id), quote_plus(client_secret)
    return "Basic " + b64encode(f"{client_id}:{client_secret}".encode()).decode("ascii")


def hidden_texts(registration: Registration, proof: Secret | None) -> list[str]:
    """Returns every shape in which a secret that both sides know may be quoted, and the values of extra headers."""
    texts = [source.read().reveal() for _, source in registration.token_request_headers]
    if registration.proxy is not None and registration.proxy.authorization is not None:
        texts.append(registration.proxy.authorization.reveal().removeprefix("Basic "))
    if proof is None or not registration.method.by_secret:
        return texts
    plain = proof.reveal()
    return [plain, quote_plus(plain), basic(registration, proof).removeprefix("Basic "), *texts]


def refusal_hint(registration: Registration, proof: Secret) -> str:
    """Returns what an operator may look at after `invalid_client`, beside the values themselves."""
    match registration.method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            texts = (registration.client_id, proof.reveal())
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
        case ClientAuthMethod.CLIENT_SECRET_JWT:
            return (
                "check client_id, client_secret and this machine's clock; "
                "some servers want another signing_alg or assertion_audience: token_endpoint"
            )
        case ClientAuthMethod.PRIVATE_KEY_JWT if registration.client_assertion is not None:
            return "check that the server trusts whoever signs the assertion, and its subject and audience"
        case ClientAuthMethod.PRIVATE_KEY_JWT:
            return (
                "check that the key's public half is registered for client_id (under key_id, if that is set), and this "
                "machine's clock; some servers want another signing_alg or assertion_audience: token_endpoint"
            )
        case ClientAuthMethod.TLS_CLIENT_AUTH:
            return "check that client_id is registered with the subject or name that the certificate has"
        case ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH:
            return "check that the certificate in tls.cert_file is the one registered for client_id"
        case method:
            assert_never(method)
