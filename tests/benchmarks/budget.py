"""The budget: how the gateway must stand beside its peers, all protections on, and whether it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.report import SUBJECT, Results

PEERS = ("nginx", "envoy", "go")
EXTRA = {"gateway-log": "W1", "gateway-refresh": "L1"}  # contenders that one workload needs


@dataclass(frozen=True, slots=True)
class Line:
    """One promise: a figure that stays at or below its limit."""

    about: str
    limit: float
    measured: Callable[[Results], float | None]


def _beside(workload: str, peer: str, limit: float, figure: str = "cpu_us", subject: str = SUBJECT) -> Line:
    name = figure.removesuffix("_us").replace("cpu", "CPU")
    return Line(
        f"{workload} {name}: {subject} / {peer}", limit, lambda results: results.ratio(workload, figure, peer, subject)
    )


def _standing(about: str, limit: float, figure: str) -> Line:
    def measured(results: Results) -> float | None:
        standing = results.standings.get(SUBJECT)
        value: float | None = None if standing is None else getattr(standing, figure)
        return value

    return Line(about, limit, measured)


LINES = (
    _beside("W1", "nginx", 2.2),
    _beside("W1", "envoy", 0.65),
    _beside("W1", "go", 0.6),
    _beside("W1", "gateway", 1.2, subject="gateway-log"),
    _beside("W2", "envoy", 0.65),
    _beside("W3", "nginx", 1.1),
    _beside("W4", "envoy", 0.9),
    _beside("W4", "go", 0.9),
    _beside("W5", "envoy", 0.5),
    _beside("W5", "envoy", 1.0, "p99_us"),
    _beside("W6", "envoy", 0.7),
    _beside("W7", "envoy", 0.65),
    _beside("L1", "envoy", 1.0, "p50_us"),
    _beside("L1", "envoy", 1.0, "p99_us"),
    # "no step": within what two runs of the same program differ by here
    _beside("L1", "gateway", 1.25, "p99_us", subject="gateway-refresh"),
    _standing("idle memory, MiB", 65.0, "idle_mib"),
    _standing("1000 idle connections, MiB more", 10.0, "connections_mib"),
    _standing("10 GiB response, MiB more", 8.0, "download_mib"),
    _standing("10 GiB request, MiB more", 8.0, "upload_mib"),
    _standing("start to first answer, s", 1.0, "start_s"),
)


def table(results: Results) -> str:
    """Returns every line with its figure of this run."""
    rows = ["", f"{'budget':42}{'limit':>8}{'measured':>10}"]
    for line in LINES:
        figure = line.measured(results)
        if figure is None:
            rows.append(f"{line.about:42}{line.limit:8.2f}{'-':>10}  not measured")
        else:
            verdict = "met" if figure <= line.limit else "NOT MET"
            rows.append(f"{line.about:42}{line.limit:8.2f}{figure:10.2f}  {verdict}")
    return "\n".join(rows)
