"""YAML text to a tree: what is refused, and where the fault points."""

import time
from itertools import pairwise

import pytest

from proxy.config import parse as parser
from proxy.config.faults import ConfigurationFaults, Findings
from proxy.config.parse import parse
from proxy.config.tree import MappingNode, ScalarNode, find, plain

QUOTES = (
    " (quotes are needed by a text that begins with one of * & ! % @ ` or holds ': ' or ' #', "
    "and by ${NAME} between brackets)"
)


def tree(text: str | bytes) -> MappingNode:
    findings = Findings()
    root = parse(text.encode() if isinstance(text, str) else text, "f.yaml", findings)
    assert findings.faults == []
    return root


def faults(text: str | bytes) -> list[str]:
    findings = Findings()
    try:
        parse(text.encode() if isinstance(text, str) else text, "f.yaml", findings)
    except ConfigurationFaults as error:
        if error.__context__ is not None:
            pytest.fail("the error holds a YAML error, which holds pieces of the file")
        return [str(fault) for fault in error.faults]
    return [str(fault) for fault in findings.faults]


def test_scalars_are_what_was_written():
    """YAML's own types play no part: the schema decides what a text means."""
    text = 'a: 00123\nb: no\nc: 1.20\nd: "q\\"x"\ne: ~\nf: 0x1F\ng: 2001-01-01\nh:\ni: |\n  x\n  y\n'
    expected = {
        "a": "00123", "b": "no", "c": "1.20", "d": 'q"x', "e": "~", "f": "0x1F", "g": "2001-01-01", "h": "", "i": "x\ny\n",
    }  # fmt: skip
    assert plain(tree(text)) == expected


def test_every_value_knows_its_place():
    """Line and column of the value and of its key, counted from 1."""
    root = tree("a:\n  b: [x,  y]\n")
    found = find(root, ("a", "b"))
    item = find(root, ("a", "b", 1))
    assert (found.key_place.line, found.key_place.column) == (2, 3)
    assert isinstance(item.node, ScalarNode)
    assert (item.node.place.line, item.node.place.column) == (2, 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["f.yaml:1:1: is empty"]),
        ("# nothing\n", ["f.yaml:1:1: is empty"]),
        ("---\n", ["f.yaml:1:1: is empty"]),
        ("- a\n", ["f.yaml:1:1: expected a mapping: keys and their values"]),
        ("text\n", ["f.yaml:1:1: expected a mapping: keys and their values"]),
        ("a: 1\n---\nb: 2\n", ["f.yaml:2:1: a second document: a configuration is one"]),
        ("a: 1\nb: 2\na: 3\n", ["f.yaml:3:1: a: is a duplicate key; first given in line 1"]),
        ("x: {a: 1, 'a': 2}\n", ["f.yaml:1:11: x.a: is a duplicate key; first given in line 1"]),
        ("a: !!str x\n", ["f.yaml:1:4: a: YAML tags are not supported; a text that begins with ! needs quotes"]),
        ("a: ! x\n", ["f.yaml:1:4: a: YAML tags are not supported; a text that begins with ! needs quotes"]),
        (
            "a: !!python/object/apply:os.system [id]\n",
            ["f.yaml:1:4: a: YAML tags are not supported; a text that begins with ! needs quotes"],
        ),
        ("? [a]\n: 1\n", ["f.yaml:1:3: a key must be a text"]),
        ("a: *b\n", ["f.yaml:1:4: a: an alias without an anchor before it (a text that begins with * needs quotes)"]),
        (
            "a: &a [*a]\n",
            ["f.yaml:1:8: a[0]: an alias inside what it stands for (a text that begins with * needs quotes)"],
        ),
        ("a: {x: 1,y}\n", ["f.yaml:1:10: a: a key without a value between { and } (a value that holds a comma needs quotes)"]),
        ("a: {<<: x}\n", ["f.yaml:1:5: a.<<: takes an alias of a mapping, or a list of them"]),
        ('a: "\\ud800"\n', ["f.yaml:1:4: a: an escape for half a character"]),
        ("a: [1\n", ["f.yaml:2:1: not YAML: expected ',' or ']', but got '<stream end>'" + QUOTES]),
        ("a: b: c\n", ["f.yaml:1:5: not YAML: mapping values are not allowed here" + QUOTES]),
        ("a: 1\n\tb: 2\n", ["f.yaml:2:1: not YAML: a tab; lines are indented by spaces"]),
        ("a: x\x01y\n", ["f.yaml:1:5: a character that YAML does not allow"]),
        (b"a: 1\nb: \xff\n", ["f.yaml:2:4: is not UTF-8 text"]),
        (b"a: \xc3\xa9\xff\n", ["f.yaml:1:5: is not UTF-8 text"]),
        (b"\xff\xfea\x00:\x00", ["f.yaml:1:1: is not UTF-8 text"]),
    ],
)  # fmt: skip
def test_what_is_not_a_configuration(text, expected):
    """Each class of broken file has its own message, at the exact place."""
    assert faults(text) == expected


def test_several_faults_of_the_form():
    """What can be passed over is passed over: one run tells them all."""
    assert faults("a: 1\na: 2\nb: !t x\nc: *no\n") == [
        "f.yaml:2:1: a: is a duplicate key; first given in line 1",
        "f.yaml:3:4: b: YAML tags are not supported; a text that begins with ! needs quotes",
        "f.yaml:4:4: c: an alias without an anchor before it (a text that begins with * needs quotes)",
    ]


def test_a_byte_order_mark():
    """It is no part of the text."""
    assert plain(tree(b"\xef\xbb\xbfa: 1\n")) == {"a": "1"}


def test_merge_keys():
    """Own keys win over merged ones, and of several sources the first."""
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], a: 3}\n"
    assert plain(tree(text))["z"] == {"a": "3", "b": "1", "c": "2"}


def test_a_quoted_merge_key_is_a_plain_key():
    """Only `<<` as it stands merges."""
    assert plain(tree('a: {"<<": b}\n')) == {"a": {"<<": "b"}}


def test_an_alias_keeps_the_place_of_its_anchor():
    """So that a fault in it points at what must be changed."""
    found = find(tree("a: &a\n  k: v\nb: *a\n"), ("b", "k"))
    assert (found.node.place.line, found.node.place.column) == (2, 6)


@pytest.mark.parametrize(
    "line",
    ["{name}: &{name} [{nine}]\n", "{name}: &{name} {{<<: [{nine_maps}], k{name}: [{nine}]}}\n"],
    ids=["lists", "merges"],
)
def test_an_alias_bomb(line):
    """Refused by counting, in much less than a second, however large it would become."""
    names = "abcdefghijklmnop"
    text = "a: &a {x: 1, y: 2}\n"
    for before, name in pairwise(names):
        nine = ",".join([f"*{before}"] * 9)
        text += line.format(name=name, nine=nine, nine_maps=nine if "<<" in line else "")

    started = time.perf_counter()
    (fault,) = faults(text)

    assert "more than 100000 values, aliases written out" in fault
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 5000, "- " * 5000], ids=["lists", "mappings", "block"])
def test_deep_nesting(text):
    """The limit is reached long before the interpreter's stack is."""
    assert faults(text)[0].endswith(": is nested deeper than 32 levels")


def test_deep_nesting_by_aliases():
    """Each level is shallow, the whole is not."""
    levels = "".join(f"k{i}: &k{i} [[[*k{i - 1}]]]\n" for i in range(1, 15))
    assert faults("k0: &k0 [x]\n" + levels)[0].endswith("is nested deeper than 32 levels, aliases written out")


def test_a_file_above_the_size_limit():
    """1 MiB, whatever is in it."""
    assert faults(b"#" * (parser.MAX_BYTES + 1)) == ["f.yaml:1:1: is larger than 1 MiB"]
    assert faults(b"a: 1\n" + b"#" * (parser.MAX_BYTES - 5)) == []


@pytest.mark.parametrize(
    "text",
    [
        "a: *canary", "a: !canary x", "a: !ca!nary x", "a: !<canary> x", "a: @canary", "a: `canary", "a: %canary",
        'a: "can\\qary', "a: 'canary", "a: |canary\n  x", "a: {b: x,canary}", "a: [canary", "a: x: canary", "%TAG ! canary\n--- a",
        "%YAML canary\n--- a", "a: &canary", "a: &canary *canary", "a: {canary", "a: !canary%zz x", "a:\n\tcanary",
    ],
)  # fmt: skip
def test_a_secret_that_yaml_stumbles_over(text):
    """What the parser found is not repeated: it may be a password that wanted quotes."""
    assert "canary" not in "\n".join(faults(text))
    assert "nary" not in "\n".join(faults(text))
