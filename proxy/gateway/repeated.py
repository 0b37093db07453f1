"""Heads that come again and again, with what was decided of them: clients that poll send the same octets each time.

Only what holds for the same octets from the same visitor under the same configuration is kept (``Admitted.repeatable``),
so one of these belongs to a ``Snapshot``. Bounded; none with a credential of HTTP's own, or a token in the
query, is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.gateway.access import Visitor
from proxy.gateway.query_token import without_token
from proxy.http1.fields import CREDENTIALS
from proxy.memo import Memo
from proxy.units import KIB

if TYPE_CHECKING:
    from proxy.gateway.decide import Admitted

_MAX_HEADS = 512
_MAX_OCTETS = 2 * KIB  # of one
_NOT_KEPT = CREDENTIALS | {b"x-request-id"}  # which no other request has


class Repeated(Memo[tuple[bytes, Visitor], "Admitted"]):
    """What was decided of heads that came at least twice, by their octets and who sent them."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_MAX_HEADS)

    def admitted(self, octets: bytes, visitor: Visitor, admitted: Admitted) -> None:
        """Notes a head that was admitted."""
        head = admitted.head
        if admitted.repeatable and len(octets) <= _MAX_OCTETS and _NOT_KEPT.isdisjoint(head.known):
            query = head.target.partition(b"?")[2]
            if without_token(query) is query:
                self.note((octets, visitor), admitted)
