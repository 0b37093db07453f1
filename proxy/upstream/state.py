"""What a connection to an upstream is at."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """One at a time."""

    IDLE = "no exchange"
    HEAD = "a request was sent, the final response's head has not come"
    LENGTH = "in a body of known length"
    LENT = "likewise, but somebody else reads it"
    CHUNKED = "in a chunked body"
    UNTIL_CLOSE = "in a body that ends with the connection"
    SWITCHED = "another protocol is spoken, by whom it was given away to"
    CLOSED = "no use any more"


# at module level, since an Enum's attribute costs more than the comparison it is for
IDLE, HEAD, LENGTH, LENT, CHUNKED, UNTIL_CLOSE, SWITCHED, CLOSED = State
