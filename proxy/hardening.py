"""What the process asks of the kernel at its start: no core dumps, no readers of its memory, enough descriptors.

A core dump or another process of the same user that attaches to this one would read every token and secret. What a
kernel or a sandbox does not offer is skipped and told to the caller, who decides whether to warn.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass

_PR_SET_DUMPABLE = 4  # prctl(2)
# macOS reports no hard limit and then refuses it; this is its OPEN_MAX.
_UNLIMITED_DESCRIPTORS = 10_240


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """What was achieved."""

    core_dumps_off: bool
    memory_closed: bool  # neither dumped nor attached to by a process without privileges
    descriptors: int  # that this process may have open at once


def harden() -> Hardening:
    """Applies all of it to this process, for good; safe to call again."""
    return Hardening(
        core_dumps_off=forbid_core_dumps(),
        memory_closed=close_memory(),
        descriptors=raise_descriptor_limit(),
    )


def forbid_core_dumps() -> bool:
    """Sets the size limit of core dumps to zero, soft and hard. Returns whether it holds."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    return True


def close_memory() -> bool:
    """Makes the process not dumpable (Linux). Returns whether it is.

    The kernel then refuses ptrace, /proc/PID/mem and core dumps, also those that go to a pipe and know no size limit.
    Exec of another program undoes it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl.restype = ctypes.c_int
    return bool(prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open descriptors to the hard one. Returns how many this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _UNLIMITED_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize
