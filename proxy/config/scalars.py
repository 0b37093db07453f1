"""How the text of a value becomes a value: numbers, durations, sizes, names, booleans, files; and what an editor is told.

``Written`` pairs a parser with its JSON Schema. A parser takes the text as it was written and raises ValueError with a
fixed text: no message here holds what was written, because it may be a secret in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from proxy.config.faults import suggestion
from proxy.secret import Secret
from proxy.units import parse_duration, parse_size

_N = TypeVar("_N", int, float)
NAME_PATTERN = r"[a-z][a-z0-9_.-]{0,62}"
REFERENCE_PATTERN = r"\$\{"  # an editor cannot know what a variable holds, so it admits any text with a reference
_WHOLE = re.compile(r"[0-9]{1,12}")
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_NAME = re.compile(NAME_PATTERN)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, eq=False)  # by identity: before Python 3.12, annotations must be hashable
class Written:
    """How one kind of value is written."""

    parse: Callable[[str], Any]
    json_schema: Mapping[str, Any]
    expected: str  # said of a list or a mapping in its place

    def _validate(self, value: object) -> Any:
        if value is None:  # a default; nothing that is written becomes None
            return None
        if not isinstance(value, str):
            raise ValueError(f"expected {self.expected}")  # noqa: TRY004  # pydantic takes ValueError for a fault
        if not value:
            raise ValueError("is empty; leave the key out or give it a value")
        return self.parse(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Replaces what the annotated type would do."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Gives what an editor checks."""
        return dict(self.json_schema)


def patterned(pattern: str, **more: Any) -> dict[str, Any]:
    """Returns the JSON Schema of a text that matches the whole pattern or holds a reference."""
    return {"type": "string", "pattern": f"^(?:{pattern})$|{REFERENCE_PATTERN}", **more}


def one_of(words: tuple[str, ...]) -> dict[str, Any]:
    """Returns the JSON Schema of one word out of several."""
    return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": REFERENCE_PATTERN}]}


# --- texts -----------------------------------------------------------------------------------------------------------


def text(value: str) -> str:
    """Returns a text of one line."""
    if _CONTROL.search(value) is not None:
        raise ValueError("holds a control character, such as a line break or a tab")
    return value


def name(value: str) -> str:
    """Returns the name of a route or a credential."""
    if _NAME.fullmatch(value) is None:
        raise ValueError("a name begins with a-z and goes on with a-z, 0-9, '_', '.' or '-', 63 characters at most")
    if value == "none":
        raise ValueError("`none` is not a name: it stands for no credential")
    return value


def file_path(value: str) -> Path:
    """Returns a file's path."""
    if "\0" in value:
        raise ValueError("is not a path")
    return Path(value)


def boolean(value: str) -> bool:
    """Returns `true` or `false`, as YAML 1.2 writes them."""
    if value not in {"true", "false"}:
        raise ValueError("expected true or false")
    return value == "true"


Text = Annotated[str, Written(text, {"type": ["string", "number", "boolean"]}, "a text")]
Name = Annotated[str, Written(name, {"type": "string", "pattern": f"^{NAME_PATTERN}$"}, "a name")]
FilePath = Annotated[Path, Written(file_path, {"type": "string", "minLength": 1}, "a file's path")]
Boolean = Annotated[bool, Written(boolean, {"anyOf": [{"type": "boolean"}, patterned("true|false")]}, "true or false")]
SecretText = Annotated[Secret, Written(Secret, {"type": ["string", "number", "boolean"]}, "a text")]


def words(*known: str) -> Written:
    """Returns how one word out of several is written."""

    def parse(value: str) -> str:
        if value not in known:
            expected = known[0] if len(known) == 1 else f"one of: {', '.join(known)}"
            raise ValueError(f"expected {expected}{suggestion(value, known)}")
        return value

    return Written(parse, one_of(known), "a word")


# --- numbers ---------------------------------------------------------------------------------------------------------


def count(minimum: int, maximum: int) -> Written:
    """Returns how a whole number between the two is written."""

    def parse(value: str) -> int:
        if _WHOLE.fullmatch(value) is None:
            raise ValueError("expected a whole number")
        return _between(int(value), minimum, maximum, str(minimum), str(maximum))

    schema = {"anyOf": [{"type": "integer", "minimum": minimum, "maximum": maximum}, patterned("[0-9]{1,12}")]}
    return Written(parse, schema, "a whole number")


def number(minimum: float, maximum: float, *, above: bool = False) -> Written:
    """Returns how a decimal number between the two is written; `above` leaves the minimum itself out."""

    def parse(value: str) -> float:
        if _DECIMAL.fullmatch(value) is None:
            raise ValueError("expected a number")
        result = float(value)
        if above and result <= minimum:
            raise ValueError(f"must be above {minimum:g}")
        return _between(result, minimum, maximum, f"{minimum:g}", f"{maximum:g}")

    low = "exclusiveMinimum" if above else "minimum"
    schema = {"anyOf": [{"type": "number", low: minimum, "maximum": maximum}, patterned(r"[0-9]+(?:\.[0-9]+)?")]}
    return Written(parse, schema, "a number")


def duration(minimum: str, maximum: str, *, zero: bool = False) -> Written:
    """Returns how seconds between the two are written; `zero` admits 0 beside them."""
    low, high = parse_duration(minimum), parse_duration(maximum)

    def parse(value: str) -> float:
        result = parse_duration(value)
        return result if zero and result == 0 else _between(result, low, high, minimum, maximum)

    choices: list[dict[str, Any]] = [patterned(r"0|[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|s|m|h)")]
    if zero or low == 0:
        choices.append({"const": 0})
    return Written(parse, {"anyOf": choices}, "a duration: 100ms, 30s, 5m, 1h")


def size(minimum: str, maximum: str, *, zero: bool = False) -> Written:
    """Returns how octets between the two are written; `zero` admits 0 beside them."""
    low, high = parse_size(minimum), parse_size(maximum)

    def parse(value: str) -> int:
        result = parse_size(value)
        return result if zero and result == 0 else _between(result, low, high, minimum, maximum)

    choices = [patterned("[0-9]{1,15}(?:KiB|MiB|GiB|B)?"), {"type": "integer", "minimum": 0}]
    return Written(parse, {"anyOf": choices}, "a size: 512B, 64KiB, 1MiB")


def _between(value: _N, minimum: float, maximum: float, low: str, high: str) -> _N:
    if not minimum <= value <= maximum:
        raise ValueError(f"must be between {low} and {high}")
    return value


# --- lists -----------------------------------------------------------------------------------------------------------


def _from_commas(value: object) -> object:
    """Reads one text as a list with commas between; a list is left as it is, and the schema refuses the rest."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


CommaList = BeforeValidator(_from_commas)
"""Lets a list be written as one text, `a, b`, as a variable has to."""


def comma_list(item: Mapping[str, Any]) -> WithJsonSchema:
    """Returns the JSON Schema of a list that may be written as one text."""
    return WithJsonSchema({"anyOf": [{"type": "array", "items": dict(item)}, {"type": "string"}]})


def _one_as_list(value: object) -> object:
    """Reads one text as a list of one."""
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(_one_as_list)
"""Lets a list of one be written as its only member."""


def one_or_more(item: Mapping[str, Any], *, most: int) -> WithJsonSchema:
    """Returns the JSON Schema of a list that may be written as its only member."""
    listed = {"type": "array", "items": dict(item), "minItems": 1, "maxItems": most}
    return WithJsonSchema({"anyOf": [dict(item), listed]})
