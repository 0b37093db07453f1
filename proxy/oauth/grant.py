"""The form of a token request: the parameters of the client-credentials grant, before client authentication.

A parameter without a value is left out, since an empty one counts as omitted and some servers refuse it; none but
`resource` appears twice. Values are text here; ``form_encoded`` makes the body.

Source: RFC 6749 §3.2, §4.4.2 and Appendix B; RFC 8707 §2 (`resource`, repeatable, order kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from proxy.oauth.registration import Registration

Form = list[tuple[str, str]]

FORM_CONTENT_TYPE = "application/x-www-form-urlencoded"


def client_credentials_form(registration: Registration) -> Form:
    """Returns the parameters that ask for an access token in the client's own name, in the order they are sent."""
    form = [("grant_type", "client_credentials")]
    if registration.scope:
        form.append(("scope", registration.scope))
    if registration.audience:
        form.append(("audience", registration.audience))
    form.extend(("resource", resource) for resource in registration.resource)
    form.extend((name, value) for name, value in registration.endpoint_params if value)
    return form


def form_encoded(form: Sequence[tuple[str, str]]) -> bytes:
    """Returns the body: UTF-8, form-urlencoded, a space as `+` (RFC 6749 Appendix B)."""
    return urlencode(form).encode("ascii")
