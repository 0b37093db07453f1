"""The gateway beside other proxies: what a request costs each of them. `make bench ARGS="..."`; README.md explains.

make bench                                              W1 against every peer that is installed
make bench ARGS="--peers nginx,envoy --workload W1,W2 --rounds 5 --json results.json"
make bench ARGS="--budget"                              every line of the budget
make bench ARGS="--profile --peers none"                where the gateway's time goes under W1
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from statistics import median

from proxy.hardening import raise_descriptor_limit
from tests.benchmarks import budget, interpreter, setup
from tests.benchmarks.contenders import GATEWAYS, PEERS, Running, Stage
from tests.benchmarks.load import QUIET, LoadError, Sample, measured, settle
from tests.benchmarks.processes import NotStartedError
from tests.benchmarks.profiling import profile
from tests.benchmarks.protections import PROTECTIONS, failed
from tests.benchmarks.report import SUBJECT, Results, legend, standing_table, workload_table
from tests.benchmarks.standing import Standing, download_mib, idle_connections_mib, upload_mib, wrong_answers
from tests.benchmarks.workloads import WORKLOADS, Workload

_WARM_UP_S = 1


class UnsoundError(Exception):
    """The gateway answered other than it must; its figures would be worth nothing."""


def main() -> int:
    """Runs what was asked for. 0 = measured, 1 = the gateway is not sound, or failed; 2 = something is missing."""
    options = _options()
    if not options.no_setup:
        setup.set_up()
    if missing := setup.indispensable():
        _say(f"missing: {', '.join(missing)}. INSTALL=1 make bench, as root, installs it (Debian, Ubuntu)")
        return 2
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _say("two cores are needed: one for the proxy alone, one for load and upstream")
        return 2
    stage = Stage(proxy_core=cores[0], load_core=cores[1], before=options.before)
    os.sched_setaffinity(0, {stage.load_core})
    raise_descriptor_limit()  # for what is started from here as well
    running: dict[str, Running] = {}
    results = Results()
    try:
        stage.set_up()
        print(interpreter.header(interpreter.description()), flush=True)
        for name in options.contenders:
            _enter(name, stage, options, running, results)
        print(standing_table(results), flush=True)
        for workload in options.workloads:
            _run(workload, stage, options, running, results)
            if workload in results.samples:
                print(workload_table(results, workload), flush=True)
        _prove_sound(running)
        if options.profile and SUBJECT in running:
            print("\n" + profile(running[SUBJECT], WORKLOADS[options.workloads[0]], stage, options.seconds))
    except (NotStartedError, LoadError, UnsoundError) as error:
        _say(str(error))
        return 1
    finally:
        for contender in running.values():
            contender.process.stop()
        stage.tear_down()
    print("", *legend(), sep="\n")
    if options.budget:
        print(budget.table(results))
    if options.json:
        shown = {name: str(value) for name, value in vars(options).items()}
        results.write(options.json, shown)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*PEERS, *GATEWAYS, "before")
    parser.add_argument("--peers", help=f"of {','.join(known)}; or none (default: {','.join(PEERS)})")
    parser.add_argument("--workload", help=f"of {','.join(WORKLOADS)}; or all (default: W1)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turn (default: 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long one measurement takes (default: 4)")
    parser.add_argument(
        "--wait", type=float, default=3, help="seconds to wait for quiet cores before each (default: 3)"
    )
    parser.add_argument("--retakes", type=int, default=0, help="measure again if others disturbed (default: 0 times)")
    parser.add_argument("--starts", type=int, default=3, help="starts of each, for its start time (default: 3)")
    parser.add_argument("--before", type=Path, help="another checkout with its .venv: the contender `before`")
    parser.add_argument("--large-bodies", action="store_true", help="memory while 10 GiB pass each way (the gateway's)")
    parser.add_argument("--budget", action="store_true", help="all workloads, and each line of the budget: met or not")
    parser.add_argument("--profile", action="store_true", help="profile the gateway under the first workload")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--no-setup", action="store_true", help="take what is there")
    options = parser.parse_args()
    peers = options.peers or ",".join(budget.PEERS if options.budget else PEERS)
    chosen = [] if peers == "none" else peers.split(",")
    if options.before is not None and "before" not in chosen:
        chosen.append("before")
    if options.budget:
        options.large_bodies = True
        chosen += [name for name in budget.EXTRA if name not in chosen]
    workloads = options.workload or ("all" if options.budget else "W1")
    options.workloads = list(WORKLOADS) if workloads == "all" else workloads.split(",")
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"unknown peers: {', '.join(unknown)}")
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"unknown workloads: {', '.join(unknown)}")
    options.contenders = [SUBJECT, *(name for name in chosen if name != SUBJECT)]
    return options


def _enter(name: str, stage: Stage, options: argparse.Namespace, running: dict[str, Running], results: Results) -> None:
    """Starts a contender, looks at its answers, and measures how it stands when idle."""
    if (lacking := stage.unavailable(name)) is not None:
        _say(f"without {name}: {lacking.reason}")
        return
    starts: list[float] = []
    for number in range(max(1, options.starts)):
        if number:
            running.pop(name).process.stop()
        running[name] = stage.start(name)
        starts.append(running[name].start_s)
    contender = running[name]
    idle_mib = contender.process.memory_mib()
    if faults := wrong_answers(contender.port):
        if name in GATEWAYS:
            raise UnsoundError(f"{name} answers wrongly: {'; '.join(faults)}")
        _say(f"without {name}: it answers wrongly: {'; '.join(faults)}")
        running.pop(name).process.stop()
        return
    if name in GATEWAYS:
        _prove_sound({name: contender})
    bodies: dict[str, float] = {}
    if name == SUBJECT and options.large_bodies:  # first: memory freed by others would hide what they take
        bodies = {"download_mib": download_mib(contender), "upload_mib": upload_mib(contender)}
    connections_mib = idle_connections_mib(contender)
    results.standings[name] = Standing(
        start_s=median(starts), idle_mib=idle_mib, connections_mib=connections_mib, **bodies
    )


def _run(
    workload: str, stage: Stage, options: argparse.Namespace, running: dict[str, Running], results: Results
) -> None:
    """Measures all contenders under one workload, in turn: A B C, C B A, ..."""
    load = WORKLOADS[workload]
    if load.rate and not setup.OPEN_LOOP.exists():
        _say(f"without {workload}: its load generator could not be compiled")
        return
    names = [name for name in running if not options.budget or budget.EXTRA.get(name, workload) == workload]
    samples = results.samples[workload] = {name: [] for name in names}
    for name in names:
        measured(running[name], load, stage, _WARM_UP_S)
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            sample = _undisturbed(running[name], load, stage, options)
            samples[name].append(sample)
            _say(
                f"{workload} round {number + 1} {name:16} {sample.cpu_us:7.1f} us/req {sample.requests_per_s:7.0f}/s"
                f" {sample.errors} errors, others {sample.others:.0%}"
            )


def _undisturbed(running: Running, load: Workload, stage: Stage, options: argparse.Namespace) -> Sample:
    """Measures once, and again while others used the cores meanwhile; the least disturbed counts."""
    samples: list[Sample] = []
    for _ in range(1 + options.retakes):
        settle(stage, options.wait)
        samples.append(measured(running, load, stage, options.seconds))
        if samples[-1].others <= QUIET:
            break
    return min(samples, key=lambda sample: sample.others)


def _prove_sound(running: dict[str, Running]) -> None:
    """Sends the gateways what they must refuse. Raises UnsoundError."""
    for name in GATEWAYS:
        if name in running and (faults := failed(running[name].port)):
            raise UnsoundError(f"{name} did not refuse what it must:\n  " + "\n  ".join(faults))
        if name in running:
            _say(f"{name} refused {len(PROTECTIONS)} of {len(PROTECTIONS)} requests that it must refuse")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
