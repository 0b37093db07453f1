"""The results: medians over the rounds, and the gateway's figure as a ratio to every peer's."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import interpreter
from tests.benchmarks.load import QUIET, Sample
from tests.benchmarks.standing import Standing
from tests.benchmarks.workloads import WORKLOADS

SUBJECT = "gateway"


@dataclass(slots=True)
class Results:
    """All that was measured in one run."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)  # workload -> contender -> one a round
    standings: dict[str, Standing] = field(default_factory=dict)

    def figure(self, workload: str, contender: str, name: str) -> float | None:
        """Returns the median of one of `Sample`'s figures, None if there is none."""
        samples = self.samples.get(workload, {}).get(contender, [])
        return median(getattr(sample, name) for sample in samples) if samples else None

    def ratio(self, workload: str, name: str, peer: str, subject: str = SUBJECT) -> float | None:
        """Returns the subject's figure divided by the peer's, None if one is missing."""
        own, theirs = self.figure(workload, subject, name), self.figure(workload, peer, name)
        return None if own is None or not theirs else own / theirs

    def write(self, file: Path, arguments: dict[str, Any]) -> None:
        """Writes every figure, none summed up, as JSON."""
        content = {
            "machine": interpreter.description() | {"kernel": platform.release(), "cores": os.cpu_count()},
            "arguments": arguments,
            "standings": {name: asdict(standing) for name, standing in self.standings.items()},
            "workloads": {
                workload: {
                    name: [asdict(sample) | {"cpu_us": sample.cpu_us} for sample in samples]
                    for name, samples in contenders.items()
                }
                for workload, contenders in self.samples.items()
            },
        }
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    text: Callable[[list[Sample]], str]


def _middle(name: str, form: str, scale: float = 1.0) -> Callable[[list[Sample]], str]:
    return lambda samples: form.format(median(getattr(sample, name) for sample in samples) * scale)


def _spread(samples: list[Sample]) -> str:
    figures = [sample.cpu_us for sample in samples]
    return f"{median(figures):.1f} [{min(figures):.1f}-{max(figures):.1f}]"


def _noise(samples: list[Sample]) -> str:
    others = median(sample.others for sample in samples)
    return f"{others * 100:.0f}%" + ("!" if others > QUIET else "")


_COLUMNS = (
    _Column("CPU us/req [min-max]", 24, _spread),
    _Column("user", 8, _middle("user_us", "{:.1f}")),
    _Column("system", 8, _middle("system_us", "{:.1f}")),
    _Column("req/s", 8, _middle("requests_per_s", "{:.0f}")),
    _Column("p50 ms", 8, _middle("p50_us", "{:.2f}", 0.001)),
    _Column("p99 ms", 8, _middle("p99_us", "{:.2f}", 0.001)),
    _Column("MiB", 7, _middle("peak_mib", "{:.1f}")),
    _Column("errors", 7, lambda samples: str(sum(sample.errors for sample in samples))),
    _Column("load", 6, _middle("load_core", "{:.0f}%", 100)),
    _Column("others", 7, _noise),
)
_RATIOS = (("CPU", "cpu_us"), ("req/s", "requests_per_s"), ("p50", "p50_us"), ("p99", "p99_us"), ("MiB", "peak_mib"))


def workload_table(results: Results, workload: str) -> str:
    """Returns one workload's table, the cheapest contender first."""
    contenders = results.samples[workload]
    own = SUBJECT in contenders
    title = f"{workload}  {WORKLOADS[workload].about}"
    header = f"{'':16}" + "".join(f"{column.title:>{column.width}}" for column in _COLUMNS)
    if own:
        header += f"  | {SUBJECT} / this: " + "".join(f"{name:>7}" for name, _ in _RATIOS)
    lines = ["", title, header]
    for name in sorted(contenders, key=lambda name: results.figure(workload, name, "cpu_us") or 0.0):
        samples = contenders[name]
        line = f"{name:16}" + "".join(f"{column.text(samples):>{column.width}}" for column in _COLUMNS)
        if own and name != SUBJECT:
            ratios = (results.ratio(workload, figure, name) for _, figure in _RATIOS)
            line += f"  | {'':{len(SUBJECT) + 9}}" + "".join(f"{_number(ratio):>7}" for ratio in ratios)
        lines.append(line)
    if any(_noise(samples).endswith("!") for samples in contenders.values()):
        lines.append("!  other programs used these cores meanwhile: repeat this on a quiet machine")
    return "\n".join(lines)


def standing_table(results: Results) -> str:
    """Returns start and memory of all contenders."""
    columns = {"start s": "start_s", "idle MiB": "idle_mib", "+1000 conns": "connections_mib"}
    columns |= {"10 GiB down": "download_mib", "10 GiB up": "upload_mib"}
    titles = [title for title, name in columns.items() if any(map(_has(name), results.standings.values()))]
    lines = ["", f"{'':16}" + "".join(f"{title:>14}" for title in titles) + f"   {SUBJECT} / this, alike"]
    own = results.standings.get(SUBJECT)
    for name, standing in results.standings.items():
        figures = [getattr(standing, columns[title]) for title in titles]
        line = f"{name:16}" + "".join(f"{_number(figure):>14}" for figure in figures)
        if own is not None and name != SUBJECT:
            ratios = (_divided(getattr(own, columns[title]), getattr(standing, columns[title])) for title in titles)
            line += "   " + "".join(f"{_number(ratio):>8}" for ratio in ratios)
        lines.append(line)
    return "\n".join(lines)


def _has(name: str) -> Callable[[Standing], bool]:
    return lambda standing: getattr(standing, name) is not None


def _divided(own: float | None, theirs: float | None) -> float | None:
    return None if own is None or theirs is None or theirs < 0.001 else own / theirs


def _number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"


def legend() -> Iterable[str]:
    """Returns what the columns mean."""
    return (
        "CPU us/req: user + system time of the proxy's process tree per request: the figure to compare, by its ratio.",
        "load: how busy the core of load and upstream was; near 100% it bounds req/s, which is then only a lower bound.",
        "p50, p99: from sending, all connections busy (W); from when the request was due (L). MiB: peak during the load.",
    )
