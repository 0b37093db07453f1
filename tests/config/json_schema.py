"""As much of JSON Schema as the configuration's schema uses: enough to tell what an editor would."""

from __future__ import annotations

import re
from typing import Any

_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
_KNOWN = {
    "$schema", "$comment", "$defs", "$ref", "title", "description", "examples", "default", "type", "enum", "const", "anyOf",
    "allOf", "pattern", "minLength", "minItems", "maxItems", "items", "properties", "patternProperties", "additionalProperties",
    "required", "minimum", "maximum", "exclusiveMinimum", "propertyNames",
}  # fmt: skip


def complaints(value: Any, schema: dict[str, Any] | bool, root: dict[str, Any], path: str = "$") -> list[str]:
    """Returns what is wrong with a value, nothing if it is valid. Raises for a keyword that is not understood here."""
    if isinstance(schema, bool):
        return [] if schema else [f"{path}: not allowed"]
    assert set(schema) <= _KNOWN, set(schema) - _KNOWN
    found: list[str] = []
    if "$ref" in schema:
        found += complaints(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(
        isinstance(value, _TYPES[k]) and (k == "boolean" or not isinstance(value, bool)) for k in kinds
    ):
        return [*found, f"{path}: not of type {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: not one of {schema['enum']}")
    if "const" in schema and (value != schema["const"] or isinstance(value, bool) != isinstance(schema["const"], bool)):
        found.append(f"{path}: not {schema['const']}")
    for branch in schema.get("allOf", []):
        found += complaints(value, branch, root, path)
    if "anyOf" in schema and all(complaints(value, branch, root, path) for branch in schema["anyOf"]):
        found.append(f"{path}: none of the forms")
    if isinstance(value, str):
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            found.append(f"{path}: does not match {schema['pattern']}")
        if len(value) < schema.get("minLength", 0):
            found.append(f"{path}: too short")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high or value <= schema.get("exclusiveMinimum", value - 1):
            found.append(f"{path}: out of range")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{path}: too few")
        if len(value) > schema.get("maxItems", len(value)):
            found.append(f"{path}: too many")
        for index, item in enumerate(value):
            found += complaints(item, schema.get("items", True), root, f"{path}[{index}]")
    if isinstance(value, dict):
        found += [f"{path}: {name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            branches = [schema["properties"][name]] if name in schema.get("properties", {}) else []
            branches += [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
            for branch in branches or [schema.get("additionalProperties", True)]:
                found += complaints(item, branch, root, f"{path}.{name}")
    return found
