"""The benchmark's arithmetic: medians, ratios, and what the budget says of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks import budget
from tests.benchmarks.load import Sample
from tests.benchmarks.report import Results, workload_table
from tests.benchmarks.standing import Standing


def sample(cpu_us: float, *, others: float = 0.0) -> Sample:
    return Sample(
        requests=1000,
        requests_per_s=1e6 / cpu_us,
        p50_us=2 * cpu_us,
        p99_us=9 * cpu_us,
        errors=0,
        user_us=cpu_us - 10,
        system_us=10,
        peak_mib=50,
        load_core=0.9,
        others=others,
    )


def results(gateway_us: float, nginx_us: float, *, others: float = 0.0) -> Results:
    """Three rounds each, of which one went astray."""
    taken = {
        "gateway": [sample(gateway_us, others=others), sample(gateway_us), sample(9 * gateway_us, others=others)],
        "nginx": [sample(nginx_us), sample(nginx_us), sample(5 * nginx_us)],
    }
    standing = Standing(start_s=0.5, idle_mib=66.0, connections_mib=8.0)
    return Results(samples={"W1": taken}, standings={"gateway": standing})


def test_a_ratio() -> None:
    """Of the medians, so that one round does not count."""
    assert results(30.0, 15.0).ratio("W1", "cpu_us", "nginx") == 2.0


def test_a_ratio_to_nobody() -> None:
    """None, not a number, where the peer or the workload is missing."""
    assert results(30.0, 15.0).ratio("W1", "cpu_us", "envoy") is None
    assert results(30.0, 15.0).ratio("W2", "cpu_us", "nginx") is None


def test_the_table() -> None:
    """Both contenders, the cheaper one first, with the gateway's ratio behind the peer."""
    lines = workload_table(results(30.0, 15.0), "W1").splitlines()

    assert [line.split()[0] for line in lines[3:]] == ["nginx", "gateway"]
    assert lines[3].split("|")[1].split() == ["2.00", "0.50", "2.00", "2.00", "1.00"]


def test_a_disturbed_run() -> None:
    """It is marked as such."""
    assert "repeat this on a quiet machine" in workload_table(results(30.0, 15.0, others=0.5), "W1")
    assert "repeat this on a quiet machine" not in workload_table(results(30.0, 15.0), "W1")


def test_the_budget() -> None:
    """A line is met, not met, or was not measured."""
    verdicts = {row[:42].strip(): row[60:].strip() for row in budget.table(results(30.0, 15.0)).splitlines()[2:]}

    assert verdicts["W1 CPU: gateway / nginx"] == "met"
    assert verdicts["idle memory, MiB"] == "NOT MET"
    assert verdicts["W1 CPU: gateway / envoy"] == "not measured"
    assert "NOT MET" in budget.table(results(34.0, 15.0)).splitlines()[2]


def test_the_file(tmp_path: Path) -> None:
    """Every figure, none summed up."""
    file = tmp_path / "results.json"
    results(30.0, 15.0).write(file, {"rounds": "3"})

    content = json.loads(file.read_text(encoding="utf-8"))
    assert [taken["cpu_us"] for taken in content["workloads"]["W1"]["gateway"]] == [30.0, 30.0, 270.0]
    assert content["standings"]["gateway"]["idle_mib"] == 66.0
