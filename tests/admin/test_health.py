"""Readiness: a first token for every required credential, sticky, and not draining."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.admin.health import Check, readiness
from proxy.oauth.response import Outcome
from proxy.tokens.access_token import TokenState
from tests.admin.facts import FRESH, WITHOUT_TOKEN


def test_every_required_credential_had_a_token():
    """It is ready."""
    assert readiness([FRESH], draining=False).ready


def test_a_required_credential_never_had_a_token():
    """It is not ready, and the check tells what the last try came to."""
    failing = replace(WITHOUT_TOKEN, last_outcome=Outcome.CONNECT, last_error="a text that stays inside")
    state = readiness([FRESH, failing], draining=False)
    assert not state.ready
    assert state.checks[-1] == Check("credential orders", False, "waits for its first token; last try: connect")


@pytest.mark.parametrize("token_state", list(TokenState))
def test_a_token_that_came_and_went(token_state):
    """It stays ready in every state: the authorization server's death is no reason to leave service."""
    assert readiness([replace(FRESH, state=token_state)], draining=False).ready


def test_a_credential_that_is_not_required():
    """Readiness does not wait for it."""
    assert readiness([replace(WITHOUT_TOKEN, required=False)], draining=False).ready


def test_draining():
    """It is not ready, whatever tokens there are."""
    assert not readiness([FRESH], draining=True).ready


def test_no_credentials_at_all():
    """It is ready: routes may need none."""
    assert readiness([], draining=False).ready


def test_the_text():
    """One line; verbose, a line for each check before it."""
    state = readiness([WITHOUT_TOKEN], draining=False)
    assert state.text(verbose=False) == "not ready\n"
    assert state.text(verbose=True) == (
        "[+] serving: accepting requests\n[-] credential orders: waits for its first token\nnot ready\n"
    )
    assert readiness([], draining=False).text(verbose=False) == "ready\n"
