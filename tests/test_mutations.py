"""The mutations of ``tests/mutations``: the table fits the code, the runner tells the truth, and every defence is held."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutations.runner import COPIED, Mutation, Verdict, run, stale
from tests.mutations.table import MUTATIONS
from tests.support.program import PROJECT

FINE = Mutation(
    "units", "proxy/units.py", "KIB = 1024", "KIB = 1000", ("tests/test_units.py::test_a_kibibyte",)
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one module and one test."""
    for name in ("proxy", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "proxy/units.py").write_text("KIB = 1024\nUNUSED = 1\n", encoding="utf-8")
    test = "from proxy.units import KIB\n\ndef test_a_kibibyte():\n    assert KIB == 1024\n"
    (tmp_path / "tests/test_units.py").write_text(test, encoding="utf-8")
    return tmp_path


def test_the_table_fits_the_code():
    """Each old text stands exactly once where it should, what replaces it is Python, and the tests named exist."""
    assert [] == [fault for mutation in MUTATIONS for fault in stale(mutation, PROJECT)]
    assert not [name for name, times in Counter(mutation.name for mutation in MUTATIONS).items() if times > 1]
    assert 40 <= len(MUTATIONS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"old": "KIB = 1"}, ""),
        ({"old": "KIB = 2"}, "0 times"),
        ({"old": "="}, "2 times"),
        ({"file": "proxy/none.py"}, "there is no proxy/none.py"),
        ({"new": "KIB = ("}, "no Python"),
        ({"new": "KIB = 1024  # still"}, "changes nothing"),
        ({"tests": ()}, "names no test"),
        ({"tests": ("tests/test_units.py::test_b",)}, "there is no test"),
        ({"tests": ("tests/test_none.py::test_a_kibibyte",)}, "there is no test"),
        ({"tests": ("tests/test_units.py::test_a_kibibyte[x]",)}, ""),
    ],
)
def test_a_stale_mutation(tree: Path, change: dict[str, object], fault: str):
    """It is found without running anything."""
    found = stale(replace(FINE, **change), tree)  # type: ignore[arg-type]
    assert bool(fault) == bool(found), found
    assert fault in "".join(found)


def test_each_verdict(tree: Path):
    """A defence that a test holds, one that none holds, and one of which nothing can be said."""
    unheld = replace(FINE, name="unheld", old="UNUSED = 1", new="UNUSED = 2")
    broken = replace(FINE, name="broken", new="import nothing_of_that_name")
    lines: list[str] = []
    before = (tree / "proxy/units.py").read_text(encoding="utf-8")

    results = run([FINE, unheld, broken, replace(FINE, name="again")], tree, lines.append)

    assert [Verdict.NOTICED, Verdict.SURVIVED, Verdict.BROKEN, Verdict.NOTICED] == [one.verdict for one in results]
    assert "2 of 4 defences are held by their tests" == lines[-1]
    assert before == (tree / "proxy/units.py").read_text(encoding="utf-8")


def test_a_test_that_fails_in_any_case(tree: Path):
    """It is no proof: the run ends before the first mutation."""
    (tree / "proxy/units.py").write_text("KIB = 1024\nraise ValueError\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="without any mutation"):
        run([FINE], tree, str)


def test_what_is_copied_is_there():
    """No name is left over from a former layout."""
    assert [] == [name for name in COPIED if not (PROJECT / name).exists()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_defence_is_held():
    """Without any one of them, a test of those named fails."""
    lines: list[str] = []
    results = run(MUTATIONS, PROJECT, lines.append)
    assert not [one for one in results if one.verdict is not Verdict.NOTICED], "\n".join(lines)
