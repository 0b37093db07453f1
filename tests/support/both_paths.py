"""Runs each test that has a gateway twice: with the direct path for plain requests, and without.

A ``conftest.py`` takes ``pytest_generate_tests`` and ``path`` from here. What a test expects is the same on both paths.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import Taken

ROOM = frozenset({"tmp_path", "world"})  # the fixtures of tests that have a gateway


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes two tests of one."""
    if ROOM & set(metafunc.fixturenames):
        metafunc.parametrize("path", ["direct", "general"], indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lets the gateways of a test take the path that its parameter names."""
    Taken.direct = getattr(request, "param", "direct") == "direct"
    yield
    Taken.direct = True
