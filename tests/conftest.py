"""For all tests: clients, gateway and servers of one test live in one process, which therefore needs many descriptors."""

from __future__ import annotations

import pytest

from proxy.hardening import raise_descriptor_limit


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """Raises the soft limit, as the gateway does at its start; 1024 is not enough for 500 clients and their peers."""
    raise_descriptor_limit()
