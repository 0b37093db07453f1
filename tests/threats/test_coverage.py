"""Each threat has a test whose name carries its number, and the README names one that exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.conventions import numbered_tests
from tests.support.program import PROJECT

THREATS = range(1, 30)
LATER = {20}  # a token store: refused as "not supported yet" until there is one

SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((PROJECT / "tests").rglob("test_*.py"))}
TESTS = numbered_tests(SOURCES.values(), "t")
ROWS = re.findall(r"(?m)^\| T(\d+) \|(.*)\|$", (PROJECT / "README.md").read_text(encoding="utf-8"))


def test_a_number_without_a_test():
    """It is found: a name counts whole, and only a test's."""
    source = "def test_t3_a(): ...\nasync def test_t12_b(): ...\ndef test_title(): ...\ndef t4_c(): ...\ndef test_t5(): ...\n"
    assert {3: ["test_t3_a"], 12: ["test_t12_b"]} == numbered_tests([source], "t")


def test_each_threat_has_a_test():
    """One at least, and none has a number that is no threat's."""
    assert set(THREATS) - LATER == set(TESTS)


def test_the_readme_lists_each_threat_and_its_test():
    """Every number once and in order; the tests named exist, carry that number, and there is at least one."""
    assert list(THREATS) == [int(number) for number, _ in ROWS]
    for number, row in ROWS:
        named = re.findall(r"`(test_\w+)`", row)
        assert bool(named) != (int(number) in LATER), number
        assert set(named) <= set(TESTS.get(int(number), ())), number


def test_what_is_left_for_later_is_refused():
    """The one threat without a test is that of a part that no configuration can switch on."""
    assert "token_store" in Path(PROJECT / "proxy/config/reserved.py").read_text(encoding="utf-8")
