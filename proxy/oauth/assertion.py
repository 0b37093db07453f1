"""Client assertions: a JWT, signed anew for each attempt, by which the client proves who it is.

The key is the client's own (`private_key_jwt`) or its secret (`client_secret_jwt`); an assertion that somebody else signed
(`client_assertion_file`) is only looked through. Signing is joserfc's, keys are cryptography's; both are imported when the
first key is read, since they cost time and memory that a gateway without assertions does not have to spend. No clock and
no chance: the present moment and the `jti` are arguments.

Source: RFC 7523 §2.2 and §3, RFC 7521 §4.2, draft-ietf-oauth-rfc7523bis (audience, `typ`); RFC 7518 §3 (algorithms);
RFC 7515 §4.1.8 (`x5t#S256`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from proxy.errors import ConfigurationError
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod
from proxy.secret import Secret
from proxy.units import SECONDS

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
BACKDATED_S = 5 * SECONDS  # `iat` lies so far back, for a server whose clock is behind ours
_MAX_ASSERTION_CHARACTERS = 16384
_HMAC_OCTETS = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 §3.2: a key at least as long as the hash
_DEFAULT_HMAC = "HS256"
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# (type, curve) of a key: the algorithms that fit it, the one taken unasked first
_FITTING = {
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),  # one algorithm; RFC 9864 gave it a name that says the curve
}
SIGNING_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
HMAC_ALGORITHMS = tuple(_HMAC_OCTETS)
_MIN_RSA_BITS = 2048  # RFC 7518 §3.3
_TOO_SHORT = f"private_key_file: an RSA key needs {_MIN_RSA_BITS} bits at least (RFC 7518, 3.3)"
_KEPT_KEYS = 16  # of as many credentials, rotations included


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that fits its algorithm."""

    algorithm: str
    key_id: str | None
    thumbprint: str | None  # `x5t#S256` of its certificate, for servers that know a key by that
    material: Key = field(repr=False)


@lru_cache(maxsize=_KEPT_KEYS)
def signing_key(proof: Secret, method: ClientAuthMethod, settings: AssertionSettings) -> SigningKey:
    """Returns the key that a private key's PEM or JWK, or a client secret, makes.

    The first call for an RSA key takes up to half a second, since its parts are verified to belong together; the lock of
    the interpreter is free meanwhile, so a thread can do it. Later calls take microseconds.
    Raises ConfigurationError if it is none, or not one for the algorithm that is asked for.
    """
    if method is ClientAuthMethod.CLIENT_SECRET_JWT:
        return _secret_key(proof, settings)
    return _private_key(proof, settings)


def signed(
    key: SigningKey, settings: AssertionSettings, *, client_id: str, audience: str, now_wall: float, jti: str
) -> str:
    """Returns a new assertion: `iss` and `sub` are the client, `aud` is one text, `jti` is never used again.

    From `iat` to `exp` it is as long as the settings say; `iat` is BACKDATED_S ago, or less for a very short life.
    """
    from joserfc import jws  # noqa: PLC0415  # see above

    issued_at_s = math.floor(now_wall - min(BACKDATED_S, settings.lifetime_s / 2))
    header = {"alg": key.algorithm, "typ": settings.typ}
    if key.key_id is not None:
        header["kid"] = key.key_id
    if key.thumbprint is not None:
        header["x5t#S256"] = key.thumbprint
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": issued_at_s,
        "exp": issued_at_s + math.floor(settings.lifetime_s),
        "jti": jti,
    }
    payload = json.dumps(claims, separators=(",", ":")).encode()
    with warnings.catch_warnings():  # joserfc's own, of the older name EdDSA, which servers know
        warnings.simplefilter("ignore")
        return jws.serialize_compact(header, payload, key.material, algorithms=[key.algorithm])


def secret_fault(secret: Secret, algorithm: str | None) -> str | None:
    """Returns what makes a client secret unfit to sign with, None if nothing does. Its octets are the key."""
    algorithm = algorithm or _DEFAULT_HMAC
    needed = _HMAC_OCTETS.get(algorithm, 0)
    if len(secret.reveal().encode()) >= needed:
        return None
    return f"is too short for {algorithm}, which needs {needed} octets at least (RFC 7518, 3.2)"


def given(proof: Secret, now_wall: float) -> str:
    """Returns an assertion that somebody else signed. Raises ConfigurationError if it is none, or has expired."""
    text = proof.reveal()
    if len(text) > _MAX_ASSERTION_CHARACTERS or _JWT.fullmatch(text) is None:
        raise ConfigurationError("client_assertion_file: the file's text is no signed JWT")
    header, claims = (_decoded(part) for part in text.split(".")[:2])
    if header is None or claims is None:
        raise ConfigurationError("client_assertion_file: the file's text is no signed JWT")
    expires_at_s = claims.get("exp")
    if isinstance(expires_at_s, int | float) and not isinstance(expires_at_s, bool) and expires_at_s <= now_wall:
        raise ConfigurationError(
            f"client_assertion_file: the assertion expired {now_wall - expires_at_s:.0f} s ago; "
            "whoever writes the file has not renewed it"
        )
    return text


def _secret_key(secret: Secret, settings: AssertionSettings) -> SigningKey:
    algorithm = settings.algorithm or _DEFAULT_HMAC
    if algorithm not in _HMAC_OCTETS:
        raise ConfigurationError(f"signing_alg: client_secret_jwt signs with one of {', '.join(HMAC_ALGORITHMS)}")
    if (fault := secret_fault(secret, algorithm)) is not None:
        raise ConfigurationError(f"client_secret: {fault}")
    from joserfc.jwk import OctKey  # noqa: PLC0415  # see above

    return SigningKey(algorithm, settings.key_id, None, OctKey.import_key(secret.reveal().encode()))


def _private_key(proof: Secret, settings: AssertionSettings) -> SigningKey:
    from joserfc import jwk  # noqa: PLC0415  # see above
    from joserfc.errors import JoseError  # noqa: PLC0415

    text = proof.reveal()
    key: Key | None = None
    members: Any = {}
    short = False
    try:
        if text.startswith("{"):
            members = json.loads(text)
            short = members.get("kty") == "RSA" and len(members["n"]) * 6 < _MIN_RSA_BITS  # joserfc would warn of it
            key = None if short else jwk.import_key(members)
        else:
            key = _from_pem(text)
    except (ValueError, TypeError, KeyError, JoseError):  # its text may hold the key's
        key = None
    if short:
        raise ConfigurationError(_TOO_SHORT)
    if key is None or not isinstance(key, jwk.RSAKey | jwk.ECKey | jwk.OKPKey) or not key.is_private:
        raise ConfigurationError("private_key_file: the file holds no private key: PEM without a password, or a JWK")
    curve = None if isinstance(key, jwk.RSAKey) else key.curve_name
    fitting = _FITTING.get((key.key_type, curve))
    if fitting is None:
        raise ConfigurationError(
            "private_key_file: keys are RSA, EC on the curve P-256, or Ed25519 "
            f"(for RS256, PS256, ES256, EdDSA), and this is {curve or key.key_type}"
        )
    if isinstance(key, jwk.RSAKey) and key.raw_value.key_size < _MIN_RSA_BITS:
        raise ConfigurationError(_TOO_SHORT)
    own = members.get("alg")
    algorithm = settings.algorithm or (own if own in fitting else fitting[0])
    if algorithm not in fitting:
        raise ConfigurationError(f"signing_alg: the key is for {' or '.join(fitting)}, not for {algorithm}")
    key_id = settings.key_id or members.get("kid")
    thumbprint = members.get("x5t#S256") if members else _thumbprint(text, key)
    return SigningKey(
        algorithm,
        key_id if isinstance(key_id, str) else None,
        thumbprint if isinstance(thumbprint, str) else None,
        key,
    )


def _from_pem(text: str) -> Key:
    """Returns the key of a PEM text; ValueError or TypeError for what is none, or has a password."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # see above
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from joserfc import jwk  # noqa: PLC0415

    try:
        key = load_pem_private_key(text.encode(), password=None)
    except UnsupportedAlgorithm:
        raise ValueError from None
    if isinstance(key, rsa.RSAPrivateKey):
        return jwk.RSAKey(key, key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return jwk.ECKey(key, key)
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return jwk.OKPKey(key, key)
    raise ValueError


def _thumbprint(text: str, key: RSAKey | ECKey | OKPKey) -> str | None:
    """Returns the `x5t#S256` of the key's certificate, where one stands in the same PEM text.

    Raises ConfigurationError where certificates do, and none is the key's.
    """
    if "-----BEGIN CERTIFICATE-----" not in text:
        return None
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415  # see above
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415

    try:
        certificates = load_pem_x509_certificates(text.encode())
        of_the_key = [found for found in certificates if found.public_key() == key.public_key]
    except ValueError:
        of_the_key = []
    if not of_the_key:
        raise ConfigurationError("private_key_file: the file also holds a certificate, and it is not the key's")
    return base64.urlsafe_b64encode(of_the_key[0].fingerprint(SHA256())).rstrip(b"=").decode()


def _decoded(part: str) -> dict[str, Any] | None:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return value if isinstance(value, dict) else None
