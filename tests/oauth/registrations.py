"""A registration to vary in tests."""

from __future__ import annotations

from typing import Any

from proxy.oauth.registration import Registration
from proxy.secret import FixedSecret, Secret

SECRET = "s3cret-of-the-tests"


def registration(
    token_endpoint: str = "https://as.example/token", /, *, secret: str = SECRET, **members: Any
) -> Registration:
    """Returns a registration of `legacy-app` at this token endpoint."""
    given = {"client_id": "legacy-app", "client_secret": FixedSecret(Secret(secret)), **members}
    return Registration(token_endpoint=token_endpoint, **given)
