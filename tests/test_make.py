"""The set-up that make does: a missing prerequisite is named, together with the command that installs it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.real.needs import needs, package_of

TOP = Path(__file__).resolve().parent.parent

# Stand-ins for an interpreter: each answers what the Makefile asks of one, the last by failing at what it cannot do.
TOO_OLD = '#!/bin/sh\ncase "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac\n'
NO_ENSUREPIP = '#!/bin/sh\ncase "$2" in *print*) echo 3.12 ;; *ensurepip*) exit 1 ;; *) exit 0 ;; esac\n'
NO_NETWORK = """#!/bin/sh
case "$*" in
*print*) echo 3.12 ;;
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip"*) echo "no route to host" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that the set-up reads, under a name with a space."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(TOP / name, folder)
    return folder


def make(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}  # these tests may themselves have been started by make
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", *words], cwd=checkout, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def interpreter(checkout: Path, script: str) -> str:
    path = checkout.parent / "python3"
    path.write_text(script, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"PYTHON={path}"


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_no_python(checkout, goal):
    """What is needed, and how to get it or to name another."""
    done = make(checkout, goal, "PYTHON=/nowhere/python3")

    assert done.returncode != 0
    assert "error: Python 3.11 or newer is needed. Install it, as root:" in done.stderr
    assert "apt-get install -y python3 python3-venv" in done.stderr
    assert f"make PYTHON=/path/to/python3.12 {goal}" in done.stderr


def test_a_python_that_is_too_old(checkout):
    """The version found is told."""
    done = make(checkout, "demo", interpreter(checkout, TOO_OLD))

    assert done.returncode != 0
    assert "Python 3.11 or newer is needed; " in done.stderr
    assert "is 3.9. Install it" in done.stderr


def test_a_python_without_ensurepip(checkout):
    """Debian keeps a part of Python in a package of its own: that one is named, for the version found."""
    done = make(checkout, "demo", interpreter(checkout, NO_ENSUREPIP))

    assert done.returncode != 0
    assert "apt-get install -y python3.12-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_package_index(checkout):
    """pip's own words are shown and explained, and the next try starts over."""
    done = make(checkout, "demo", interpreter(checkout, NO_NETWORK))

    assert done.returncode != 0
    assert "no route to host" in done.stderr
    assert "is there a network?" in done.stderr
    assert not (checkout / ".venv/.installed").exists()


def test_every_goal_is_listed(checkout):
    """`make` alone, and `make help`, tell what there is."""
    listed = make(checkout).stdout

    assert make(checkout, "help").stdout == listed
    assert [line.split()[1] for line in listed.splitlines()] == [
        "help", "demo", "test", "test-all", "test-mutations", "bench", "bench-micro", "lint", "format", "clean",
    ]  # fmt: skip


def test_continuous_integration_adds_nothing():
    """`.ci/run` can be run, and runs `make test`."""
    script = TOP / ".ci/run"

    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def test_a_program_that_tests_need():
    """Its package is known, so that a skipped test can say how to get it."""
    assert package_of("buildah") == "buildah"
    with pytest.raises(KeyError):
        package_of("nonsense")


def test_a_missing_program(monkeypatch):
    """A test without its program is skipped with the command that installs it; with CI=true it fails instead."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install -y buildah"):
        needs("buildah")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install -y buildah"):
        needs("buildah")
