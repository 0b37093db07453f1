"""Whatever stands in a file: it loads, or there are faults with a place. Nothing else comes out."""

import string

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.faults import ConfigurationFaults
from proxy.config.load import load
from proxy.config.schema import json_schema
from tests.config.test_snapshot import FULL

CANARY = "c4n4ry"
SCHEMA = json_schema()
KEYS = sorted({key for part in [SCHEMA, *SCHEMA["$defs"].values()] for key in part.get("properties", {})})
COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def outcome(tmp_path):
    path = tmp_path / "fuzzed.yaml"

    def of(data: bytes) -> list[str]:
        path.write_bytes(data)
        told: ConfigurationFaults | None = None
        try:
            load(path, environ={"SECRET": CANARY}, use_env_file=False, check_files=False)
        except ConfigurationFaults as error:
            told = error
        if told is None:
            return []
        assert told.faults
        assert all(fault.line >= 1 and fault.column >= 1 and "\n" not in str(fault) for fault in told.faults)
        assert CANARY not in str(told)
        return [str(fault) for fault in told.faults]

    return of


scalars = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["0", "1", "true", "5s", "64KiB", "/a", "https://a.example", "none", "a", "${SECRET}", "${NO:-}", "*", "::1", "10.0.0.0/8"]),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*KEYS, "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@COMMON
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_any_octets(outcome, data):
    """Are not a configuration, and said so."""
    outcome(data)


@COMMON
@given(text=st.text(alphabet=" \n\t-:?[]{},&*!|>'\"%@`#<~$" + string.ascii_letters[:4], max_size=80))
def test_signs_that_mean_something_to_yaml(outcome, text):
    """In any order."""
    outcome(text.encode())


@COMMON
@given(document=st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_known_keys_with_any_values(outcome, document):
    """At any level, of any kind."""
    outcome(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))


@COMMON
@given(data=st.data())
def test_a_right_configuration_with_one_value_changed(outcome, data):
    """However wrong the value, the rest is still looked at, and a fault points into the file."""
    document = yaml.load(FULL, Loader=yaml.BaseLoader)
    node = document
    while True:
        choices = list(node) if isinstance(node, dict) else list(range(len(node)))
        step = data.draw(st.sampled_from(choices))
        if not isinstance(node[step], (dict, list)) or not node[step] or data.draw(st.integers(0, 3)) == 0:
            break
        node = node[step]
    node[step] = data.draw(values)
    found = outcome(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
    assert len(found) < 200


@COMMON
@given(data=st.data())
def test_a_right_configuration_with_some_text_changed(outcome, data):
    """As a slip of the hand does it: characters lost, doubled or mistyped."""
    text = FULL
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.text(alphabet=" \n:-{}[]'\"&*!$#,a1", max_size=4)) + text[end:]
    outcome(text.encode())


@COMMON
@given(end=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_any_secret_of_the_environment(tmp_path, end):
    """Arrives as it is, and shows nowhere."""
    secret = CANARY + end
    path = tmp_path / "proxy.yaml"
    path.write_text(
        "credentials: {a: {token_endpoint: 'https://a.example', client_id: a, client_secret: '${SECRET}'}}\n"
        "routes: [{name: r, match: {path_prefix: /}, upstream: 'https://b.example', credential: a}]\n"
    )
    loaded = load(path, environ={"SECRET": secret}, use_env_file=False)
    assert loaded.settings.credentials[0].registration.client_secret.read().reveal() == secret
    assert CANARY not in repr(loaded) + "".join(map(str, loaded.warnings()))
