"""How a log record becomes one line: JSON for machines, text for people.

One record is one line of printable characters, whatever its values hold: a peer's bytes can neither start a second line
nor drive a terminal. Every value is bounded. An exception shows its type and its frames, never its text and never its
locals, because both may quote what a peer sent or hold a token. Secrets show ``***``, by their type and by the names
fields are known to carry them under.

Nothing here writes or waits; ``proxy/log.py`` is the caller.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol

from proxy.secret import Secret
from proxy.units import KIB

MAX_VALUE = 1 * KIB  # characters of one value; for bytes also octets
MAX_MESSAGE = 2 * KIB  # characters
MAX_FIELDS = 64
MAX_MEMBERS = 32  # of one list or mapping
MAX_FRAMES = 24  # the innermost ones
MAX_CAUSES = 5
_REDACTED = "***"
_CUT = "…"

# Names under which a secret travels; their values are hidden even where a caller forgot to.
SECRET_NAMES = frozenset(
    {
        "authorization", "proxy_authorization", "cookie", "set_cookie", "access_token", "refresh_token", "id_token",
        "client_secret", "client_assertion", "assertion", "password", "private_key",
    }
)  # fmt: skip
_OWN_NAMES = frozenset({"ts", "level", "logger", "message", "exception", "causes", "frames"})

# Controls (C0, DEL, C1), line and paragraph separators, bidi controls and other invisible format characters, tags,
# lone surrogates: everything that moves a cursor, reorders or hides text, or cannot be encoded.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e0fff]|\\\\"
)
_NEEDS_QUOTES = re.compile('["=\\\\\\s]')
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
_encode_json = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None


class Lines(Protocol):
    """Turns what was logged into lines without a line end."""

    def line(
        self,
        created_s: float,
        level: int,
        logger: str,
        message: str,
        *,
        fields: Mapping[str, object],
        info: ExceptionInfo = None,
    ) -> str:
        """Returns the line; raises whatever a field's own `__str__` raises. `created_s`: seconds, wall clock."""


def escape(text: str) -> str:
    r"""Returns the text with everything unprintable as ``\n``, ``\x1b``, ``\u2028``; a backslash is doubled."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return _UNSAFE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    character = match[0]
    if (short := _SHORT_ESCAPES.get(character)) is not None:
        return short
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain(value: object, depth: int = 0) -> Plain:
    """Returns the value as what a line can hold: secrets hidden, texts cut, exceptions by type, containers bounded."""
    kind = type(value)
    if kind is str:
        return _cut(value)  # type: ignore[arg-type]
    if value is None or kind is bool or kind is int:
        return value  # type: ignore[return-value]
    if kind is float:
        return round(value, 6) if math.isfinite(value) else str(value)  # type: ignore[arg-type,call-overload]
    if isinstance(value, Secret):
        return _REDACTED
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value[: MAX_VALUE + 1]).decode("latin-1"))
    if isinstance(value, BaseException):
        return type_name(type(value))
    if isinstance(value, Enum):
        return plain(value.value if isinstance(value, str | int) else value.name, depth)
    if isinstance(value, str):
        return _cut(str.__str__(value))
    if depth < 2:
        if isinstance(value, Mapping):
            return {
                _cut(str(name)): _REDACTED if _is_secret(str(name)) else plain(member, depth + 1)
                for name, member in islice(value.items(), MAX_MEMBERS)
            }
        if isinstance(value, list | tuple | set | frozenset | deque):
            return [plain(member, depth + 1) for member in islice(value, MAX_MEMBERS)]
    return _cut(str(value))


def _is_secret(name: str) -> bool:
    return name.lower().replace("-", "_") in SECRET_NAMES


def _cut(text: str, limit: int = MAX_VALUE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + _CUT


def type_name(kind: type[BaseException]) -> str:
    """Returns `ValueError`, or with its module `ssl.SSLError`; a class name is code, never input."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def exception_fields(info: ExceptionInfo) -> dict[str, Plain]:
    """Returns type, causes and frames of an exception, and nothing of its text or locals."""
    if info is None or info[1] is None:
        return {}
    fields: dict[str, Plain] = {"exception": type_name(type(info[1]))}
    if causes := list(_causes(info[1])):
        fields["causes"] = [*causes]
    if frames := _frames(info[2]):
        fields["frames"] = frames
    return fields


def _causes(error: BaseException) -> Iterable[str]:
    """Yields the types of a group's members, or of the chain of causes, at most MAX_CAUSES."""
    if isinstance(error, BaseExceptionGroup):
        yield from (type_name(type(member)) for member in error.exceptions[:MAX_CAUSES])
        return
    for _ in range(MAX_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return
        yield type_name(type(cause))
        error = cause


def _frames(traceback: TracebackType | None) -> list[Plain]:
    """Returns `file:line function` of the innermost frames, outermost first."""
    frames: deque[Plain] = deque(maxlen=MAX_FRAMES)
    while traceback is not None:
        code = traceback.tb_frame.f_code
        # two path components tell the file; the rest is where this machine keeps its packages
        place = "/".join(Path(code.co_filename).parts[-2:])
        frames.append(_cut(f"{place}:{traceback.tb_lineno} {code.co_qualname}"))
        traceback = traceback.tb_next
    return list(frames)


class JsonLines:
    """One JSON object a line, ASCII only: ts (RFC 3339, UTC, milliseconds), level, logger, message, then the fields."""

    __slots__ = ("_names", "_second", "_second_text")

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, bool]] = {}
        self._second = -1
        self._second_text = ""

    def line(
        self,
        created_s: float,
        level: int,
        logger: str,
        message: str,
        *,
        fields: Mapping[str, object],
        info: ExceptionInfo = None,
    ) -> str:
        """Returns a JSON object; a field named like one of ours gets a trailing underscore."""
        values: dict[str, Plain] = {
            "ts": self._time(created_s),
            "level": logging.getLevelName(level).lower(),
            "logger": logger,
            "message": _cut(message, MAX_MESSAGE),
        }
        names = self._names
        for name, value in islice(fields.items(), MAX_FIELDS):
            key, secret = names.get(name) or self._name(name)
            kind = type(value)
            if secret:
                values[key] = _REDACTED
            # most values of an access line, which has a dozen of them, need no general rule
            elif kind is int or (kind is str and len(value) <= MAX_VALUE):  # type: ignore[arg-type]
                values[key] = value  # type: ignore[assignment]
            else:
                values[key] = plain(value)
        if info:
            values.update(exception_fields(info))
        line: str = _encode_json(values)
        if "\\ud" in line and not _is_text(values):
            line = _encode_json(_as_text(values))
        return line.replace("\x7f", "\\u007f") if "\x7f" in line else line

    def _name(self, name: object) -> tuple[str, bool]:
        """Returns the key to write and whether the value is a secret; remembered, as far as code has that many names."""
        text = _cut(str(name))
        entry = (f"{text}_" if text in _OWN_NAMES else text, _is_secret(text))
        if len(self._names) < 4 * MAX_FIELDS and isinstance(name, str):
            self._names[name] = entry
        return entry

    def _time(self, created_s: float) -> str:
        second = int(created_s)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._second_text}.{int((created_s - second) * 1000):03d}Z"


def _is_text(value: Plain) -> bool:
    """Tells whether the value is Unicode text all through: a lone surrogate is not, and no JSON reader must take it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _as_text(value: Plain) -> Plain:
    """Returns the value with every string that is no Unicode text escaped in words."""
    match value:
        case str():
            return value if _is_text(value) else escape(value)
        case list():
            return [_as_text(member) for member in value]
        case dict():
            return {str(_as_text(name)): _as_text(member) for name, member in value.items()}
        case _:
            return value


class TextLines:
    """`12:00:01.123 INFO message key=value`, in local time; colour by level if asked."""

    __slots__ = ("_colour", "_second", "_second_text")

    _COLOURS = ((logging.ERROR, "\x1b[31m"), (logging.WARNING, "\x1b[33m"), (logging.INFO, "\x1b[32m"), (0, "\x1b[2m"))

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._second = -1
        self._second_text = ""

    def line(
        self,
        created_s: float,
        level: int,
        logger: str,  # noqa: ARG002  # people read the message
        message: str,
        *,
        fields: Mapping[str, object],
        info: ExceptionInfo = None,
    ) -> str:
        """Returns a line for people; values with spaces, quotes or escapes stand in quotes."""
        name_of_level = logging.getLevelName(level)
        if self._colour:
            start = next(colour for least, colour in self._COLOURS if level >= least)
            name_of_level = f"{start}{name_of_level}\x1b[0m"
        parts = [self._time(created_s), name_of_level, escape(_cut(message, MAX_MESSAGE))]
        for name, value in islice(fields.items(), MAX_FIELDS):
            text = _REDACTED if _is_secret(str(name)) else _text(plain(value))
            parts.append(f"{_bare(_cut(str(name)))}={text}")
        if info:
            parts.extend(f"{name}={_text(value)}" for name, value in exception_fields(info).items())
        return " ".join(parts)

    def _time(self, created_s: float) -> str:
        second = int(created_s)
        if second != self._second:
            self._second_text = time.strftime("%H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._second_text}.{int((created_s - second) * 1000):03d}"


def _text(value: Plain) -> str:
    match value:
        case str():
            return _bare(value)
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case list():
            return _bare(", ".join(member if isinstance(member, str) else _encode_json(member) for member in value))
        case dict():
            return _bare(_encode_json(value))
        case _:
            return str(value)


def _bare(text: str) -> str:
    """Returns the text escaped, in quotes if it would otherwise not end where it ends."""
    if text.isalnum() and text.isascii():
        return text
    safe = escape(text)
    if text and _NEEDS_QUOTES.search(safe) is None:
        return safe
    return '"' + safe.replace('"', '\\"') + '"'
