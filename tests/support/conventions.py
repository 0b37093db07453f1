"""Checks of the code's conventions: each takes source text and returns what breaks the rule, so that it can be tried.

A module is known by its parts below the package: ``proxy/http1/wire.py`` is ``("http1", "wire")``. Nothing here reads
files or imports the package; ``tests/test_conventions.py`` does.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import sys
import tokenize
import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from proxy.secret import FixedSecret, Secret

MAX_LINES = 400

# Who may import whom: a member of one row imports rows below its own, and its own package.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"demo"},
    {"process"},
    {"config"},
    {"admin", "gateway"},
    {"routing"},
    {"upstream", "tokens"},
    {"oauth", "http1"},
)
_LEAF = len(LEVELS)  # below them all: modules at the top of the package; the standard library only, and each other

IMPURE = frozenset({"asyncio", "aiohttp", "socket", "time", "random", "prometheus_client", "uvloop", "ssl", "secrets"})

_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_SECRET_NAME = re.compile(r"(secret|token|password|passphrase|field_value|assertion|key)s?$|^authorization$")
_REVEALING = re.compile(r"\b(str|bytes|bytearray|Any|object)\b")

Module = tuple[str, ...]


def upward_imports(module: Module, source: str, leaves: Collection[str]) -> list[str]:
    """Returns the imports that point upwards or sideways, and a leaf's imports from outside the standard library."""
    level = _level(module[0], leaves)
    if level is None:
        return [f"{'.'.join(module)} has no place in the order of imports"]
    faults = []
    for name in imported(source):
        parts = name.split(".")
        if parts[0] == "proxy":
            target = parts[1] if len(parts) > 1 else ""
            other = _LEAF if target in {"", "__version__"} else _level(target, leaves)
            same = target == module[0]
            if other is None or not (same or other > level or other == level == _LEAF):
                faults.append(f"{'.'.join(module)} imports {name}")
        elif level == _LEAF and parts[0] not in sys.stdlib_module_names:
            faults.append(f"{'.'.join(module)} is a leaf and imports {name}")
    return faults


def _level(name: str, leaves: Collection[str]) -> int | None:
    """Returns the row of a sub-package or module at the top, counted from above; None for one that has no place."""
    for number, row in enumerate(LEVELS):
        if name in row:
            return number
    return _LEAF if name in leaves else None


def imported(source: str) -> Iterator[str]:
    """Yields the full name of everything imported, wherever the statement stands; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "proxy." if node.level else ""  # relative imports are not used; one is read from the package's top
            yield from (f"{start}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names)


def impure_imports(source: str) -> list[str]:
    """Returns the imports that a pure module may not have."""
    return [name for name in imported(source) if name.split(".")[0] in IMPURE]


def foreign_imports(source: str) -> set[str]:
    """Returns the top-level names imported from neither the standard library nor this repository."""
    return {name.split(".")[0] for name in imported(source)} - sys.stdlib_module_names - {"proxy", "tests"}


def calls(source: str, *names: str) -> list[str]:
    """Returns the calls of functions with one of these names, as `name` or `something.name`, each with its line."""
    return [
        f"line {node.lineno}: {ast.unparse(node.func)}()"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in names)
            or (isinstance(node.func, ast.Attribute) and node.func.attr in names)
        )
    ]


def unfinished(source: str) -> list[str]:
    """Returns the comments that put work off."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        f"line {token.start[0]}: {token.string}"
        for token in tokens
        if token.type == tokenize.COMMENT and _UNFINISHED.search(token.string)
    ]


def numbered_tests(sources: Iterable[str], letter: str) -> dict[int, list[str]]:
    """Returns the tests whose name carries a number, as `test_t12_a_name` does with the letter `t`, by that number."""
    found: dict[int, list[str]] = {}
    pattern = re.compile(rf"test_{letter}(\d+)_\w+")
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (match := pattern.fullmatch(node.name)):
                found.setdefault(int(match[1]), []).append(node.name)
    return found


def too_long(source: str) -> bool:
    """Tells whether a module has outgrown one noun."""
    return len(source.splitlines()) > MAX_LINES


def shown_secrets(cls: type[Any]) -> list[str]:
    """Returns the fields of a dataclass or a pydantic model whose secret stands in the repr of an instance.

    An instance is made without its constructor. Fields that hold a secret by their type get one; fields that hold one by
    their name, and are text or octets, get the text itself.
    """
    annotations = _annotations(cls)
    return [
        f"{cls.__module__}.{cls.__qualname__}.{name}"
        for name, annotation in annotations.items()
        if (planted := _canary(name, annotation)) is not None and _shows(cls, annotations, name, planted)
    ]


_CANARY = "kanarienvogel"


def _annotations(cls: type[Any]) -> dict[str, str]:
    if dataclasses.is_dataclass(cls):
        return {field.name: _text(field.type) for field in dataclasses.fields(cls)}
    return {name: _text(field.annotation) for name, field in getattr(cls, "model_fields", {}).items()}


def _text(annotation: object) -> str:
    """Returns an annotation as it was written: its text, the name of a class, or the repr of a generic type."""
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else repr(annotation)


def _canary(name: str, annotation: str) -> object:
    """Returns the secret to plant in a field, or None where the field holds none."""
    if "SecretSource" in annotation or "FixedSecret" in annotation:
        return FixedSecret(Secret(_CANARY))
    if re.search(r"\bSecret\b", annotation):
        return Secret(_CANARY)
    if _SECRET_NAME.search(name) and _REVEALING.search(annotation):
        return _CANARY.encode() if "bytes" in annotation else _CANARY
    return None


def _shows(cls: type[Any], names: typing.Iterable[str], planted_in: str, planted: object) -> bool:
    values = {name: planted if name == planted_in else None for name in names}
    if dataclasses.is_dataclass(cls):
        instance = cls.__new__(cls)
        for name, value in values.items():
            object.__setattr__(instance, name, value)
    else:
        instance = cls.model_construct(**values)
    return _CANARY in repr(instance) or _CANARY in str(instance)
