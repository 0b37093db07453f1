"""The life of a token, event by event, and the tests that show what becomes of it; none of the events is without one.

The numbers are those of the list of events that the design began with; L26 to L29 are about several workers and a shared
store, which are not there yet.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
LATER = {26, 27, 28, 29}

LIFE = """
L1   the authorization server is down at start
     tests/gateway/test_token_life.py::test_it_is_down_at_start
     tests/tokens/test_keeper_failures.py::test_down_at_start_and_up_later
     tests/tokens/test_keepers.py::test_required_and_lazy_credentials
L2   it is down later
     tests/gateway/test_token_life.py::test_it_goes_after_the_first_token_and_comes_back
     tests/tokens/test_keeper_failures.py::test_down_later_and_up_before_the_end
     tests/tokens/test_keeper_failures.py::test_down_beyond_the_end
L3   it is slow
     tests/gateway/test_token_life.py::test_it_takes_five_seconds
     tests/tokens/test_keeper.py::test_a_slow_refresh
L4   5xx, connection refused, TLS error, reset
     tests/gateway/test_token_life.py::test_it_is_down_for_minutes
     tests/tokens/test_keeper_failures.py::test_tries_without_a_token
     tests/tokens/test_lifetime.py::test_the_pause_grows
     tests/tokens/test_lifetime.py::test_no_token_and_the_server_is_down
     tests/tokens/test_keeper_property.py::test_the_first_minute_of_any_outage
     tests/tokens/test_keeper_property.py::test_the_end_of_any_outage
     tests/tokens/test_governor.py::test_an_outage_that_several_found
L5   429 or 503 with Retry-After
     tests/tokens/test_keeper_failures.py::test_retry_after
     tests/tokens/test_keeper_failures.py::test_retry_after_with_a_token_in_use
     tests/oauth/test_response.py::test_retry_after
     tests/tokens/test_governor.py::test_retry_after_concerns_every_credential
L6   invalid_client, unauthorized_client, invalid_scope
     tests/tokens/test_keeper_failures.py::test_a_fault_of_the_configuration
     tests/tokens/test_keeper_failures.py::test_a_secret_that_was_corrected
     tests/real/test_authorization_servers.py::test_a_wrong_secret
     tests/tokens/test_keeper_property.py::test_any_refusals
     tests/gateway/test_bad_authorization_server.py::test_a_refusal
L7   200 with an error, HTML, nothing, half a JSON, no token or a token that fits no header
     tests/tokens/test_keeper.py::test_a_reply_that_brings_no_token
     tests/oauth/test_response.py::test_a_success_that_is_none
     tests/oauth/test_response.py::test_tokens_that_are_no_b64token
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_no_grant
L8   token_type missing, in other letters, or another
     tests/oauth/test_response.py::test_token_types_that_mean_bearer
     tests/oauth/test_response.py::test_token_types_that_must_not_be_used
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_odd_and_plain
L9   expires_in missing or null
     tests/oauth/test_response.py::test_a_reply_without_lifetime
     tests/oauth/test_response.py::test_odd_lifetimes
     tests/tokens/test_lifetime.py::test_a_life_by_the_defaults
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_odd_and_plain
L10  expires_in as a text or a float
     tests/oauth/test_response.py::test_odd_lifetimes
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_odd_and_plain
L11  expires_in zero or negative
     tests/tokens/test_keeper.py::test_a_token_without_life
     tests/tokens/test_keeper.py::test_a_refresh_that_brings_another_token_without_life
     tests/gateway/test_bad_authorization_server.py::test_tokens_without_life
L12  expires_in huge, or no number
     tests/oauth/test_response.py::test_odd_lifetimes
     tests/tokens/test_lifetime.py::test_a_life_by_the_defaults
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_odd_and_plain
L13  a life shorter than the margins
     tests/tokens/test_keeper.py::test_a_very_short_life
     tests/tokens/test_lifetime.py::test_any_policy_and_any_life
L14  a refresh that brings the same token, or an earlier end
     tests/tokens/test_keeper.py::test_a_server_that_gives_the_same_token_again
     tests/tokens/test_keeper.py::test_a_refresh_that_brings_an_earlier_end
     tests/tokens/test_notices.py::test_a_server_that_keeps_its_token_until_it_ends
L15  the wall clock jumps; the machine sleeps
     tests/tokens/test_keeper.py::test_a_wall_clock_that_jumps
     tests/tokens/test_keeper.py::test_waking_after_a_suspend
     tests/tokens/test_keeper.py::test_the_last_moment_of_a_token
     tests/tokens/test_keeper_property.py::test_any_server_and_any_course_of_time
L16  the token is revoked early
     tests/gateway/test_token_life.py::test_a_hundred_requests_with_a_revoked_token
     tests/gateway/test_token_life.py::test_a_refused_request_with_a_body
     tests/gateway/test_token_life.py::test_a_second_refusal
     tests/tokens/test_keeper_replace.py::test_a_refusal_of_an_older_token
     tests/tokens/test_keeper_replace.py::test_an_upstream_that_refuses_every_token
     tests/tokens/test_keeper_property.py::test_an_upstream_that_refuses_every_token
L17  the upstream refuses something else
     tests/gateway/test_token_life.py::test_a_refusal_of_something_else
     tests/gateway/test_token_life.py::test_a_refusal_of_the_token
L18  500 first requests at once
     tests/gateway/test_end_to_end.py::test_500_concurrent_first_requests_make_one_grant
     tests/tokens/test_keeper.py::test_five_hundred_first_requests
L19  the client that asked first leaves
     tests/tokens/test_keeper.py::test_the_first_of_five_hundred_leaves
     tests/gateway/test_streaming.py::test_a_client_leaves_while_it_waits_for_a_token
L20  all who wait leave
     tests/tokens/test_keeper.py::test_all_who_wait_leave
L21  a failure while many wait
     tests/tokens/test_keeper.py::test_a_failure_with_waiters
L22  a refresh while requests are under way
     tests/tokens/test_keeper.py::test_a_slow_refresh
     tests/real/test_authorization_servers.py::test_short_tokens_under_traffic
L23  the secret is rotated
     tests/gateway/test_token_life.py::test_a_secret_file_is_replaced
     tests/gateway/test_token_life.py::test_a_secret_is_replaced_at_the_server_first
     tests/tokens/test_keeper_failures.py::test_a_rotated_secret
     tests/tokens/test_proof.py::test_the_current_secret_is_refused
     tests/tokens/test_proof.py::test_both_are_refused
     tests/real/test_authorization_servers.py::test_a_secret_that_is_being_rotated
L24  the signing key is rotated; each attempt has an assertion of its own
     tests/oauth/test_client.py::test_a_signing_key_that_was_rotated
L25  many replicas start at once
     tests/tokens/test_lifetime.py::test_jitter
     tests/tokens/test_keeper_failures.py::test_retry_after
L30  shutdown during a refresh
     tests/tokens/test_keeper.py::test_stopping_during_a_token_request
     tests/process/test_run.py::test_sigterm_during_a_token_request
L31  the authorization server redirects
     tests/oauth/test_client.py::test_a_redirect
L32  its certificate is self-signed, expired, or another host's
     tests/oauth/test_tls.py::test_a_certificate_of_an_unknown_authority
     tests/oauth/test_tls.py::test_a_certificate_that_has_expired
     tests/oauth/test_tls.py::test_a_certificate_of_another_host
     tests/oauth/test_tls.py::test_a_server_that_speaks_no_tls
     tests/process/test_diagnosis.py::test_an_expired_certificate
L33  its reply is too long, compressed, or drips in
     tests/oauth/test_client.py::test_replies_that_are_too_much
     tests/oauth/test_client.py::test_a_server_that_stops_in_its_reply
     tests/oauth/test_response.py::test_a_compressed_reply
     tests/gateway/test_bad_authorization_server.py::test_a_reply_that_is_no_grant
L34  Basic or post is as configured, and never probed
     tests/real/test_authorization_servers.py::test_the_wrong_method
     tests/oauth/test_client.py::test_the_request_by_client_secret_basic
     tests/oauth/test_client.py::test_the_request_by_client_secret_post
"""


def events(table: str) -> dict[int, list[str]]:
    """Returns the tests of each event by its number."""
    found: dict[int, list[str]] = {}
    for line in table.strip().splitlines():
        if (head := re.match(r"L(\d+) ", line)) is not None:
            found[int(head[1])] = []
        else:
            found[max(found)].append(line.strip())
    return found


def functions_of(file: Path) -> set[str]:
    """Returns the names of a file's tests."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, functions)}


def unshown(table: str) -> list[str]:
    """Returns the events that no test shows, and the tests that are none."""
    listed = events(table)
    missing = [f"L{number}: no test" for number in range(1, 35) if not listed.get(number) and number not in LATER]
    for number, named in listed.items():
        for test in named:
            file, _, name = test.partition("::")
            if not (TOP / file).is_file() or name not in functions_of(TOP / file):
                missing.append(f"L{number}: {test} is not there")
    return missing


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("L34  Basic", "     Basic", "L34: no test"),
        ("::test_a_redirect", "::test_a_rdirect", "L31: tests/oauth/test_client.py::test_a_rdirect is not there"),
        ("test_client.py::test_a_redirect", "test_clint.py::x", "L31: tests/oauth/test_clint.py::x is not there"),
    ],
)
def test_a_table_with_a_gap(before: str, after: str, fault: str):
    """What a missing event and a test that was renamed look like."""
    assert fault in unshown(LIFE.replace(before, after))


def test_every_event_of_a_token_s_life():
    """Each has at least one test, and each test named is there."""
    assert [] == unshown(LIFE)
