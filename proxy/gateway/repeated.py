"""Heads that come again and again, with what was decided of them: clients that poll send the same octets each time.

Only what holds for the same octets from the same visitor under the same configuration is kept (``Admitted.repeatable``),
so one of these belongs to a ``Snapshot``. Bounded; no token of a client's own is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.gateway.access import Visitor
from proxy.gateway.query_token import without_token
from proxy.units import KIB

if TYPE_CHECKING:
    from proxy.gateway.decide import Admitted

_MAX_HEADS = 512
_MAX_OCTETS = 2 * KIB  # of one
_MAX_ONCE = 4096
_NOT_KEPT = frozenset({b"authorization", b"x-request-id"})  # credentials, and what no other request has


class Repeated:
    """What was decided of heads that came at least twice."""

    __slots__ = ("_known", "_once", "find")

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, Visitor], Admitted] = {}
        self._once: set[int] = set()  # hashes of heads seen once, so that what never comes again costs no memory
        self.find = self._known.get  # (octets, visitor) -> Admitted or None; an attribute, since each request asks

    def __len__(self) -> int:
        return len(self._known)

    def note(self, octets: bytes, visitor: Visitor, admitted: Admitted) -> None:
        """Remembers a head that was admitted, from its second time on. All are forgotten when there are too many."""
        head = admitted.head
        if not admitted.repeatable or len(octets) > _MAX_OCTETS or not _NOT_KEPT.isdisjoint(head.known):
            return
        if without_token(query := head.target.partition(b"?")[2]) is not query:
            return
        key = (octets, visitor)
        known = hash(key)
        if known not in self._once:
            if len(self._once) >= _MAX_ONCE:
                self._once.clear()
            self._once.add(known)
            return
        if len(self._known) >= _MAX_HEADS:
            self._known.clear()
        self._known[key] = admitted
