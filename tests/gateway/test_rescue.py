"""From failure to reply, and when a request may be sent again."""

from __future__ import annotations

import json

import pytest

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Retry, Side
from proxy.gateway.rescue import RetryBudget, may_send_again, problem_of, reply_to, token_rejected
from proxy.http1.wire import ResponseHead


@pytest.mark.parametrize("error_type", list(ErrorType))
@pytest.mark.parametrize("side", list(Side))
def test_every_failure_has_a_reply(error_type: ErrorType, side: Side):
    """Whatever fails, the client gets a small fixed document that names nobody, and a 503 says when to come back."""
    secret = "db.internal.example /secret/path"
    reply = reply_to(GatewayError(error_type, side, secret), b"i" * 128)

    document = json.loads(reply.body)
    assert {"type", "title", "status", "request_id"} == set(document)
    assert reply.status == document["status"]
    assert len(reply.body) <= 512
    assert b"internal" not in reply.body.replace(b"problem:internal", b"").replace(b"Internal error", b"")
    names = {name for name, _ in reply.fields}
    assert {b"Content-Type", b"Cache-Control", b"Proxy-Status"} <= names
    assert (b"Retry-After" in names) == (reply.status == 503)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refusal(Problem.NO_ROUTE), Problem.NO_ROUTE),
        (GatewayError(ErrorType.CONNECTION_REFUSED, Side.UPSTREAM), Problem.UPSTREAM_UNREACHABLE),
        (GatewayError(ErrorType.DNS_ERROR, Side.UPSTREAM), Problem.UPSTREAM_UNREACHABLE),
        (GatewayError(ErrorType.TLS_CERTIFICATE_ERROR, Side.UPSTREAM), Problem.UPSTREAM_TLS),
        (GatewayError(ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM), Problem.UPSTREAM_PROTOCOL),
        (GatewayError(ErrorType.HTTP_RESPONSE_TIMEOUT, Side.UPSTREAM), Problem.UPSTREAM_TIMEOUT),
        (GatewayError(ErrorType.CONNECTION_TIMEOUT, Side.UPSTREAM), Problem.UPSTREAM_TIMEOUT),
        (GatewayError(ErrorType.CONNECTION_LIMIT_REACHED, Side.GATEWAY), Problem.OVERLOADED),
        (GatewayError(ErrorType.CONNECTION_REFUSED, Side.AUTHORIZATION_SERVER), Problem.TOKEN_UNAVAILABLE),
        (GatewayError(ErrorType.PROXY_INTERNAL_ERROR, Side.GATEWAY), Problem.INTERNAL),
    ],
)
def test_the_table(error: GatewayError, expected: Problem):
    """Who failed and how decides the problem."""
    assert expected is problem_of(error)


@pytest.mark.parametrize(
    ("status", "challenge", "expected"),
    [
        pytest.param(401, None, True, id="401 without a challenge"),
        pytest.param(401, b"Bearer", True, id="Bearer alone"),
        pytest.param(401, b'Bearer realm="x", error="invalid_token"', True, id="invalid_token"),
        pytest.param(401, b'Basic realm="a, b", Bearer error="invalid_token"', True, id="Bearer among others"),
        pytest.param(401, b'Bearer error="insufficient_scope"', False, id="insufficient_scope"),
        pytest.param(401, b'Bearer error="invalid_request"', False, id="invalid_request"),
        pytest.param(401, b'Basic realm="x"', False, id="Basic"),
        pytest.param(401, b"Negotiate", False, id="Negotiate"),
        pytest.param(403, b'Bearer error="invalid_token"', False, id="403"),
        pytest.param(200, None, False, id="200"),
    ],
)
def test_which_answers_reject_the_token(status: int, challenge: bytes | None, expected: bool):
    """Only a 401 that can mean this token renews it."""
    fields = () if challenge is None else ((b"WWW-Authenticate", challenge),)
    assert expected is token_rejected(ResponseHead((1, 1), status, b"", fields))


@pytest.mark.parametrize(
    ("retry", "method", "held", "expected"),
    [
        (Retry.NEVER, b"GET", True, False),
        (Retry.NOTHING_SENT, b"POST", True, True),
        (Retry.NOTHING_SENT, b"POST", False, False),
        (Retry.REUSED_CONNECTION, b"GET", True, True),
        (Retry.REUSED_CONNECTION, b"POST", True, False),
        (Retry.REUSED_CONNECTION, b"PATCH", True, False),
        (Retry.REUSED_CONNECTION, b"PUT", True, False),
        (Retry.REUSED_CONNECTION, b"DELETE", True, False),
        (Retry.REUSED_CONNECTION, b"QUERY", True, True),
        (Retry.REUSED_CONNECTION, b"QUERY", False, False),
    ],
)
def test_when_a_request_may_be_sent_again(retry: Retry, method: bytes, held: bool, expected: bool):
    """Only if nothing of it can have been processed, and its body is held whole."""
    error = GatewayError(ErrorType.CONNECTION_TERMINATED, Side.UPSTREAM, retry=retry)
    assert expected is may_send_again(error, method=method, body_held=held)


def test_the_budget_bounds_retries_to_a_fraction():
    """In the long run at most that fraction of the requests is sent again."""
    budget = RetryBudget(0.2)
    retries = 0
    for _ in range(1000):
        budget.earn()
        retries += budget.spend()
    assert retries <= 0.2 * 1000 + RetryBudget.RESERVE
    assert not RetryBudget(0.0).spend()
