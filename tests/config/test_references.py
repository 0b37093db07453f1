"""`${NAME}` and `./.env`: what a value becomes, and what is said when it cannot."""

from pathlib import Path

import pytest

from proxy.config.faults import ConfigurationFaults, Findings
from proxy.config.parse import parse
from proxy.config.references import resolve, variables
from proxy.config.tree import find, plain
from tests.config.written import MINIMAL, faults, loaded


def resolved(text, **known):
    findings = Findings()
    root = resolve(parse(text.encode(), "f.yaml", findings), known, findings)
    return plain(root), [str(fault) for fault in findings.faults], root


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${A}", "1"),
        ("x${A}y${B}", "x1y2 3"),
        ("${A:-default}", "1"),
        ("${NO:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${NO:-a:-b $x}", "a:-b $x"),
        ("x${NO:-}", "x"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ {A} $$A", "$A $ {A} $$A"),
        ("${NESTED}", "${A}"),
        ("${_a9}", "9"),
    ],
)
def test_a_value_with_references(written, expected):
    """Defaults stand in for what is unset or empty; nothing in a variable's value is looked at again."""
    values, found, _ = resolved(f"a: '{written}'\n", A="1", B="2 3", NESTED="${A}", _a9="9")
    assert found == []
    assert values == {"a": expected}


def test_a_variable_is_only_ever_a_text():
    """No YAML in it: a secret of any form passes as it is."""
    values, _, _ = resolved("a: ${A}\n", A='{x: 1}\n- y: "z" # no *comment')
    assert values == {"a": '{x: 1}\n- y: "z" # no *comment'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: ${NO}\n", "f.yaml:1:4: a: the environment variable NO is not set, or is empty"),
        ("b: [x, 'y${NO}']\n", "f.yaml:1:8: b[1]: the environment variable NO is not set, or is empty"),
        ("a: ${1NO}\n", "f.yaml:1:4: a: a reference is ${NAME} or ${NAME:-default}; $${ is a literal ${"),
        ("a: ${NO\n", "f.yaml:1:4: a: a reference is ${NAME} or ${NAME:-default}; $${ is a literal ${"),
        ("a: ${NO-x}\n", "f.yaml:1:4: a: a reference is ${NAME} or ${NAME:-default}; $${ is a literal ${"),
        ("a: ${}\n", "f.yaml:1:4: a: a reference is ${NAME} or ${NAME:-default}; $${ is a literal ${"),
    ],
)
def test_a_reference_that_leads_nowhere(text, expected):
    """The fault points at the value and names the variable."""
    assert resolved(text)[1] == [expected]


def test_a_variable_that_is_not_utf_8():
    """As the operating system hands it over, with halves of characters."""
    _, found, _ = resolved("a: ${A}\n", A="x\udcff")
    assert found == ["f.yaml:1:4: a: the environment variable A is not UTF-8 text"]


def test_an_optional_reference_that_comes_out_empty():
    """Counts as if the key had not been written; with a text around it, or a default, it does not."""
    values, found, root = resolved("a: ${NO:-}\nb: '${NO:-}x'\nc: [1, '${NO:-}']\nd: {e: '${NO:-}'}\n")
    assert (values, found) == ({"b": "x", "c": ["1"], "d": {}}, [])
    assert root.omitted == {"a": "NO"}
    assert find(root, ("d",)).node.omitted == {"e": "NO"}


def test_ignored_keys():
    """A variable that only an x- key refers to may be unset; where the key's value is used, it may not."""
    assert resolved("x-a: ${NO}\nb: 1\n")[:2] == ({"b": "1"}, [])
    assert resolved("x-a: &a {k: '${NO}'}\nb: *a\n")[1] == [
        "f.yaml:1:13: b.k: the environment variable NO is not set, or is empty"
    ]


def test_keys_are_not_looked_at():
    """A variable never becomes a key, so that no value of the environment can stand in a key path."""
    assert resolved("${A}: 1\n", A="canary")[0] == {"${A}": "1"}


def env_file(text: str | bytes, **environ: str) -> dict[str, str]:
    Path(".env").write_bytes(text.encode() if isinstance(text, str) else text)
    return variables(environ, Path(".env"))


def test_lines_of_the_env_file():
    """Plain values: nothing is expanded; quotes hold what would else be trimmed or read as a comment."""
    text = (
        "# comment\n\nA=1\nexport B=two words\nC = 3 \nD='q # x'\nE=\" ${A} \"\nF=a#b\nG=a # comment\nH=x=y\n"
        "I=\"quoted\" # comment\nJ=$A\\n\nK=it's\r\nL='it\"s'\nM=# comment\nN=''\n  O=1\n"
    )
    assert env_file(text) == {
        "A": "1", "B": "two words", "C": "3", "D": "q # x", "E": " ${A} ", "F": "a#b", "G": "a", "H": "x=y",
        "I": "quoted", "J": "$A\\n", "K": "it's", "L": 'it"s', "O": "1",
    }  # fmt: skip


def test_the_environment_wins():
    """Over the file, also where it is empty: that switches a variable of the file off."""
    assert env_file("A=file\nB=file\nC=file\n", A="real", B="") == {"A": "real", "C": "file"}


def test_no_env_file():
    """Is fine."""
    assert variables({"A": "1"}, Path(".env")) == {"A": "1"}
    assert variables({"A": "1"}, None) == {"A": "1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nno canary\n", [".env:2:1: is not a line of the form NAME=value"]),
        ("1A=canary\n=canary\n", [".env:1:1: is not a line of the form NAME=value", ".env:2:1: is not a line of the form NAME=value"]),
        ("A='canary\n", [".env:1:1: a value that begins with a quote must end with the same one"]),
        ("A='canary' x\n", [".env:1:1: a value that begins with a quote must end with the same one"]),
        (b"A=canary\xff\n", [".env:1:1: is not a line of the form NAME=value"]),
        (b"A=canary\0\n", [".env:1:1: is not a line of the form NAME=value"]),
        (b"#" * 300_000, [".env: is larger than 256 KiB"]),
    ],
)  # fmt: skip
def test_a_bad_line_of_the_env_file(text, expected):
    """Is told by its number; what stands there is not repeated."""
    with pytest.raises(ConfigurationFaults) as caught:
        env_file(text)
    assert [str(fault) for fault in caught.value.faults] == expected
    assert "canary" not in repr(caught.value)


def test_an_env_file_that_cannot_be_read():
    """Is a fault, not a file that is not there."""
    Path(".env").mkdir()
    with pytest.raises(ConfigurationFaults, match="cannot be read: Is a directory"):
        variables({}, Path(".env"))


def test_the_env_file_is_used_for_a_configuration(monkeypatch):
    """But never put into the environment of the process."""
    Path(".env").write_text("ID=from-env-file\n")
    text = MINIMAL.replace("legacy-app", "${ID}")

    (credential,) = loaded(text).settings.credentials

    assert credential.registration.client_id == "from-env-file"
    monkeypatch.delenv("ID", raising=False)
    assert faults(text, ID="x") == []


def test_a_faulty_value_from_a_variable():
    """The fault names the variable, not its value."""
    assert faults(MINIMAL.replace("https://api.example/v1", "${URL}"), URL="canary") == [
        "9:15: routes[0].upstream: expected a URL: http:// or https://, a host, and perhaps a path (from URL)"
    ]
