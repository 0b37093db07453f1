"""Authorization server metadata: where the document lies, and what of it is believed.

A document is used only if it names exactly the issuer that was asked for: whoever could answer with another's document
would otherwise be sent the client's secret. No network, no clock.

Source: RFC 8414 §2, §3 and §3.3; OpenID Connect Discovery 1.0 §4; RFC 8705 §5 (`mtls_endpoint_aliases`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from proxy.loopback import is_loopback
from proxy.oauth.registration import Registration, endpoint_fault
from proxy.oauth.response import Outcome, TokenRequestError

_INSERTED = "/.well-known/oauth-authorization-server"
_APPENDED = "/.well-known/openid-configuration"
_DEFAULT_METHODS = ("client_secret_basic",)  # RFC 8414 §2, where the document names none


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """What a document says, as far as a token request needs it."""

    issuer: str
    token_endpoint: str
    mtls_token_endpoint: str | None = None  # for clients that show a certificate
    auth_methods: tuple[str, ...] = _DEFAULT_METHODS

    def endpoint_for(self, registration: Registration) -> str:
        """Returns where this client's token requests go."""
        if registration.method.by_certificate and self.mtls_token_endpoint is not None:
            return self.mtls_token_endpoint
        return self.token_endpoint

    def doubt(self, registration: Registration) -> str | None:
        """Returns what the document says against the configured method, None if nothing; the method is used anyway."""
        if registration.method.value in self.auth_methods:
            return None
        listed = ", ".join(method for method in self.auth_methods if method.isprintable())
        return f"the authorization server does not list {registration.method.value}, but: {listed[:200] or 'none'}"


def locations(issuer: str) -> tuple[str, str]:
    """Returns the URLs where the document may lie, in the order they are tried.

    RFC 8414 puts its name between host and path, OpenID Connect puts its own behind the path; a slash at the end goes.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return (
        urlunsplit((parts.scheme, parts.netloc, _INSERTED + path, "", "")),
        urlunsplit((parts.scheme, parts.netloc, path + _APPENDED, "", "")),
    )


def parse(status: int, body: bytes, registration: Registration) -> ServerMetadata:
    """Returns what a reply says. Raises TokenRequestError if it is no document of this issuer, or one without use."""
    if status != 200:
        outcome = Outcome.SERVER_ERROR if status >= 500 else Outcome.MALFORMED
        hint = "check issuer" if status == 404 else "redirects are never followed" if 300 <= status < 400 else None
        raise TokenRequestError(outcome, f"no metadata of the issuer (HTTP {status})", status=status, hint=hint)
    members = _members(body)
    if members is None:
        raise TokenRequestError(Outcome.MALFORMED, "the issuer's metadata is not a JSON object", status=status)
    if members.get("issuer") != registration.issuer:
        raise TokenRequestError(
            Outcome.MALFORMED,
            "the metadata is another issuer's, and must not be used (RFC 8414, 3.3)",
            status=status,
            hint=_other(members.get("issuer")),
        )
    endpoint = _endpoint(members, registration)
    if endpoint is None:
        raise TokenRequestError(
            Outcome.MALFORMED,
            "the issuer's metadata has no token_endpoint that may be used: https, without fragment",
            status=status,
        )
    aliases = members.get("mtls_endpoint_aliases")
    methods = members.get("token_endpoint_auth_methods_supported")
    return ServerMetadata(
        issuer=members["issuer"],
        token_endpoint=endpoint,
        mtls_token_endpoint=_endpoint(aliases, registration) if isinstance(aliases, dict) else None,
        auth_methods=tuple(str(method) for method in methods) if isinstance(methods, list) else _DEFAULT_METHODS,
    )


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _endpoint(members: dict[str, Any], registration: Registration) -> str | None:
    """Returns the token endpoint that a document names, on whatever host; None if it may not be asked."""
    url = members.get("token_endpoint")
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return None
    if endpoint_fault(url) is not None:
        return None
    parts = urlsplit(url)
    plain = registration.allow_plain_http or is_loopback(parts.hostname or "")
    return url if parts.scheme == "https" or (plain and not registration.method.by_certificate) else None


def _other(issuer: object) -> str:
    if not isinstance(issuer, str) or not issuer.isprintable():
        return "it names none"
    return f"it names {issuer[:200]}: the comparison is by every character, a slash at the end too"
