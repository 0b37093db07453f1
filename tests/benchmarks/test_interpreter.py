"""What is said of the interpreter under the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.interpreter import description, header, profile_guided
from tests.benchmarks.report import Results

USED = "-fprofile-use -fprofile-correction"
MADE = "-fprofile-generate"


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        pytest.param(("'--enable-optimizations' '--with-lto'", MADE, USED), True, id="configured-so"),
        pytest.param(("'--enable-shared' '--without-ensurepip'", MADE, ""), True, id="Debian's"),
        pytest.param(("'--prefix=/somewhere' '--enable-shared'", MADE, USED), False, id="compiled-as-it-comes"),
        pytest.param(("", MADE, USED), False, id="configured-without-arguments"),
        pytest.param(("'--enable-shared'", "", ""), False, id="a-compiler-that-knows-no-profiles"),
        pytest.param((None, None, None), None, id="nothing-known"),
    ],
)
def test_a_build(built: tuple[str | None, ...], expected: bool | None) -> None:
    """Known by its configuration, or by what distributions leave of it."""
    names = ("CONFIG_ARGS", "PGO_PROF_GEN_FLAG", "PGO_PROF_USE_FLAG")
    assert profile_guided(dict(zip(names, built, strict=True))) is expected


@pytest.mark.parametrize(("known", "said"), [(True, "built with "), (False, "built WITHOUT "), (None, "does not tell")])
def test_the_header(known: bool | None, said: str) -> None:
    """One line: version, place, and the build."""
    line = header({"python": "3.13.0", "executable": "/usr/bin/python3.13", "profile_guided": known})
    assert line.startswith("Python 3.13.0 (/usr/bin/python3.13), ")
    assert said in line
    assert "\n" not in line


def test_the_json(tmp_path: Path) -> None:
    """Holds the same."""
    Results().write(tmp_path / "results.json", {})
    machine = json.loads((tmp_path / "results.json").read_text())["machine"]
    assert description().items() <= machine.items()
