"""The interpreter that the gateway runs on, since how it was built decides a fifth of what the gateway costs."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from typing import Any


def profile_guided(built: Mapping[str, Any]) -> bool | None:
    """Tells whether an interpreter was built with profile-guided optimisation, by its `sysconfig` variables; None: unknown.

    It was if it was configured so. Debian's packages are built without that option, by the makefile's own target; what they
    install tells the flag that makes profiles, and an empty one that uses them, where others tell both in any case.
    """
    arguments, flag = built.get("CONFIG_ARGS"), built.get("PGO_PROF_USE_FLAG")
    if arguments is None or flag is None:
        return None
    return "--enable-optimizations" in str(arguments) or (flag == "" and bool(built.get("PGO_PROF_GEN_FLAG")))


def description() -> dict[str, Any]:
    """Returns what there is to know of the interpreter at work, as JSON can say it."""
    return {
        "python": platform.python_version(),
        "executable": os.path.realpath(sys.executable),
        "profile_guided": profile_guided(sysconfig.get_config_vars()),
    }


def header(known: Mapping[str, Any]) -> str:
    """Returns a description as a line for people."""
    built = {
        True: "built with profile-guided optimisation",
        False: "built WITHOUT profile-guided optimisation, which costs the gateway about a fifth",
        None: "which does not tell whether it was built with profile-guided optimisation",
    }
    return f"Python {known['python']} ({known['executable']}), {built[known['profile_guided']]}"
