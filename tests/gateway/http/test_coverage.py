"""Every statement of the list, R1 to R50, has a test whose id carries its number."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

STATEMENTS = 50
HERE = Path(__file__).resolve().parent


def unshown(test_ids: str) -> list[int]:
    """Returns the numbers that stand in no test's id, as `R31-cl-and-te` in brackets or `test_R31_...` for a name."""
    shown = {int(number) for number in re.findall(r"(?<=[\[_-])R(\d+)(?=[-_\]])", test_ids)}
    return [number for number in range(1, STATEMENTS + 1) if number not in shown]


def test_a_statement_without_a_test():
    """A number counts as itself alone, and only as a part of an id."""
    ids = "".join(f"test_x[R{number}-y]\n" for number in range(1, STATEMENTS - 1)) + "test_R49_z\n"
    assert [50] == unshown(ids)
    assert [5, 50] == unshown(ids.replace("R5-", "R55-"))
    assert [49, 50] == unshown(ids.replace("R49_", "R49"))


def test_every_statement_has_a_test():
    """Of those that are collected here."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(HERE)]
    collected = subprocess.run(command, cwd=HERE.parents[2], capture_output=True, text=True, check=True, timeout=50)
    assert "test_target.py::" in collected.stdout
    assert [] == unshown(collected.stdout)
