"""What a client proves itself with, as it stands now, and what the authorization server made of it.

A refusal is worth another try at once when there is something new to show: another secret of two in overlap, or a file
that has changed since. The secrets in overlap are not probed: the one in force is used until it is refused, then the
other one is tried once, and the one that works is remembered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from proxy.errors import ConfigurationError
from proxy.oauth.registration import Registration
from proxy.secret import OverlappingSecrets, Secret, SecretFile, SecretSource

_Stamp = tuple[int, int, int, int] | None  # device, inode, size, time of change


class Proof:
    """One registration's secrets and files. Synchronous; a `stat` for each file where it looks for changes."""

    __slots__ = (
        "_by_certificate",
        "_files",
        "_overlap",
        "_refused",
        "_seen",
        "_shown",
        "_sources",
        "_stamps",
        "accepted_index",
    )

    def __init__(self, registration: Registration) -> None:
        self.accepted_index: int | None = None  # of secrets in overlap, the one that last brought a token
        self._by_certificate = registration.method.by_certificate
        source = registration.proof
        self._overlap = source if isinstance(source, OverlappingSecrets) else None
        self._sources: tuple[SecretSource, ...] = (source,) if self._overlap is None else self._overlap.sources
        compared = {source.path for source in self._sources if isinstance(source, SecretFile)}
        self._files = tuple(path for path in files(registration) if path not in compared)
        self._shown: Secret | None = None
        self._seen: frozenset[Secret | None] = frozenset()
        self._refused: set[Secret | None] = set()
        self._stamps: tuple[_Stamp, ...] = ()

    @property
    def binds(self) -> bool:
        """Whether tokens may be bound to it, so that those got with a former one are no longer good (RFC 8705 §3)."""
        return self._by_certificate

    @property
    def alternatives(self) -> int:
        """How many secrets there are in overlap; 0 where there is nothing to choose from."""
        return 0 if self._overlap is None else len(self._sources)

    def shown(self) -> None:
        """Notes what a token request shows now; of several secrets, puts one in force that was not refused."""
        self._stamps = tuple(map(_stamp, self._files))
        values = self._values()
        self._seen = frozenset(values)
        index = 0
        if self._overlap is not None:
            if values[self._overlap.index] in self._refused:
                untried = self._untried(values)
                self._overlap.choose(self._overlap.index if untried is None else untried)
            index = self._overlap.index
        self._shown = values[index]

    def accepted(self) -> None:
        """Notes that it was accepted."""
        self._refused.clear()
        if self._overlap is not None:
            self.accepted_index = self._overlap.index

    def refused(self) -> bool:
        """Notes that it was refused. Returns whether another secret is in force now that was not refused yet."""
        values = self._values()
        self._refused.intersection_update(values)  # a secret that was replaced and comes back is tried again
        self._refused.add(self._shown)
        if self._overlap is None:
            return False
        untried = self._untried(values)
        # Where all were refused, the next try is made with another than the last.
        self._overlap.choose((self._overlap.index + 1) % len(values) if untried is None else untried)
        return untried is not None

    def changed(self) -> bool:
        """Tells whether a secret or file is another one than the last request had."""
        return not self._seen.issuperset(self._values()) or tuple(map(_stamp, self._files)) != self._stamps

    def _untried(self, values: Sequence[Secret | None]) -> int | None:
        return next((index for index, value in enumerate(values) if value not in self._refused), None)

    def _values(self) -> list[Secret | None]:
        return [_read(source) for source in self._sources]


def files(value: object) -> Iterator[Path]:
    """Yields every file that a registration names."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from files(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for member in fields(value):
            yield from files(getattr(value, member.name))


def _read(source: SecretSource) -> Secret | None:
    try:
        return source.read()
    except ConfigurationError:
        return None


def _stamp(path: Path) -> _Stamp:
    try:
        info = os.stat(path)  # noqa: PTH116  # follows symbolic links: a rotation may swap one
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
