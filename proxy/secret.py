"""Values that must not be seen: their text appears in no ``repr``, ``str``, format or pickle.

``Secret`` holds one value; a ``SecretSource`` yields the value in force, from the configuration or from a file that is
read again when it changes (rotation without restart). ``OverlappingSecrets`` are several of which one is in force while
a secret is being rotated. Whoever reveals a value owns what happens to it next.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from proxy.errors import ConfigurationError

_REDACTED = "***"


class Secret:
    """One secret text. Equality is constant-time; hashing is by identity of value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the secret text itself. The caller keeps it out of logs, errors and `repr`."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_REDACTED})"

    def __str__(self) -> str:
        return _REDACTED

    def __format__(self, spec: str) -> str:
        return _REDACTED

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


class SecretSource(Protocol):
    """Where a secret comes from; `read` is called at each use."""

    def read(self) -> Secret:
        """Returns the value now in force. Raises ConfigurationError if it cannot be read or is empty."""


@dataclass(frozen=True, slots=True)
class FixedSecret:
    """A secret given in the configuration or the environment."""

    value: Secret

    def read(self) -> Secret:
        """Returns the value."""
        return self.value


@dataclass(slots=True)
class SecretFile:
    """A secret in a file, read again when the file's identity, size or time changes (symlink swaps included).

    Surrounding white space is not part of the value. A file that becomes unreadable or empty keeps the last good value
    in force, so that a half-written rotation loses nothing; at first use it raises ConfigurationError.
    """

    path: Path
    _stamp: tuple[int, int, int, int] | None = field(default=None, repr=False, compare=False)
    _value: Secret | None = field(default=None, repr=False, compare=False)

    def read(self) -> Secret:
        """Returns the value now in force; one `stat` when nothing changed."""
        try:
            info = os.stat(self.path)  # noqa: PTH116  # the hot part of a rotation check
            stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
            if self._value is not None and stamp == self._stamp:
                return self._value
            text = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self._value is not None:
                return self._value
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigurationError(f"secret file {self.path}: {reason}") from None
        if not text:
            if self._value is not None:
                return self._value
            raise ConfigurationError(f"secret file {self.path}: is empty")
        self._stamp, self._value = stamp, Secret(text)
        return self._value


@dataclass(slots=True)
class OverlappingSecrets:
    """The secrets of one client while they are rotated, the current and the next: one of them is in force.

    Which one is told by whoever sees what the authorization server makes of them (``choose``).
    """

    sources: tuple[SecretSource, ...]
    index: int = 0  # of the one in force

    def read(self) -> Secret:
        """Returns the value in force."""
        return self.sources[self.index].read()

    def choose(self, index: int) -> None:
        """Puts the secret at this index in force."""
        self.index = index
