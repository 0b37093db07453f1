"""The status document: states and times for operators, and nothing that opens anything."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from proxy.admin.status import status_document
from proxy.oauth.response import Outcome
from proxy.secret import FixedSecret, Secret
from proxy.tokens.access_token import CredentialName, TokenState
from tests.admin.facts import FRESH, ORDERS, WITHOUT_TOKEN, Facts

CANARY = "c4n4ry-s3cr3t"


def document(facts):
    return status_document(facts.admin_facts(), version="1.2.3", uptime_s=12.34567)


def test_a_gateway_at_work():
    """Everything an operator asks first."""
    assert document(Facts()) == {
        "version": "1.2.3",
        "uptime_s": 12.346,
        "ready": True,
        "draining": False,
        "outage_budget_s": 2990.0,
        "credential_states": {"none": 0, "fresh": 1, "due": 0, "held": 0, "expired": 0},
        "credentials": [
            {
                "name": "orders",
                "state": "fresh",
                "required": True,
                "ready": True,
                "shares_token_with": None,
                "lifetime_s": 3600.0,
                "obtained_ago_s": 600.0,
                "usable_for_s": 2990.0,
                "expires_at": "2023-11-14T23:03:20Z",
                "next_refresh_at": "2023-11-14T22:51:20Z",
                "next_try_in_s": 2280.5,
                "scopes_missing": [],
                "client_secret_in_use": None,
                "consecutive_failures": 0,
                "last_error": None,
            }
        ],
        "routes": [
            {
                "name": "orders",
                "match": {"host": "shop.example", "path_prefix": "/orders", "methods": ["GET", "POST"]},
                "upstream": "https://api.example",
                "credential": "orders",
            },
            {"name": "open", "match": {"path_exact": "/open"}, "upstream": "http://[::1]:8081", "credential": "none"},
        ],
    }


def test_a_credential_that_fails():
    """The class of the last error is shown, not its words: those may quote what was sent."""
    failing = replace(
        WITHOUT_TOKEN,
        last_outcome=Outcome.INVALID_CLIENT,
        last_error=f"the authorization server says {CANARY}",
        consecutive_failures=3,
        scope=CANARY,
    )
    text = json.dumps(document(Facts(tokens=[failing], draining=True)))
    shown = json.loads(text)
    assert shown["credentials"][0]["last_error"] == "invalid_client"
    assert shown["credentials"][0]["consecutive_failures"] == 3
    assert (shown["ready"], shown["draining"], shown["outage_budget_s"]) == (False, True, 0.0)
    assert CANARY not in text


def test_secrets_in_a_route():
    """Values of set fields, the upstream's path and key files are not shown."""
    route = replace(
        ORDERS, set_request_headers=((b"X-Key", FixedSecret(Secret(CANARY))),), base_path=b"/" + CANARY.encode()
    )
    assert CANARY not in json.dumps(document(Facts(routes=[route])))


def test_a_token_without_an_end():
    """Infinite life is null: JSON has no word for it."""
    static = replace(
        FRESH,
        lifetime_s=math.inf,
        usable_for_s=math.inf,
        expires_at_wall_s=math.inf,
        next_refresh_at_wall_s=None,
        next_try_in_s=None,
    )
    text = json.dumps(document(Facts(tokens=[static])), allow_nan=False)
    shown = json.loads(text)["credentials"][0]
    assert (shown["usable_for_s"], shown["expires_at"], shown["next_refresh_at"]) == (None, None, None)


def test_credentials_that_share_a_token():
    """The one that asks for it is named; states are counted."""
    second = replace(FRESH, name=CredentialName("second"), shares_with=CredentialName("orders"))
    third = replace(FRESH, name=CredentialName("third"), state=TokenState.HELD)
    shown = document(Facts(tokens=[FRESH, second, third]))
    assert shown["credentials"][1]["shares_token_with"] == "orders"
    assert shown["credential_states"]["fresh"] == 2
    assert shown["credential_states"]["held"] == 1
