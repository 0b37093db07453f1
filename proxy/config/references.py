"""`${NAME}` in values: what the environment and `./.env` give for them.

``${NAME}`` is the variable's value, ``${NAME:-default}`` the default if the variable is unset or empty, ``$${`` a literal
``${``; any other ``$`` is itself. A variable's value is taken as it is: no reference in it is followed, and it never
becomes a key, a list or a mapping. A value that is nothing but ``${NAME:-}``, and comes out empty, counts as if its key
had not been written: one file then serves with and without the variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from proxy.config.faults import ConfigurationFaults, Findings, KeyPath, Place
from proxy.config.tree import Entry, FaultyNode, ListNode, MappingNode, Node, ScalarNode
from proxy.units import KIB

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?:({_NAME})(?::-([^}}]*))?\}})?")
_OPTIONAL_ONLY = re.compile(rf"\$\{{({_NAME}):-\}}")
_ENV_LINE = re.compile(rf"(?:export[ \t]+)?({_NAME})[ \t]*=[ \t]*(.*)")
_QUOTED = re.compile(r"""(?:"([^"]*)"|'([^']*)')(?:[ \t]+#.*)?""")
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*")
_MAX_ENV_FILE = 256 * KIB


def variables(environ: Mapping[str, str], env_file: Path | None) -> dict[str, str]:
    """Returns the variables that are set: those of the environment, then those of the file; empty ones count as unset.

    The environment wins also where it says empty: a variable of the file is switched off by it.

    Raises ConfigurationFaults for a file that cannot be read or has a line that is not NAME=value. No file is fine.
    """
    from_file = {} if env_file is None else _env_file(env_file)
    return {name: value for name, value in (from_file | dict(environ)).items() if value}


def _env_file(path: Path) -> dict[str, str]:
    """Reads plain NAME=value lines: blank lines, comments, `export `, quotes around a value; nothing is interpolated.

    A comment behind a value has white space before its `#`; a value that holds such a thing needs quotes.
    """
    findings = Findings()
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_ENV_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        findings.add(Place(name), (), f"cannot be read: {error.strerror or type(error).__name__}")
        data = b""
    values: dict[str, str] = {}
    if len(data) > _MAX_ENV_FILE:
        findings.add(Place(name), (), "is larger than 256 KiB")
        data = b""
    for number, octets in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = octets.decode("utf-8", "replace").strip()
        if not line or line.startswith("#"):
            continue
        match = _ENV_LINE.fullmatch(line)
        if match is None or "\ufffd" in line or "\0" in line:
            findings.add(Place(name, number, 1), (), "is not a line of the form NAME=value")
            continue
        value = _COMMENT.sub("", match[2])
        if match[2][:1] in {'"', "'"}:
            quoted = _QUOTED.fullmatch(match[2])
            if quoted is None:
                findings.add(Place(name, number, 1), (), "a value that begins with a quote must end with the same one")
                continue
            value = quoted[1] if quoted[1] is not None else quoted[2]
        values[match[1]] = value
    if findings.faults:
        raise ConfigurationFaults(findings.faults)
    return values


def resolve(root: MappingNode, known: Mapping[str, str], findings: Findings) -> MappingNode:
    """Returns the tree with every reference replaced, and without the top level's `x-*` keys."""
    entries = {key: entry for key, entry in root.entries.items() if not key.startswith("x-")}
    resolved = _Resolver(known, findings).node(MappingNode(entries, root.place), ())
    assert isinstance(resolved, MappingNode)
    return resolved


class _Resolver:
    def __init__(self, known: Mapping[str, str], findings: Findings) -> None:
        self._known = known
        self._findings = findings

    def node(self, node: Node, path: KeyPath) -> Node:
        match node:
            case ScalarNode():
                return self._scalar(node, path) if "${" in node.text else node
            case ListNode():
                kept = [item for item in node.items if self._absent(item) is None]
                items = tuple(self.node(item, (*path, index)) for index, item in enumerate(kept))
                return ListNode(items, node.place)
            case MappingNode():
                entries: dict[str, Entry] = {}
                omitted = dict(node.omitted)
                for key, entry in node.entries.items():
                    if (variable := self._absent(entry.value)) is not None:
                        omitted[key] = variable
                    else:
                        entries[key] = Entry(entry.place, self.node(entry.value, (*path, key)))
                return MappingNode(entries, node.place, omitted)
            case FaultyNode():
                return node

    def _absent(self, node: Node) -> str | None:
        """Returns the variable's name if the value is nothing but an optional reference that comes out empty."""
        match = _OPTIONAL_ONLY.fullmatch(node.text) if isinstance(node, ScalarNode) else None
        return match[1] if match is not None and match[1] not in self._known else None

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Node:
        used: list[str] = []
        problems: list[str] = []

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name, default = match[1], match[2]
            if name is None:
                problems.append("a reference is ${NAME} or ${NAME:-default}; $${ is a literal ${")
                return ""
            used.append(name)
            if name in self._known:
                text = self._known[name]
                if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                    problems.append(f"the environment variable {name} is not UTF-8 text")
                return text
            if default is None:
                self._findings.unset.add(name)
                subject = "" if node.place.label == name else f"the environment variable {name} "
                problems.append(f"{subject}is not set, or is empty")
                return ""
            return str(default)

        text = _REFERENCE.sub(value, node.text)
        for problem in dict.fromkeys(problems):
            self._findings.add(node.place, path, problem)
        if problems:
            return FaultyNode(node.place)
        return ScalarNode(text, node.place, tuple(dict.fromkeys(used)))
