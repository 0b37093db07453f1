"""An access token as the gateway holds it, and the names that say whose it is and how it stands.

An ``AccessToken`` is immutable and carries the finished field value, so that a request pays for no string work. All its
instants are seconds on ``Clock.now()`` and count from the moment *before* the token request was sent: the gateway never
believes in a longer life than the authorization server does.

Source: RFC 6750 §2.1 (the field value), RFC 6749 §5.1 (`expires_in`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType
from urllib.parse import quote

CredentialName = NewType("CredentialName", str)


class TokenState(StrEnum):
    """How a credential's token stands; exactly one holds at a time."""

    NONE = "none"  # never had one, or the last was dropped
    FRESH = "fresh"
    DUE = "due"  # usable; a newer one is asked for
    HELD = "held"  # due, and the last refresh failed
    EXPIRED = "expired"  # no longer usable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessToken:
    """One access token. Two are the same if their generation is; the text never shows."""

    field_value: bytes = field(repr=False)  # `Bearer ` and the token, ready for the field
    generation: int  # 1, 2, …: grows with each token of one credential
    obtained_at_s: float  # before the token request was sent
    due_at_s: float  # from here on a newer one is asked for
    usable_until_s: float  # from here on never sent; may lie behind `expires_at_s` only for a token without life
    expires_at_s: float
    lifetime_s: float  # 0 for a token that only the requests already waiting for it may use
    scope: str | None  # as the authorization server told it; None where it told nothing
    shapes: tuple[bytes, ...] = field(init=False, repr=False)  # the token's text as a server might echo it
    mark: object = field(init=False, repr=False, compare=False, default_factory=object)  # to know it by when it is gone
    line_end: bytes = field(init=False, repr=False)  # the field value, the end of its line and of the head

    def __post_init__(self) -> None:
        """Raises ValueError for a field value that holds a line break: a head with it would be two."""
        if b"\n" in self.field_value or b"\r" in self.field_value:
            raise ValueError("a line break in a token")
        object.__setattr__(self, "line_end", self.field_value + b"\r\n\r\n")
        text = self.field_value.partition(b" ")[2]
        upper = quote(text, safe="").encode("ascii")
        lower = upper.replace(b"%2B", b"%2b").replace(b"%2F", b"%2f").replace(b"%3D", b"%3d")
        object.__setattr__(self, "shapes", tuple(dict.fromkeys((text, upper, lower))) if text else ())

    def usable(self, now_s: float) -> bool:
        """Tells whether the token may still be sent."""
        return now_s < self.usable_until_s
