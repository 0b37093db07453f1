"""Access tokens of the demonstration: signed JSON Web Tokens, made by one server and verified by the other.

HS256 by hand with the standard library, since nothing else in the gateway signs. The key is random per ``TokenAuthority``
and never leaves it. ``exp`` and ``iat`` carry milliseconds (a NumericDate may have a fraction), so that tests can ask for
lives shorter than a second. Tokens that were issued are known by their ``jti``, so that they can be revoked.

Source: RFC 7515 §3.1, RFC 7519 §4.1 and §2 (NumericDate), RFC 9068 §2.2 (names of the claims).
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from proxy.clock import Clock
from proxy.secret import Secret


class RefusalReason(StrEnum):
    """Why a token is not accepted."""

    MALFORMED = "malformed"
    SIGNATURE = "signature"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenRefused(Exception):
    """A token that is not accepted; the reason is a closed set and the text holds no part of the token."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What an accepted token says. Times are seconds since the epoch, to the millisecond."""

    issuer: str
    audience: str
    client_id: str
    scope: str
    issued_at_s: float
    expires_at_s: float
    identifier: str


class TokenAuthority:
    """Makes and verifies the tokens of one authorization server, which shares the key with its APIs."""

    def __init__(self, *, clock: Clock, audience: str) -> None:
        self.issuer = ""  # the authorization server's address, known once it listens
        self.audience = audience
        self._clock = clock
        self._signing_key = secrets.token_bytes(32)
        self._live: dict[str, float] = {}  # identifier -> expiry of every token that is neither expired nor revoked

    def issue(self, *, client_id: str, scope: str, lifetime_s: float) -> Secret:
        """Returns a new access token that is good for that many seconds."""
        now_s = self._clock.wall()
        self._live = {name: expiry for name, expiry in self._live.items() if expiry > now_s}
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": client_id,
            "client_id": client_id,
            "scope": scope,
            "iat": round(now_s, 3),
            "exp": round(now_s + lifetime_s, 3),
            "jti": secrets.token_urlsafe(12),
        }
        self._live[claims["jti"]] = claims["exp"]
        signed = f"{_HEADER}.{_encode(claims)}"
        return Secret(f"{signed}.{self._mac(signed)}")

    def verify(self, token: str, *, now_s: float) -> Claims:
        """Returns the claims of a token that is good at that moment (the verifier's own wall clock).

        Raises:
            TokenRefused: with the reason; a token is expired from the very moment that `exp` names.
        """
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if not (header and payload and signature and token.isascii()):
            raise TokenRefused(RefusalReason.MALFORMED)
        # the signature comes first, so that nothing is parsed that is not ours; so is the header, which never varies
        if header != _HEADER or not hmac.compare_digest(signature.encode(), self._mac(signed).encode()):
            raise TokenRefused(RefusalReason.SIGNATURE)
        claims = json.loads(_decode(payload))
        if claims["iss"] != self.issuer:
            raise TokenRefused(RefusalReason.ISSUER)
        if claims["aud"] != self.audience:
            raise TokenRefused(RefusalReason.AUDIENCE)
        if now_s >= claims["exp"]:
            raise TokenRefused(RefusalReason.EXPIRED)
        if claims["jti"] not in self._live:
            raise TokenRefused(RefusalReason.REVOKED)
        return Claims(
            issuer=claims["iss"],
            audience=claims["aud"],
            client_id=claims["sub"],
            scope=claims["scope"],
            issued_at_s=claims["iat"],
            expires_at_s=claims["exp"],
            identifier=claims["jti"],
        )

    def revoke(self, token: str) -> None:
        """Makes a token of ours useless at once; one that is not ours, or no longer good, changes nothing."""
        try:
            claims = self.verify(token, now_s=self._clock.wall())
        except TokenRefused:
            return
        del self._live[claims.identifier]

    def revoke_all(self) -> None:
        """Makes every token issued so far useless at once."""
        self._live.clear()

    def _mac(self, signed: str) -> str:
        return _base64url(hmac.digest(self._signing_key, signed.encode(), "sha256"))


def _encode(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    """Returns unpadded base64url (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


_HEADER = _encode({"alg": "HS256", "typ": "at+jwt"})
