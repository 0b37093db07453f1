"""Header names and values that a configuration gives, and the names that it may not touch.

Source: RFC 9110 §5 (grammar), §7.6.1 (connection-specific fields), §7.2 (Host).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from proxy.config.scalars import Written
from proxy.http1.fields import CONNECTION_SPECIFIC, is_field_value, is_token

_FRAMING = CONNECTION_SPECIFIC | {b"content-length", b"expect"}
_OWN = frozenset({b"host", b"via", b"x-request-id"})
X_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})


def header_name(value: str) -> str:
    """Returns a field's name as written."""
    if not value.isascii() or not is_token(value.encode("ascii")):
        raise ValueError("is not a header's name")
    return value


def value_fault(value: str) -> str | None:
    """Returns what is wrong with a field's value, or None."""
    if value != value.strip(" \t"):
        return "begins or ends with white space, which no header's value can"
    if not is_field_value(value.encode("utf-8", "surrogatepass")):
        return "holds a control character, which no header's value can"
    return None


def header_value(value: str) -> str:
    """Returns a field's value."""
    if (fault := value_fault(value)) is not None:
        raise ValueError(fault)
    return value


def untouchable(name: str) -> str | None:
    """Returns why no configuration may set or remove a field, or None for one that it may."""
    lower = name.lower().encode("ascii")
    if lower in _FRAMING:
        return "belongs to the connection and its framing; the gateway sets it"
    if lower in _OWN:
        return "is set by the gateway"
    return None


def duplicates(names: Iterable[str]) -> Iterator[str]:
    """Yields each name that has come before in other letters."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            yield name
        seen.add(name.lower())


_NAME_SCHEMA = {"type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"}
HeaderName = Annotated[str, Written(header_name, _NAME_SCHEMA, "a header's name")]
HeaderText = Annotated[str, Written(header_value, {"type": ["string", "number", "boolean"]}, "a text")]
NAME_ITEM = _NAME_SCHEMA
