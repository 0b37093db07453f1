"""What is wrong with a configuration: every fault at once, each with its place, and never with a value.

A ``Fault`` reads ``file:line:column: key.path: message``. Its message is fixed text, names of keys and names of
variables; what an operator wrote as a value, or keeps in the environment, does not get in, because any value may be a
misplaced secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from proxy.errors import ConfigurationError

KeyPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.$-]{1,64}|<<")
_LONGEST_KEY = 40


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written. Line and column count from 1; both are 0 for a value that no file holds."""

    file: str
    line: int = 0
    column: int = 0
    label: str = ""  # takes the key path's place: a variable's name, a command-line option


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, or one warning, of a configuration."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigurationFaults(ConfigurationError):
    """All the faults of a configuration, sorted by place; ``hint`` says what to do about them, if anything does."""

    def __init__(self, faults: Iterable[Fault], hint: str = "") -> None:
        self.faults = tuple(sorted(set(faults), key=lambda fault: (fault.file, fault.line, fault.column, fault.path)))
        self.hint = hint
        lines = [str(fault) for fault in self.faults]
        super().__init__("\n".join([*lines, f"hint: {hint}"] if hint else lines))


@dataclass(slots=True)
class Findings:
    """Collects faults, and remembers which values are faulty so that nothing else is said about them."""

    faults: list[Fault] = field(default_factory=list)
    unset: set[str] = field(default_factory=set)  # variables that are missing
    _faulty: set[KeyPath] = field(default_factory=set)

    def add(self, place: Place, path: KeyPath, message: str, *, at: KeyPath | None = None) -> None:
        """Records a fault. `at` is the path that counts as faulty, if it is not the one shown."""
        text = place.label or shown(path)
        self.faults.append(Fault(place.file, place.line, place.column, text, message))
        self.spoil(path if at is None else at)

    def spoil(self, path: KeyPath) -> None:
        """Marks a value as faulty without saying so again."""
        self._faulty.add(path)

    def covers(self, path: KeyPath) -> bool:
        """Tells whether this value, or one that holds it, is already known to be faulty."""
        return any(path[:length] in self._faulty for length in range(1, len(path) + 1))


def shown(path: KeyPath) -> str:
    """Returns a key path for people: `routes[0].match.path_prefix`. Odd keys are escaped and cut."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{shown_key(step)}" if text else shown_key(step)
    return text


def shown_key(key: str) -> str:
    """Returns a key on one line: as written if it is plain, else quoted, escaped and cut."""
    if _PLAIN_KEY.fullmatch(key) is not None:
        return key
    return ascii(key if len(key) <= _LONGEST_KEY else key[:_LONGEST_KEY] + "...")


def suggestion(written: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean "x"?)` for a known word close to what was written, else nothing."""
    close = get_close_matches(written[:100], list(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
