"""Applies mutations to copies of the tree, one at a time in each, and runs the tests that must notice.

First the named tests run on an unchanged copy: a test that fails in any case notices nothing. Whatever happens in a copy,
the tree itself is never written to.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import count
from pathlib import Path
from queue import SimpleQueue

COPIED = (
    "proxy",
    "tests",
    "config",
    "pyproject.toml",
    "requirements.txt",
    "Dockerfile",
    "Makefile",
    "README.md",
    "LICENSE",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", ".*")
PARALLEL = 2
_ONE_TEST_S = 30  # pytest's own bound; a mutation that makes a test wait for ever is noticed too
_ONE_RUN_S = 180
_BASELINE_S = 600


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defence taken out: the text that makes it, what stands there instead, and who must notice."""

    name: str
    file: str  # below the top of the tree
    old: str  # occurs exactly once
    new: str
    tests: tuple[str, ...]  # pytest's ids, with or without parameters


class Verdict(StrEnum):
    """What came of a mutation."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"  # every test passed without the defence
    BROKEN = "BROKEN"  # no verdict: the tests could not be run


@dataclass(frozen=True, slots=True)
class Result:
    """One mutation's verdict, and what pytest said where it is not the one hoped for."""

    mutation: Mutation
    verdict: Verdict
    seconds: float
    said: str = ""


def stale(mutation: Mutation, top: Path) -> list[str]:
    """Returns what is wrong with a mutation: its text is not there exactly once, or it names a test that is not there."""
    file = top / mutation.file
    if not file.is_file():
        return [f"{mutation.name}: there is no {mutation.file}"]
    source = file.read_text(encoding="utf-8")
    faults = []
    if (found := source.count(mutation.old)) != 1:
        faults.append(f"{mutation.name}: the old text is {found} times in {mutation.file}")
    try:
        changed = ast.dump(ast.parse(source.replace(mutation.old, mutation.new)))
    except SyntaxError as error:
        faults.append(f"{mutation.name}: line {error.lineno} of the changed {mutation.file} is no Python")
    else:
        if changed == _dumped(source):
            faults.append(f"{mutation.name}: changes nothing")
    if not mutation.tests:
        faults.append(f"{mutation.name}: names no test")
    for test in mutation.tests:
        path, _, name = test.partition("::")
        if not (top / path).is_file() or name.partition("[")[0] not in _tests(top / path):
            faults.append(f"{mutation.name}: there is no test {test}")
    return faults


@lru_cache(maxsize=64)
def _dumped(source: str) -> str:
    return ast.dump(ast.parse(source))


@lru_cache(maxsize=64)
def _tests(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def run(mutations: Sequence[Mutation], top: Path, tell: Callable[[str], object]) -> list[Result]:
    """Tries all mutations, PARALLEL at a time; tells a line for each and one in sum. Blocks.

    Raises RuntimeError if one is stale, or if the tests named do not pass in an unchanged tree.
    """
    if faults := [fault for mutation in mutations for fault in stale(mutation, top)]:
        raise RuntimeError("\n".join(faults))
    with copies(top) as free:
        copy = free.get()
        named = sorted({test for mutation in mutations for test in mutation.tests})
        tell(f"{len(mutations)} mutations; their {len(named)} tests on the unchanged tree first")
        code, said = _pytest(copy, named, _BASELINE_S)
        free.put(copy)
        if code != 0:
            raise RuntimeError(f"the tests fail without any mutation:\n{said}")
        with ThreadPoolExecutor(PARALLEL) as pool:
            results: list[Result] = []
            for result in pool.map(lambda mutation: _tried(mutation, free), mutations):
                tell(f"{result.verdict:<9} {result.seconds:5.1f} s  {result.mutation.name}")
                results.append(result)
    missed = [result for result in results if result.verdict is not Verdict.NOTICED]
    for result in missed:
        tell(f"\n{result.verdict}: {result.mutation.name} ({result.mutation.file})\n{result.said}")
    tell(f"{len(results) - len(missed)} of {len(results)} defences are held by their tests")
    return results


@contextmanager
def copies(top: Path) -> Iterator[SimpleQueue[Path]]:
    """Makes PARALLEL copies of the tree, and removes them in the end."""
    free: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for number in range(PARALLEL):
            copy = Path(folder) / str(number)
            copy.mkdir()
            for name in COPIED:
                if (source := top / name).is_dir():
                    shutil.copytree(source, copy / name, ignore=LEFT_OUT)
                elif source.exists():
                    shutil.copy(source, copy / name)
            free.put(copy)
        yield free


_seconds = count(1_000_000_000)  # a new time of change for each text written: pyc files are told apart by it


def _tried(mutation: Mutation, free: SimpleQueue[Path]) -> Result:
    started_s = time.monotonic()  # noqa: TID251
    copy = free.get()
    file = copy / mutation.file
    source = file.read_text(encoding="utf-8")
    try:
        _write(file, source.replace(mutation.old, mutation.new))
        code, said = _pytest(copy, mutation.tests, _ONE_RUN_S)
    finally:
        _write(file, source)
        free.put(copy)
    verdict = {0: Verdict.SURVIVED, 1: Verdict.NOTICED}.get(code, Verdict.BROKEN)
    return Result(mutation, verdict, time.monotonic() - started_s, said)  # noqa: TID251


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    second = next(_seconds)
    os.utime(file, (second, second))


def _pytest(copy: Path, tests: Iterable[str], timeout_s: float) -> tuple[int, str]:
    """Runs tests in a copy, until the first that fails; returns the exit code, and the end of what was said."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        f"--timeout={_ONE_TEST_S}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(copy)  # before the tree that is installed
    try:
        done = subprocess.run(
            [*command, *tests], cwd=copy, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return -1, f"not over within {timeout_s} s"
    return done.returncode, "\n".join(f"{done.stdout}{done.stderr}".splitlines()[-25:])
