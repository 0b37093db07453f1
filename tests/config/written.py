"""Configurations as text, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

from proxy.config.faults import ConfigurationFaults
from proxy.config.load import Loaded, load

FILE = "proxy.yaml"

# line 2 is `orders:` in `credentials`, line 6 the first route; both can be added to at the end of their part
CREDENTIAL = """\
credentials:
  orders:
    token_endpoint: https://as.example/token
    client_id: legacy-app
    client_secret: ${SECRET}
"""
ROUTE = """\
routes:
  - name: orders
    match: {path_prefix: /orders}
    upstream: https://api.example/v1
    credential: orders
"""
MINIMAL = CREDENTIAL + ROUTE
CREDENTIAL_END = 6  # the line where a line added to the credential stands
ROUTE_END = 11  # ... and one added to the route


def loaded(text: str | bytes, **environ: str) -> Loaded:
    """Loads the text as a file, with these variables and SECRET."""
    path = Path(FILE)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, environ={"SECRET": "the-secret", **environ})


def faults(text: str | bytes, **environ: str) -> list[str]:
    """Returns the faults of the text, each as `line:column: key.path: message`; none if it loads."""
    try:
        loaded(text, **environ)
    except ConfigurationFaults as error:
        return [str(fault).removeprefix(f"{FILE}:") for fault in error.faults]
    return []


def with_credential(lines: str) -> str:
    """Returns a configuration whose credential has these lines too, from line CREDENTIAL_END on."""
    return CREDENTIAL + indented(lines) + ROUTE


def with_route(lines: str) -> str:
    """Returns a configuration whose route has these lines too, from line ROUTE_END on."""
    return CREDENTIAL + ROUTE + indented(lines)


def indented(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())
