"""Keys and values that have a promised meaning but do not work yet: refused as "not supported yet", never ignored.

Two tables, and nothing else to change when a feature lands: delete its lines here, add its keys to the schema. In a path
`*` stands for any key or any place in a list.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.faults import Findings, KeyPath
from proxy.config.tree import Entry, FaultyNode, ListNode, MappingNode, Node, ScalarNode, find, paths

NOT_SUPPORTED = "not supported yet"


@dataclass(frozen=True, slots=True)
class ReservedKey:
    """A key that may not be given at all; `instead` says what works today."""

    path: KeyPath
    instead: str = ""


@dataclass(frozen=True, slots=True)
class ReservedValue:
    """A key of which some values do not work yet: the words named, every word but one, or a list."""

    path: KeyPath
    words: frozenset[str] = frozenset()
    all_but: str | None = None
    lists: bool = False
    whole: bool = False  # nothing else is said of the section that holds it: its other keys have another meaning then
    instead: str = ""

    def applies(self, node: Node) -> bool:
        """Tells whether the value is one of those."""
        if isinstance(node, ScalarNode):
            return node.text in self.words or (self.all_but is not None and node.text != self.all_but)
        return isinstance(node, ListNode) and self.lists


_CREDENTIAL = ("credentials", "*")
_ROUTE = ("routes", "*")

RESERVED_KEYS: tuple[ReservedKey, ...] = (ReservedKey(("token_store",), "tokens are kept in memory"),)

RESERVED_VALUES: tuple[ReservedValue, ...] = (
    ReservedValue(("workers",), all_but="1", lists=True, instead="one process serves"),
    ReservedValue(
        (*_CREDENTIAL, "grant_type"),
        words=frozenset({"jwt_bearer", "token_exchange", "refresh_token", "password"}),
        whole=True,
        instead="use client_credentials or static",
    ),
    ReservedValue((*_ROUTE, "upstream"), lists=True, instead="give one URL"),
)


def refuse(root: MappingNode, findings: Findings) -> MappingNode:
    """Records a fault for each reserved key and value in the tree, and returns the tree without them."""
    node: Node = root
    for key in RESERVED_KEYS:
        for path in list(paths(root, key.path)):
            findings.add(find(root, path).key_place, path, _message(key.instead))
            node = _changed(node, path, None)
    for value in RESERVED_VALUES:
        for path in list(paths(root, value.path)):
            found = find(root, path)
            if value.applies(found.node):
                findings.add(found.value_place, path, _message(value.instead))
                node = _changed(node, path, FaultyNode(found.node.place))
                if value.whole:
                    findings.spoil(path[:-1])
    assert isinstance(node, MappingNode)
    return node


def _message(instead: str) -> str:
    return f"{NOT_SUPPORTED}; {instead}" if instead else NOT_SUPPORTED


def _changed(node: Node, path: KeyPath, value: Node | None) -> Node:
    """Returns the tree with the node at the path replaced, or taken out if the value is None."""
    step, rest = path[0], path[1:]
    if isinstance(node, MappingNode) and isinstance(step, str) and step in node.entries:
        entries = dict(node.entries)
        if rest:
            entries[step] = Entry(entries[step].place, _changed(entries[step].value, rest, value))
        elif value is None:
            del entries[step]
        else:
            entries[step] = Entry(entries[step].place, value)
        return MappingNode(entries, node.place, node.omitted)
    if isinstance(node, ListNode) and isinstance(step, int):
        items = list(node.items)
        items[step] = _changed(items[step], rest, value) if rest else value or items[step]
        return ListNode(tuple(items), node.place)
    return node
