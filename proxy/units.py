"""Units: constants that make numbers readable, and the texts operators write (`30s`, `64KiB`)."""

from __future__ import annotations

import re

MILLISECONDS = 0.001  # seconds
SECONDS = 1.0
MINUTES = 60.0
HOURS = 3600.0

KIB = 1024  # octets
MIB = 1024 * KIB
GIB = 1024 * MIB

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": MILLISECONDS, "s": SECONDS, "m": MINUTES, "h": HOURS}
_SIZE = re.compile(r"(\d{1,15})(KiB|MiB|GiB|B)?")
_SIZE_UNITS = {None: 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


def parse_duration(text: str) -> float:
    """Returns seconds for `100ms`, `30s`, `5m`, `1h`, `1.5s` or a bare `0`. Raises ValueError otherwise."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a number and a unit: 100ms, 30s, 5m, 1h")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_size(text: str) -> int:
    """Returns octets for `64KiB`, `1MiB`, `2GiB`, `512B` or `0`. Raises ValueError otherwise."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a size is a whole number and a unit: 512B, 64KiB, 1MiB, 2GiB")
    return int(match[1]) * _SIZE_UNITS[match[2]]
