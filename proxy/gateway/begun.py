"""How far a request has come when the handler gets it from the direct path, and what an upstream has said to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import GatewayError
from proxy.gateway.decide import Decision
from proxy.http1.framing import Framing
from proxy.http1.wire import ResponseHead
from proxy.tokens.access_token import AccessToken
from proxy.upstream.exchange import Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the upstream said to a request, and the token that this request carried: the last one, if there were more."""

    exchange: Exchange
    head: ResponseHead
    framing: Framing
    token: AccessToken | None


@dataclass(frozen=True, slots=True)
class Begun:
    """How far a request has come before the handler gets it: decided, and perhaps sent once."""

    decision: Decision
    under_way: bool = False  # it was sent, or tried to be; what follows is of that try
    pieces: list[bytes] | None = field(default=None, repr=False)  # of its body: what was sent, None if it was let go
    body_complete: bool = False
    failure: GatewayError | None = None  # what became of the try
    answer: Answer | None = None  # or what the upstream says, of which nothing was relayed
