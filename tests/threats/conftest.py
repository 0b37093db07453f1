"""Every test of this folder that has a gateway runs on both paths."""

from __future__ import annotations

from tests.support.both_paths import path, pytest_generate_tests

__all__ = ["path", "pytest_generate_tests"]
