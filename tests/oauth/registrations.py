"""A registration to vary in tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.secret import FixedSecret, Secret
from proxy.tls import TlsSettings

SECRET = "s3cret-of-the-tests-with-32-octets-or-more"


@cache
def private_key() -> str:
    """Returns a key for ES256, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def registration(
    token_endpoint: str | None = "https://as.example/token", /, *, secret: str = SECRET, **members: Any
) -> Registration:
    """Returns a registration of `legacy-app` at this token endpoint, with what its method needs to prove itself.

    Values of headers may be given as text.
    """
    given: dict[str, Any] = {"client_id": "legacy-app"}
    headers = members.pop("token_request_headers", ())
    given["token_request_headers"] = tuple(
        (name, FixedSecret(Secret(value)) if isinstance(value, str) else value) for name, value in headers
    )
    method = ClientAuthMethod(members.get("method", ClientAuthMethod.CLIENT_SECRET_BASIC))
    if method.by_secret:
        given["client_secret"] = FixedSecret(Secret(secret))
    elif method.by_certificate:
        given["tls"] = TlsSettings(cert_file=Path("client.pem"), key_file=Path("client.key"))
    elif "client_assertion" not in members:
        given["private_key"] = FixedSecret(Secret(private_key()))
    return Registration(token_endpoint=token_endpoint, **{**given, **members})


def proof(of: Registration) -> Secret:
    """Returns what a registration's client proves itself by, where that stands in no file."""
    return Secret("") if of.method.by_certificate else of.proof.read()
