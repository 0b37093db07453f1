"""A tree against the schema: pydantic's errors become faults with a place, a key path and a hint.

pydantic's own texts are used for nothing: they may quote what was written. Its error objects, which hold the input, do
not leave this module.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError

from proxy.config.faults import Findings, KeyPath, suggestion
from proxy.config.schema import Configuration, json_schema
from proxy.config.section import KEY_FAULT, Known
from proxy.config.tree import Found, MappingNode, Node, find, plain

_VALUE_ERROR = "Value error, "
_MESSAGES = {
    "missing": "is missing",
    "model_type": "expected a mapping: keys and their values",
    "model_attributes_type": "expected a mapping: keys and their values",
    "dict_type": "expected a mapping: keys and their values",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
}


def validate(root: MappingNode, findings: Findings) -> Configuration | None:
    """Returns the configuration, or None and at least one fault in `findings`."""
    known = Known(credentials=_keys(root, "credentials"), access_written=_keys(root, "access"))
    errors: list[Any]
    try:
        return Configuration.model_validate(plain(root), context=known)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False, include_url=False)
    for entry in errors:
        _record(root, entry["type"], tuple(entry["loc"]), entry["msg"], findings)
    return None


def _keys(root: MappingNode, section: str) -> frozenset[str]:
    node = find(root, (section,)).node
    return frozenset(node.entries) if isinstance(node, MappingNode) and node is not root else frozenset()


def _record(root: Node, kind: str, path: KeyPath, message: str, findings: Findings) -> None:
    of_key = path[-1] == "[key]" or kind == KEY_FAULT
    path = path[:-1] if path[-1] == "[key]" else path
    if findings.covers(path):
        return
    found = find(root, path)
    exists = found.path == path
    if kind == "missing":
        parent = find(root, path[:-1])
        findings.add(parent.key_place, path, "is missing" + _why_absent(parent, path, findings))
    elif kind == "extra_forbidden":
        findings.add(found.key_place, path, _why_unknown(str(path[-1]), _keys_at(path[:-1])))
    else:
        text = message.removeprefix(_VALUE_ERROR)
        if kind not in ("value_error", "fault", KEY_FAULT):
            text = _MESSAGES.get(kind, "is not of the expected form")
        absent = "" if exists else _why_absent(found, path, findings)
        place = found.key_place if of_key else found.value_place
        hint = "" if of_key else _from_variables(found)
        # without a file, the label names what is missing, and keys would mean nothing
        message = absent.removeprefix(": ") if absent and place.label else text + absent
        findings.add(place, found.path, message + hint, at=path)


def _why_unknown(key: str, known: list[str]) -> str:
    """Returns what is wrong with a key that its section has not; another form of the section may have it."""
    return "is not for this grant_type" if key in known else "is an unknown key" + suggestion(key, known)


def _why_absent(parent: Found, path: KeyPath, findings: Findings) -> str:
    """Returns which variables, unset, made the keys absent that would have given the value."""
    name = str(path[len(parent.path)]) if len(path) > len(parent.path) else ""
    omitted = parent.node.omitted if isinstance(parent.node, MappingNode) else {}
    names = [omitted[key] for key in (name.removesuffix("_file"), name) if key in omitted]
    names = list(dict.fromkeys(names))
    if not names:
        return ""
    findings.unset.add(" or ".join(names))
    return f": {' and '.join(names)} {'are' if len(names) > 1 else 'is'} not set, or empty"


def _from_variables(found: Found) -> str:
    """Returns which variables the faulty text was made from; their names only."""
    variables = getattr(found.node, "variables", ())
    return f" (from {', '.join(variables)})" if variables and not found.node.place.label else ""


def _keys_at(path: KeyPath) -> list[str]:
    """Returns the keys that the schema knows at a path."""
    root = _schema()
    node: dict[str, Any] = root
    for step in path:
        node = _resolved(node, root)
        if isinstance(step, int):
            node = node.get("items", {})
        else:
            others = [*node.get("patternProperties", {}).values(), node.get("additionalProperties", {})]
            node = node.get("properties", {}).get(step) or next((other for other in others if other), {})
    return list(_resolved(node, root).get("properties", {}))


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _resolved(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follows references; of several forms, returns the mappings as if they were one."""
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    choices = [
        _resolved(choice, root) for choice in node.get("anyOf", []) if "properties" in choice or "$ref" in choice
    ]
    mappings = [choice["properties"] for choice in choices if "properties" in choice]
    if not mappings or "properties" in node:
        return node
    return {"properties": {name: member for mapping in reversed(mappings) for name, member in mapping.items()}}
