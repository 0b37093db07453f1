"""One measurement: load from the load's core for some seconds, and what it cost the contender."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass

from tests.benchmarks.contenders import SERVERS, Running, Stage
from tests.benchmarks.processes import CpuTime, cores_time, own_children_time
from tests.benchmarks.setup import OPEN_LOOP
from tests.benchmarks.workloads import Workload

QUIET = 0.15  # cores used by others, up to which a figure is taken as it is
_LOOK_S = 0.2


class LoadError(Exception):
    """The load generator failed; the text holds its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one measurement gave."""

    requests: int
    requests_per_s: float
    p50_us: float  # L1: from when the request was due; else from when it was sent
    p99_us: float
    errors: int  # any answer but 2xx and 3xx, timeouts, connections that failed
    user_us: float  # CPU per request, the contender's whole tree
    system_us: float
    peak_mib: float
    load_core: float  # how busy the load's core was, 0 to 1
    others: float  # cores used, or stolen, by what is no part of this benchmark, 0 to 2

    @property
    def cpu_us(self) -> float:
        """CPU per request: user and system time."""
        return self.user_us + self.system_us


def measured(running: Running, workload: Workload, stage: Stage, seconds: int) -> Sample:
    """Loads a contender and returns what it took. Raises LoadError."""
    process = running.process
    process.forget_peak()
    cores = {stage.proxy_core, stage.load_core}
    cores_before, load_before = cores_time(cores), cores_time({stage.load_core})
    ours_before, cpu_before = _around(stage), process.cpu_time()
    answer = _generated(running.port, workload, stage, seconds)
    cpu = process.cpu_time().since(cpu_before)
    ours = _around(stage).since(ours_before)
    cores_after, load_after = cores_time(cores), cores_time({stage.load_core})
    elapsed_s = answer["us"] / 1e6
    requests = int(answer["requests"])
    if not requests:
        raise LoadError(f"{running.name} answered nothing under {workload.name}")
    busy_s = cores_after.busy_s - cores_before.busy_s
    return Sample(
        requests=requests,
        requests_per_s=requests / elapsed_s,
        p50_us=answer["p50_us"],
        p99_us=answer["p99_us"],
        errors=int(answer["errors"]),
        user_us=cpu.user_s / requests * 1e6,
        system_us=cpu.system_s / requests * 1e6,
        peak_mib=process.peak_memory_mib(),
        load_core=(load_after.busy_s - load_before.busy_s) / elapsed_s,
        others=max(0.0, (busy_s - cpu.total_s - ours.total_s) / elapsed_s),
    )


def settle(stage: Stage, limit_s: float) -> None:
    """Waits until both cores are quiet, or the time is over: the one before has closed its connections, for instance."""
    cores = {stage.proxy_core, stage.load_core}
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        before = cores_time(cores).busy_s
        time.sleep(_LOOK_S)
        if (cores_time(cores).busy_s - before) / _LOOK_S < QUIET:
            return


def _around(stage: Stage) -> CpuTime:
    """Returns the CPU time of all that is ours but the contender's."""
    times = [own_children_time(), *(server.cpu_time() for server in stage.servers)]
    return CpuTime(sum(time.user_s for time in times), sum(time.system_s for time in times))


def _generated(port: int, workload: Workload, stage: Stage, seconds: int) -> dict[str, float]:
    if workload.rate:
        numbers = [port, workload.path, workload.rate, seconds, workload.connections]
        return _run([str(OPEN_LOOP), *map(str, numbers)], {}, stage, seconds)
    environment = {
        "METHOD": workload.method,
        "BODY": str(workload.body),
        "CLOSE": str(int(workload.close)),
        "MORE_HEADERS": str(workload.more_headers),
        "UNLIKE": str(int(workload.unlike)),
    }
    command = ["wrk", "-t1", f"-c{workload.connections}", f"-d{seconds}s", "--timeout", "20s"]
    command += ["-s", str(SERVERS / "wrk.lua"), f"http://127.0.0.1:{port}{workload.path}"]
    answer = _run(command, environment, stage, seconds)
    # A connection that ends behind its answer is what W6 asks for; wrk calls that an error of reading.
    kinds = ["status", "connect", "write", "timeout", *([] if workload.close else ["read"])]
    return answer | {"errors": sum(answer[kind] for kind in kinds)}


def _run(command: list[str], environment: dict[str, str], stage: Stage, seconds: int) -> dict[str, float]:
    done = subprocess.run(
        ["taskset", "-c", str(stage.load_core), *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or [""]
    try:
        answer: dict[str, float] = json.loads(last[0])
    except json.JSONDecodeError:
        raise LoadError(f"{command[0]}: {done.stdout[-500:]}{done.stderr[-500:]}") from None
    return answer
