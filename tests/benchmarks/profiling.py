"""Where the gateway's CPU time goes: py-spy's samples under load, as microseconds per request.

A sample counts for its innermost Python function, or for the kernel call, extension module or collector below it.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from tests.benchmarks.contenders import Running, Stage
from tests.benchmarks.load import measured
from tests.benchmarks.setup import VENV
from tests.benchmarks.workloads import Workload

_RATE = 500  # samples a second
_SHOWN = 40
_SMALLEST_US = 0.1
_KERNEL_CALLS = {
    "read",
    "recv",
    "readv",
    "write",
    "writev",
    "send",
    "sendmsg",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
}
_KERNEL_CALLS |= {"accept4", "close", "connect", "socket", "shutdown", "getsockopt", "setsockopt", "getsockname"}
_EXTENSION = re.compile(r"\b(_http_parser|_http_writer|loop|_asyncio\w*|_multidict|_re|_sre|select)\.\w+")


def profile(running: Running, workload: Workload, stage: Stage, seconds: int) -> str:
    """Loads a Python contender under py-spy; returns the functions that took most, themselves and with what they call."""
    cpu_us = measured(running, workload, stage, seconds).cpu_us  # without py-spy, which slows what it looks at
    file = stage.run / f"{running.name}.profile"
    py_spy = [str(VENV / "bin/py-spy"), "record", "--native", "-f", "raw", "-r", str(_RATE)]
    command = ["taskset", "-c", str(stage.load_core), *py_spy, "-d", str(seconds), "-o", str(file)]
    recorder = subprocess.Popen(
        [*command, "-p", str(running.process.pid)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    measured(running, workload, stage, seconds + 2)
    output, _ = recorder.communicate(timeout=60)
    if recorder.returncode or not file.exists():
        return f"py-spy failed; it needs root, since the gateway closes its memory to others\n{output[-1000:]}"
    return _shown(file, workload, cpu_us)


def _shown(file: Path, workload: Workload, cpu_us: float) -> str:
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for line in file.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        if not any(frame.endswith(".py)") for frame in frames) or "_worker (" in stack:
            continue
        own[_place(frames)] += int(count)
        for frame in {frame for frame in frames if frame.endswith(".py)")}:
            inclusive[frame] += int(count)
    total = sum(own.values())
    lines = [f"{workload.name}: {cpu_us:.1f} us of CPU per request, {total} samples"]
    places: Counter[str] = Counter()
    for name, samples in own.items():
        places[name.partition("(")[2].rstrip(")") or name.partition(":")[0]] += samples
    for title, counter in (("by file", places), ("in itself", own), ("with all it calls", inclusive)):
        lines.append(f"\n{'us/req':>8}{'share':>8}  {title}")
        for name, samples in counter.most_common(_SHOWN):
            if (spent_us := samples / total * cpu_us) >= _SMALLEST_US:
                lines.append(f"{spent_us:8.2f}{samples / total:8.1%}  {name}")
    return "\n".join(lines)


def _place(frames: list[str]) -> str:
    """Returns what the innermost frames are to be counted as."""
    for frame in reversed(frames):
        name, _, where = frame.partition(" ")
        call = name.removeprefix("__libc_").removeprefix("__")
        if call in _KERNEL_CALLS and ".so" in where:
            return f"kernel: {call}"
        if name.startswith("gc_collect"):
            return "garbage collector"
        if frame.endswith(".py)"):
            return frame
        if extension := _EXTENSION.search(where):
            return f"{name} ({extension[1]})"
    return frames[-1]


def _short(frame: str) -> str:
    """Returns `function (file)` without the line, the file from its package on."""
    frame = re.sub(r":\d+\)$", ")", frame)
    return re.sub(r"\((?:.*/)?(?:site-packages|lib/python[\d.]+|bin)/", "(", frame)
