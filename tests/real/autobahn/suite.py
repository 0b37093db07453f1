"""Runs the Autobahn test-suite's fuzzing client, in a Python 2.7 environment of its own, against a WebSocket server.

The suite exists for Python 2 alone. Its environment is made once, beside the packages of the Python that runs the tests,
where ``make clean`` removes it; that takes about a minute and a C compiler.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.real.needs import missing

_SUITE = "autobahntestsuite==25.10.1"
_MAKER = "virtualenv<20.16"  # the last that makes environments for Python 2.7
_ENVIRONMENT = Path(sys.prefix) / "autobahn"
_MADE = _ENVIRONMENT / ".installed"
_WITHIN_S = 500


class Verdict(NamedTuple):
    """What the suite found in one case."""

    behaviour: str
    at_close: str
    close_code: int | None


def wstest() -> Path:
    """Returns the suite's program, made if need be; ends the test if it cannot be had here."""
    program = _ENVIRONMENT / "bin" / "wstest"
    if not _MADE.exists():
        _make(_python_2())
        _MADE.touch()
    return program


async def verdicts(program: Path, url: str, folder: Path, *, without: list[str]) -> dict[str, Verdict]:
    """Runs all cases but some, given by patterns, against the server at this ws:// URL; returns what came of each."""
    folder.mkdir()
    spec = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "tested", "url": url}],
        "cases": ["*"],
        "exclude-cases": without,
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        command = [str(program), "-m", "fuzzingclient", "-s", str(folder / "spec.json")]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=folder)
        try:
            async with asyncio.timeout(_WITHIN_S):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert code == 0, (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
    index = json.loads((folder / "reports" / "index.json").read_text(encoding="utf-8"))
    return {
        case: Verdict(found["behavior"], found["behaviorClose"], found["remoteCloseCode"])
        for case, found in index["tested"].items()
    }


def _python_2() -> str:
    """Returns a Python 2.7 that runs; ends the test if there is none."""
    found = next(filter(_is_python_2, _candidates()), None)
    return found or missing("no Python 2.7 here, which the Autobahn test-suite needs: pyenv install 2.7.18")


def _is_python_2(program: str) -> bool:
    command = [program, "-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _candidates() -> Iterator[str]:
    if (found := shutil.which("python2.7")) is not None:
        yield found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(root.glob("versions/2.7.*/bin/python2.7"), reverse=True))


def _make(python: str) -> None:
    """Makes the environment; ends the test if a package cannot be had or compiled."""
    shutil.rmtree(_ENVIRONMENT, ignore_errors=True)
    environ = os.environ | {"PYTHONUSERBASE": str(_ENVIRONMENT) + "-maker", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for command in (
        [python, "-m", "pip", "install", "-q", "--user", _MAKER],
        [python, "-m", "virtualenv", "-q", str(_ENVIRONMENT)],
        [str(_ENVIRONMENT / "bin" / "pip"), "install", "-q", _SUITE],
    ):
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        if done.returncode != 0:
            missing(f"the Autobahn test-suite could not be installed: {done.stderr.strip()[-300:]}")
