"""Processes under measurement: started on one core, their CPU time and memory summed over the whole tree, and ended.

Everything is read from Linux's /proc. CPU time is user and system time as the scheduler counts it, in seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_POLL_S = 0.002


class NotStartedError(Exception):
    """A program ended, or did not answer in time; the text says which, and where its output is."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds of CPU."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.user_s + self.system_s

    def since(self, earlier: CpuTime) -> CpuTime:
        """Returns what was spent from then to now."""
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


@dataclass(frozen=True, slots=True)
class CoreTime:
    """What a set of cores did since boot, in seconds summed over them."""

    busy_s: float
    stolen_s: float  # by other guests of the same host


def free_port() -> int:
    """Returns a port of loopback that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cores_time(cores: set[int]) -> CoreTime:
    """Returns what these cores did, whoever asked them to."""
    busy = stolen = 0
    for line in (_PROC / "stat").read_text().splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, numbers[:8])
            busy += user + nice + system + irq + softirq + steal
            stolen += steal
    return CoreTime(busy / _TICKS, stolen / _TICKS)


def own_children_time() -> CpuTime:
    """Returns the CPU time of this process and of its children that have ended, such as a load generator."""
    times = os.times()
    return CpuTime(times.user + times.children_user, times.system + times.children_system)


class Process:
    """One program and its children, in a session of their own."""

    def __init__(
        self, name: str, argv: Sequence[str], *, core: int, log: Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self.started_at = time.perf_counter()
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                ["taskset", "-c", str(core), *argv],
                env=dict(os.environ) | dict(env or {}),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The first process."""
        return self._popen.pid

    def until_answer(self, port: int, status: int, *, limit_s: float = 20.0) -> float:
        """Waits for the first answer with this status, and returns how long it took from the start, in seconds.

        Raises NotStartedError if the program ends or the time is over.
        """
        request = b"GET /api/1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        while time.perf_counter() - self.started_at < limit_s:
            if self._popen.poll() is not None:
                raise NotStartedError(f"{self.name} ended with code {self._popen.returncode}; see {self.log}")
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
                    connection.sendall(request)
                    if connection.recv(64).split(b" ")[1:2] == [b"%d" % status]:
                        return time.perf_counter() - self.started_at
            except OSError:
                pass
            time.sleep(_POLL_S)
        raise NotStartedError(f"{self.name} did not answer {status} within {limit_s:.0f} s; see {self.log}")

    def pids(self) -> list[int]:
        """Returns the process and all that descend from it."""
        children: dict[int, list[int]] = {}
        for entry in _PROC.iterdir():
            if entry.name.isdigit() and (stat := _stat(int(entry.name))):
                children.setdefault(int(stat[1]), []).append(int(entry.name))
        found: list[int] = []
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += children.get(pid, [])
        return found

    def cpu_time(self) -> CpuTime:
        """Returns what the tree has used, children that ended included."""
        user = system = 0
        for pid in self.pids():
            if stat := _stat(pid):
                user += int(stat[11]) + int(stat[13])
                system += int(stat[12]) + int(stat[14])
        return CpuTime(user / _TICKS, system / _TICKS)

    def memory_mib(self) -> float:
        """Returns the resident memory, in MiB; pages that two processes share count twice."""
        return sum(_status_kib(pid, "VmRSS") for pid in self.pids()) / 1024

    def peak_memory_mib(self) -> float:
        """Returns the most that was resident since `forget_peak`, in MiB."""
        return sum(_status_kib(pid, "VmHWM") for pid in self.pids()) / 1024

    def forget_peak(self) -> None:
        """Lets the peak count from now on."""
        for pid in self.pids():
            try:
                (_PROC / str(pid) / "clear_refs").write_text("5")
            except OSError:
                continue  # not ours to reset, or gone: the peak then counts from the start

    def stop(self) -> None:
        """Ends the tree: asked to first, killed if it does not."""
        pids = self.pids()
        for number, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            deadline = time.perf_counter() + patience_s
            while time.perf_counter() < deadline:
                self._popen.poll()
                if not any(map(_alive, pids)):
                    return
                time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _alive(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def _status_kib(pid: int, name: str) -> int:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)
