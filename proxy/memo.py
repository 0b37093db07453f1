"""What comes again and again is worked out once: a bounded memory that takes only what came at least twice.

Most of what is new never comes again; remembered at once, it would cost memory and drive out what does.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_MAX_ONCE = 4096


class Memo(Generic[_K, _V]):
    """Values by what they were worked out from. Keys and values are as large as who keeps them lets them be."""

    __slots__ = ("_known", "_max", "_once", "find")

    def __init__(self, most: int) -> None:
        """`most` is how many are kept; all are forgotten when there would be more."""
        self._max = most
        self._known: dict[_K, _V] = {}
        self._once: set[int] = set()  # hashes of what came once
        self.find = self._known.get  # key -> value or None; an attribute, since each message asks

    def __len__(self) -> int:
        return len(self._known)

    def note(self, key: _K, value: _V) -> bool:
        """Keeps a value, if its key was noted before; tells whether it does."""
        mark = hash(key)
        if mark not in self._once:
            if len(self._once) >= _MAX_ONCE:
                self._once.clear()
            self._once.add(mark)
            return False
        if len(self._known) >= self._max:
            self._known.clear()
        self._known[key] = value
        return True
