"""What a connection on the direct path is at."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """One at a time."""

    READING = "between requests, or within a head"
    OPENING = "a request waits for a connection to the upstream"
    EXCHANGE = "a request is with the upstream, by callbacks"
    STORY = "a request is in the handler's hands"
    RETURNING = "a request that is not plain waits until the last answer is written"
    GONE = "the connection is closed, or with another protocol"


# at module level, since an Enum's attribute costs more than the comparison it is for
READING, OPENING, EXCHANGE, STORY, RETURNING, GONE = Phase
AT_WORK = frozenset({OPENING, EXCHANGE, STORY, RETURNING})
