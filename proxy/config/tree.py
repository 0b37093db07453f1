"""A configuration as it was written: mappings, lists and scalars, each with its place. No types, no meaning.

A scalar is the text that was written, whatever YAML would make of it (`00123`, `no`): the schema gives it its type.
Nodes are shared where the file has aliases, and never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.config.faults import KeyPath, Place


@dataclass(frozen=True, slots=True, eq=False)
class ScalarNode:
    """One value as text."""

    text: str = field(repr=False)
    place: Place
    variables: tuple[str, ...] = ()  # the names of the variables that the text was made from


@dataclass(frozen=True, slots=True, eq=False)
class ListNode:
    """Values in order."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class MappingNode:
    """Values by key, in the order in which they were written."""

    entries: dict[str, Entry]
    place: Place
    omitted: Mapping[str, str] = field(default_factory=dict)  # keys that count as not written, and the variable why


@dataclass(frozen=True, slots=True, eq=False)
class FaultyNode:
    """A value about which a fault is already recorded; it takes part in no further check."""

    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One key of a mapping: where the key stands, and its value."""

    place: Place
    value: Node


Node = ScalarNode | ListNode | MappingNode | FaultyNode


class Unusable:
    """What a faulty value looks like to the schema: of no type, so that nothing is built from it."""

    def __repr__(self) -> str:
        return "Unusable()"


_UNUSABLE = Unusable()


def plain(node: Node) -> Any:
    """Returns the node as `dict`, `list` and `str`; aliases are written out."""
    match node:
        case ScalarNode():
            return node.text
        case ListNode():
            return [plain(item) for item in node.items]
        case MappingNode():
            return {key: plain(entry.value) for key, entry in node.entries.items()}
        case FaultyNode():
            return _UNUSABLE


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a path, or as near to it as the file goes."""

    path: KeyPath  # the part of the path that exists
    node: Node
    key_place: Place  # of the key that holds the node; the node's own place in a list and at the top

    @property
    def value_place(self) -> Place:
        """Where to point for a wrong value: a scalar itself, else the key that holds it."""
        return self.node.place if isinstance(self.node, ScalarNode) else self.key_place


def find(root: Node, path: KeyPath) -> Found:
    """Follows a path as far as it exists."""
    node, key_place = root, root.place
    for position, step in enumerate(path):
        if isinstance(node, MappingNode) and isinstance(step, str) and step in node.entries:
            entry = node.entries[step]
            node, key_place = entry.value, entry.place
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            key_place = node.place
        else:
            return Found(path[:position], node, key_place)
    return Found(path, node, key_place)


def paths(node: Node, pattern: KeyPath, before: KeyPath = ()) -> Iterator[KeyPath]:
    """Yields every path in the tree that the pattern means; `*` in it is any key, or any place in a list."""
    if not pattern:
        yield before
        return
    step, rest = pattern[0], pattern[1:]
    if isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            if step in ("*", key):
                yield from paths(entry.value, rest, (*before, key))
    elif isinstance(node, ListNode) and step == "*":
        for index, item in enumerate(node.items):
            yield from paths(item, rest, (*before, index))


def replaced(root: MappingNode, key: str, value: Node) -> MappingNode:
    """Returns the mapping with this key set, where the value says it stands."""
    return MappingNode({**root.entries, key: Entry(value.place, value)}, root.place, root.omitted)
