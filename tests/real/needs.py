"""Tells a test whether a program it starts is here: else it is skipped with the reason, and with CI=true it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

_PROGRAMS = Path(__file__).with_name("programs.txt")


def package_of(program: str) -> str:
    """Returns the Debian package that holds a program of `programs.txt`; KeyError if it is not listed there."""
    lines = (line.split() for line in _PROGRAMS.read_text(encoding="utf-8").splitlines())
    return {line[0]: line[1] for line in lines if line and line[0] != "#"}[program]


def needs(program: str) -> str:
    """Returns the program's path, or ends the test."""
    found = shutil.which(program)
    if found is None:
        missing(f"{program} is not installed: apt-get install -y {package_of(program)}, or run make with INSTALL=1")
    return found


def missing(reason: str) -> NoReturn:
    """Ends a test for want of something this machine lacks: skipped, or failed where CI=true promises that all is here."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
