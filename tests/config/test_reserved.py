"""What is promised and does not work yet is refused by name, and everything else in the file is still told."""

import pytest

from proxy.config.reserved import NOT_SUPPORTED, RESERVED_KEYS, RESERVED_VALUES
from proxy.config.schema import json_schema
from proxy.config.validate import _keys_at
from tests.config.written import MINIMAL, faults, with_credential


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token_store: redis\n" + MINIMAL, "1:1: token_store: not supported yet; tokens are kept in memory"),
        ("workers: 4\n" + MINIMAL, "1:10: workers: not supported yet; one process serves"),
        ("workers: auto\n" + MINIMAL, "1:10: workers: not supported yet; one process serves"),
        (with_credential("grant_type: jwt_bearer"), "6:17: credentials.orders.grant_type: not supported yet; use client_credentials or static"),
        (MINIMAL.replace("https://api.example/v1", "[a, b]"), "9:5: routes[0].upstream: not supported yet; give one URL"),
    ],
)  # fmt: skip
def test_what_does_not_work_yet(text, expected):
    """One fault, at the key or at the value, and no follow-up about the same thing."""
    assert faults(text) == [expected]


def test_a_credential_of_another_grant():
    """Its other keys have another meaning, so nothing is said of what it lacks."""
    text = MINIMAL.replace("routes:", "  user: {grant_type: refresh_token, refresh_token_file: /x}\nroutes:")
    assert faults(text) == ["6:22: credentials.user.grant_type: not supported yet; use client_credentials or static"]


def test_one_worker():
    """Is what there is."""
    assert faults("workers: 1\n" + MINIMAL) == []


def test_a_word_that_means_nothing():
    """Is not promised: it is a mistake like any other."""
    assert faults(with_credential("grant_type: client_credential")) == [
        '6:17: credentials.orders.grant_type: expected one of: client_credentials, static (did you mean "client_credentials"?)'
    ]


def test_reserved_keys_are_not_in_the_schema():
    """A key that starts to work leaves this table and enters the schema, in one change."""
    places = {"*": "name"}
    for reserved in RESERVED_KEYS:
        path = tuple(
            0 if step == "*" and "routes" in reserved.path else places.get(step, step) for step in reserved.path
        )
        assert path[-1] not in _keys_at(path[:-1]), reserved
    assert "not supported" not in str(json_schema()["$defs"])
    assert NOT_SUPPORTED == "not supported yet"


def test_reserved_values_belong_to_keys_that_work():
    """Else the key itself would have to be reserved."""
    for reserved in RESERVED_VALUES:
        path = tuple(0 if step == "*" and "routes" in reserved.path else step for step in reserved.path)
        assert path[-1] in _keys_at(path[:-1]), reserved
