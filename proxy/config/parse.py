"""YAML text to a tree with places. Nothing is constructed: the events of the safe loader are all that is used of it.

Stricter than YAML: one document, a mapping at the top; no tags (merge `<<` is the only one), no duplicate keys, keys are
scalars. Aliases are shared, not copied, and what they would grow to is counted, so that an alias bomb is refused before
it costs anything.

Source: YAML 1.1 and 1.2.2; the merge key of the YAML 1.1 type repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from proxy.config.faults import ConfigurationFaults, Findings, KeyPath, Place
from proxy.config.tree import Entry, FaultyNode, ListNode, MappingNode, Node, ScalarNode
from proxy.units import MIB

MAX_BYTES = 1 * MIB
MAX_NODES = 100_000  # with every alias written out
MAX_DEPTH = 32

_QUOTED = re.compile(r"""[ ]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_HARMLESS = re.compile(r"[ ]?'(?:<[a-z -]+>|[^A-Za-z0-9\s])'")  # a kind of token, or one sign
_NOTHING_FOUND = re.compile(r",? but (?:found|got)$")
_SURROGATE = re.compile("[\ud800-\udfff]")
_QUOTES_HINT = (
    " (quotes are needed by a text that begins with one of * & ! % @ ` or holds ': ' or ' #', "
    "and by ${NAME} between brackets)"
)


def read(path: Path) -> bytes:
    """Returns the file's octets. Raises ConfigurationFaults if it cannot be read or is larger than MAX_BYTES."""
    findings = Findings()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        findings.add(Place(str(path)), (), f"cannot be read: {error.strerror or type(error).__name__}")
        raise ConfigurationFaults(findings.faults) from None
    return data


def parse(data: bytes, file: str, findings: Findings) -> MappingNode:
    """Returns the tree of a file's octets; what can be passed over is recorded in `findings`.

    Raises ConfigurationFaults, with all that was found, where the rest of the file could not be read.
    """
    composer = _Composer(file, findings)
    if len(data) > MAX_BYTES:
        composer.stop(Place(file, 1, 1), "is larger than 1 MiB")
    text, malformed_at = _decoded(data)
    if malformed_at is not None:
        composer.stop(_place_at(file, text, malformed_at), "is not UTF-8 text")
    try:
        return composer.document(yaml.SafeLoader(text))
    except ReaderError as error:
        place, message = _place_at(file, text, error.position), "a character that YAML does not allow"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, 1, 1) if mark is None else Place(file, mark.line + 1, mark.column + 1)
        problem = error.problem or "cannot be read"
        message = "not YAML: " + _NOTHING_FOUND.sub("", _QUOTED.sub(_kept_if_harmless, problem)) + _QUOTES_HINT
        if "'\\t'" in problem:
            message = "not YAML: a tab; lines are indented by spaces"
    except (ValueError, IndexError, OverflowError):
        # PyYAML lets some malformed escapes and directives out as these
        place, message = Place(file, 1, 1), "not YAML" + _QUOTES_HINT
    return composer.stop(place, message)  # outside of the handlers: those errors hold pieces of the file


def _kept_if_harmless(quoted: re.Match[str]) -> str:
    """Leaves out what the YAML parser quotes from the file: it may be a piece of a secret."""
    return quoted[0] if _HARMLESS.fullmatch(quoted[0]) is not None else ""


def _decoded(data: bytes) -> tuple[str, int | None]:
    """Returns the text and None, or the text up to the first octet that is not UTF-8 and where that is in it."""
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        text = data[: error.start].decode("utf-8-sig")
        return text, len(text)


def _place_at(file: str, text: str, position: int) -> Place:
    before = text[:position]
    return Place(file, before.count("\n") + 1, position - before.rfind("\n"))


@dataclass(frozen=True, slots=True)
class _Extent:
    """What a node would be with every alias written out."""

    nodes: int
    depth: int


class _Composer:
    """Makes the tree from the loader's events."""

    def __init__(self, file: str, findings: Findings) -> None:
        self._file = file
        self._findings = findings
        self._anchors: dict[str, Node | None] = {}  # None while the node is being made
        self._extents: dict[int, _Extent] = {}  # by the node's id; the nodes live in the tree
        self._kept: list[Node] = []  # ... and here, so that no id is used twice
        self._nodes = 0

    def stop(self, place: Place, message: str, path: KeyPath = ()) -> NoReturn:
        """Gives up, with all that was found so far."""
        self._findings.add(place, path, message)
        raise ConfigurationFaults(self._findings.faults)

    def document(self, loader: Any) -> MappingNode:
        """Returns the one document of the stream."""
        loader.get_event()  # the stream's start
        if loader.check_event(StreamEndEvent):
            self.stop(Place(self._file, 1, 1), "is empty")
        loader.get_event()  # the document's start
        node = self._node(loader, (), 1)
        assert loader.check_event(DocumentEndEvent)
        loader.get_event()
        if not loader.check_event(StreamEndEvent):
            self.stop(self._place(loader.peek_event()), "a second document: a configuration is one")
        if isinstance(node, ScalarNode) and not node.text:
            self.stop(Place(self._file, 1, 1), "is empty")
        if not isinstance(node, MappingNode):
            self.stop(node.place, "expected a mapping: keys and their values")
        return node

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, loader: Any, path: KeyPath, depth: int) -> Node:
        event = loader.get_event()
        place = self._place(event)
        if isinstance(event, AliasEvent):
            return self._alias(event.anchor, place, path, depth)
        self._count(1, place, path)
        if depth > MAX_DEPTH:
            self.stop(place, f"is nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        before = self._nodes
        node: Node
        deepest = 0
        if isinstance(event, ScalarEvent):
            node = self._scalar(event.value, place, path)
        elif isinstance(event, SequenceStartEvent):
            items: list[Node] = []
            while not loader.check_event(SequenceEndEvent):
                items.append(self._node(loader, (*path, len(items)), depth + 1))
            loader.get_event()
            deepest = max((self._extents[id(item)].depth for item in items), default=0)
            node = ListNode(tuple(items), place)
        else:
            assert isinstance(event, MappingStartEvent)
            node, deepest = self._mapping(loader, place, path, depth, flow=bool(event.flow_style))
        if event.tag is not None:
            self._findings.add(place, path, "YAML tags are not supported; a text that begins with ! needs quotes")
            node = FaultyNode(place)
        self._measure(node, self._nodes - before + 1, deepest + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _measure(self, node: Node, nodes: int, depth: int) -> None:
        self._extents[id(node)] = _Extent(nodes, depth)
        self._kept.append(node)

    def _count(self, nodes: int, place: Place, path: KeyPath) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self.stop(place, f"more than {MAX_NODES} values, aliases written out", path)

    def _scalar(self, text: str, place: Place, path: KeyPath) -> Node:
        if _SURROGATE.search(text) is not None:
            self._findings.add(place, path, "an escape for half a character")
            return FaultyNode(place)
        return ScalarNode(text, place)

    def _alias(self, anchor: str | None, place: Place, path: KeyPath, depth: int) -> Node:
        node = None if anchor is None else self._anchors.get(anchor)
        if node is None:
            inside = anchor in self._anchors
            problem = "an alias inside what it stands for" if inside else "an alias without an anchor before it"
            self._findings.add(place, path, problem + " (a text that begins with * needs quotes)")
            node = FaultyNode(place)
            self._measure(node, 1, 1)
            return node
        extent = self._extents[id(node)]
        self._count(extent.nodes, place, path)
        if depth + extent.depth - 1 > MAX_DEPTH:
            self.stop(place, f"is nested deeper than {MAX_DEPTH} levels, aliases written out")
        return node

    def _mapping(self, loader: Any, place: Place, path: KeyPath, depth: int, *, flow: bool) -> tuple[MappingNode, int]:
        entries: dict[str, Entry] = {}
        merged: list[MappingNode] = []
        merge_seen = False
        deepest = 0
        while not loader.check_event(MappingEndEvent):
            key_event = loader.peek_event()
            key_place = self._place(key_event)
            merge = isinstance(key_event, ScalarEvent) and key_event.value == "<<" and key_event.style is None
            key = self._node(loader, path, depth + 1)
            if not isinstance(key, ScalarNode):
                if not isinstance(key, FaultyNode):
                    self._findings.add(key_place, path, "a key must be a text", at=())
                self._node(loader, path, depth + 1)
                continue
            bare = flow and self._is_bare(loader.peek_event())
            value = self._node(loader, path if merge or bare else (*path, key.text), depth + 1)
            deepest = max(deepest, self._extents[id(value)].depth)
            if bare:
                # `{client_secret: abc,def}` makes a key of the secret's second half, so the key is not shown
                problem = "a key without a value between { and } (a value that holds a comma needs quotes)"
                self._findings.add(key_place, path, problem, at=())
            elif merge:
                if merge_seen:
                    self._findings.add(
                        key_place, (*path, "<<"), "is a duplicate key; it takes a list of aliases", at=()
                    )
                merge_seen = True
                merged.extend(self._merged(value, key_place, path))
            elif key.text in entries:
                first = entries[key.text].place.line
                problem = f"is a duplicate key; first given in line {first}"
                self._findings.add(key_place, (*path, key.text), problem, at=())
            else:
                entries[key.text] = Entry(key_place, value)
        loader.get_event()
        for mapping in merged:
            for key_text, entry in mapping.entries.items():
                entries.setdefault(key_text, entry)
        return MappingNode(entries, place), deepest

    @staticmethod
    def _is_bare(event: Any) -> bool:
        return isinstance(event, ScalarEvent) and not event.value and event.style is None and event.tag is None

    def _merged(self, value: Node, place: Place, path: KeyPath) -> list[MappingNode]:
        """Returns the mappings that `<<` names; the first that has a key gives its value."""
        sources = value.items if isinstance(value, ListNode) else (value,)
        found = [source for source in sources if isinstance(source, MappingNode)]
        if len(found) + sum(isinstance(source, FaultyNode) for source in sources) < len(sources):
            self._findings.add(place, (*path, "<<"), "takes an alias of a mapping, or a list of them", at=())
        return found
