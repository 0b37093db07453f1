"""Every statement of the list of what the protocol asks for has a test whose id carries its number.

45 to 47 and 50 to 57 are about token exchange and DPoP, which are not there yet; 58 to 62 are HTTP's, and tested with it.
There is no 27.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

STATEMENTS = {*range(1, 27), *range(28, 45), 48, 49}
TESTS = Path(__file__).resolve().parent.parent
FOLDERS = ("protocol", "oauth", "tokens", "process")


def unshown(test_ids: str) -> list[int]:
    """Returns the numbers that stand in no test's id, as `P31-7` in brackets or `test_P31_...` for a name."""
    shown = {int(number) for number in re.findall(r"(?<=[\[_-])P(\d+)(?=[-_\]])", test_ids)}
    return sorted(STATEMENTS - shown)


def test_a_statement_without_a_test():
    """A number counts as itself alone, and only as a part of an id."""
    ids = "".join(f"test_x[P{number}-y]\n" for number in STATEMENTS - {48, 49}) + "test_P48_z\n"
    assert [49] == unshown(ids)
    assert [4, 49] == unshown(ids.replace("P4-", "P44-"))
    assert [48, 49] == unshown(ids.replace("P48_", "P48"))


def test_every_statement_has_a_test():
    """Of those that are collected here and where tokens are asked for and kept."""
    folders = [str(TESTS / folder) for folder in FOLDERS]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *folders]
    collected = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True, timeout=50)
    assert "test_rfc7523.py::" in collected.stdout
    assert [] == unshown(collected.stdout)
