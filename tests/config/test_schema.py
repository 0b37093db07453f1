"""The JSON Schema: what an editor is told is what the gateway does."""

import json
from pathlib import Path

import pytest
import yaml

from proxy.config.schema import Configuration, json_schema
from tests.config.json_schema import complaints
from tests.config.test_snapshot import FULL
from tests.config.written import MINIMAL, faults, with_credential, with_route

COMMITTED = Path(__file__).resolve().parents[2] / "config" / "proxy.schema.json"
SCHEMA = json_schema()


def editor(text: str) -> list[str]:
    return complaints(yaml.safe_load(text), SCHEMA, SCHEMA)


def test_the_committed_schema():
    """Is what `bearer-proxy schema` prints now."""
    assert COMMITTED.read_text(encoding="utf-8") == json.dumps(SCHEMA, indent=2) + "\n"


def test_the_dialect():
    """The one that editors know."""
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["patternProperties"] == {"^x-": {}}


def test_every_key_is_described():
    """For people who write by completion."""

    def undescribed(schema, path):
        for name, key in schema.get("properties", {}).items():
            target = SCHEMA["$defs"].get(key.get("$ref", "").rpartition("/")[2], {})
            if len(key.get("description") or target.get("description") or "") < 10:
                yield f"{path}.{name}"
        for name, definition in schema.get("$defs", {}).items():
            yield from undescribed(definition, name)

    assert list(undescribed(SCHEMA, "")) == []


def test_no_section_admits_unknown_keys():
    """Or a mistyped key would be found at start only."""

    def open_sections(schema):
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False and "required" not in schema:
                yield schema.get("title", "?")
            for member in schema.values():
                yield from open_sections(member)
        elif isinstance(schema, list):
            for member in schema:
                yield from open_sections(member)

    assert list(open_sections(SCHEMA)) == []


def test_every_default_and_example_is_right():
    """By the schema's own measure, and the defaults by the gateway's."""

    def wrong(schema, path=""):
        if not isinstance(schema, dict):
            return
        for name, key in schema.get("properties", {}).items():
            for value in [*key.get("examples", []), *([key["default"]] if "default" in key else [])]:
                yield from complaints(value, key, SCHEMA, f"{path}.{name}")
        for name, definition in schema.get("$defs", {}).items():
            yield from wrong(definition, name)
            for choice in definition.get("anyOf", []):
                yield from wrong(choice, name)

    assert list(wrong(SCHEMA)) == []


@pytest.mark.parametrize(
    "text",
    [MINIMAL, FULL, "x-anything: [1, {a: b}]\n" + MINIMAL, "admin: off\n" + MINIMAL, "drain_timeout: 0\n" + MINIMAL,
     "listen: ${ADDRESS}\nlimits: {connections: '${N}', head_bytes: 2048}\n" + MINIMAL,
     with_credential("required: ${REQUIRED:-true}\ntls: {min_version: 1.2}\nrefresh: {at_ratio: 1}"),
     with_route("timeouts: {total: 0}\nset_request_headers: {X-A: 1, X-B: {value: b}, X-C: {value_file: /c}}\nretries: {budget: 0.5}")],
)  # fmt: skip
def test_an_editor_is_content(text):
    """With what the gateway takes, bare numbers and references included."""
    assert editor(text) == []


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL.replace("path_prefix", "path_perfix"),
        MINIMAL.replace("/orders", "orders"),
        MINIMAL.replace("https://api", "api"),
        MINIMAL.replace("    credential: orders\n", ""),
        MINIMAL.replace("    client_secret: ${SECRET}\n", ""),
        MINIMAL.replace("  orders:", "  Orders:"),
        "verison: 1\n" + MINIMAL,
        "version: 2\n" + MINIMAL,
        "workers: 2\n" + MINIMAL,
        "listen: 8080\n" + MINIMAL,
        "drain_timeout: 20\n" + MINIMAL,
        "log: {level: loud}\n" + MINIMAL,
        with_route("timeouts: {connect: 5 minutes}"),
        with_route("strip_prefix: maybe"),
        with_route("pool: {max_connections: 0}"),
        with_route("set_request_headers: {X-A: {valeu: a}}"),
        with_route("rate_limit: {burst: 1}"),
        with_credential("tls: {verify: false}"),
        with_credential("scopes: a b"),
        with_credential("refresh: {at_ratio: 0}"),
    ],
)
def test_an_editor_complains(text):
    """Where the gateway would refuse to start."""
    assert editor(text)
    assert faults(text)


def test_keys_of_the_schema_are_keys_of_the_models():
    """Nothing was lost on the way, and nothing invented."""
    assert list(SCHEMA["properties"]) == list(Configuration.model_fields)
