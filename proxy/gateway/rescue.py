"""What to do when something failed: one table from failure to reply, and the rules for sending a request again.

A request is sent again only if nothing of it can have been processed, or the upstream said 401 and its body is held
whole. A budget bounds all retries, so that an upstream in trouble is not drowned in them.

Source: RFC 9110 §9.2.1 (safe methods), §11.6.1 (challenges); RFC 6750 §3.1.
"""

from __future__ import annotations

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Retry, Side
from proxy.gateway.problem import Reply, problem_reply
from proxy.http1.fields import challenges
from proxy.http1.wire import ResponseHead

# Safe methods (RFC 9110 §9.2.1): a second execution changes nothing. PUT and DELETE are idempotent, but an upstream that
# executed one and closed would execute it again, perhaps after somebody else's request.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY"})

_UPSTREAM_PROBLEMS = {
    ErrorType.CONNECTION_TIMEOUT: Problem.UPSTREAM_TIMEOUT,
    ErrorType.CONNECTION_READ_TIMEOUT: Problem.UPSTREAM_TIMEOUT,
    ErrorType.CONNECTION_WRITE_TIMEOUT: Problem.UPSTREAM_TIMEOUT,
    ErrorType.HTTP_RESPONSE_TIMEOUT: Problem.UPSTREAM_TIMEOUT,
    ErrorType.DNS_TIMEOUT: Problem.UPSTREAM_TIMEOUT,
    ErrorType.TLS_PROTOCOL_ERROR: Problem.UPSTREAM_TLS,
    ErrorType.TLS_CERTIFICATE_ERROR: Problem.UPSTREAM_TLS,
    ErrorType.TLS_ALERT_RECEIVED: Problem.UPSTREAM_TLS,
    ErrorType.DNS_ERROR: Problem.UPSTREAM_UNREACHABLE,
    ErrorType.CONNECTION_REFUSED: Problem.UPSTREAM_UNREACHABLE,
    ErrorType.CONNECTION_TERMINATED: Problem.UPSTREAM_UNREACHABLE,
    ErrorType.DESTINATION_UNAVAILABLE: Problem.UPSTREAM_UNREACHABLE,
}


def problem_of(error: GatewayError) -> Problem:
    """Returns the problem that a failure is told as. The table covers every type and side."""
    if isinstance(error, Refusal):
        return error.problem
    match error.side:
        case Side.AUTHORIZATION_SERVER:
            return Problem.TOKEN_UNAVAILABLE
        case Side.UPSTREAM:
            return _UPSTREAM_PROBLEMS.get(error.error_type, Problem.UPSTREAM_PROTOCOL)
        case Side.GATEWAY if error.error_type is ErrorType.CONNECTION_LIMIT_REACHED:
            return Problem.OVERLOADED
        case Side.CLIENT:
            return Problem.BAD_REQUEST
        case _:
            return Problem.INTERNAL


def reply_to(error: GatewayError, request_id: bytes) -> Reply:
    """Returns what the client gets for a failure; a 503 always says when to come back."""
    problem = problem_of(error)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and problem.status == 503:
        retry_after_s = 1.0
    return problem_reply(problem, request_id, retry_after_s=retry_after_s, error=error)


def token_rejected(response: ResponseHead) -> bool:
    """Tells whether a response says that the access token is no longer good.

    That is a 401 without WWW-Authenticate, or with a Bearer challenge whose error is absent or `invalid_token`.
    Other schemes, other errors and any 403 are the upstream's answer to this client and renew nothing.
    """
    if response.status != 401:
        return False
    named = challenges(response.fields)
    if not named and not any(name.lower() == b"www-authenticate" for name, _ in response.fields):
        return True
    return any(
        challenge.scheme == b"bearer" and challenge.params.get(b"error", b"invalid_token") == b"invalid_token"
        for challenge in named
    )


def may_send_again(error: GatewayError, *, method: bytes, body_held: bool) -> bool:
    """Tells whether a failed request may be sent again: nothing of it can have been processed."""
    match error.retry:
        case Retry.NOTHING_SENT:
            return body_held
        case Retry.REUSED_CONNECTION:
            return body_held and method in SAFE
        case _:
            return False


class RetryBudget:
    """Lets retries be a fraction of the requests, with a small reserve for a quiet route. O(1)."""

    __slots__ = ("_fraction", "_left")

    RESERVE = 10.0  # retries that a quiet route may use at once

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._left = self.RESERVE if fraction > 0 else 0.0

    def earn(self) -> None:
        """Counts one request."""
        left = self._left + self._fraction
        self._left = min(self.RESERVE, left)

    def spend(self) -> bool:
        """Takes one retry, if there is one left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
