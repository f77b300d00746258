"""What Ray's proxy costs: ``python -m benchmarks.ray_serve``.

The same gateway with the simulated engine, which answers at once, twice on this machine at the same time:
as ``chatglm-gateway serve``, and as one replica behind Ray's proxy; both write their rows to one PostgreSQL.
Each load goes to one and to the other by turns, ROUNDS times; printed are medians and their ratio.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.load import LoadResult, Scenario, measure
from benchmarks.report import LATENCY_P50, LATENCY_P99, REQUESTS, TOKENS, TTFT_P50, TTFT_P99
from tests.end_to_end.served import running
from tests.faults.postgres import postgres
from tests.faults.ray_cluster import cluster

ROUNDS = 3
SECONDS = 3.0
MODEL = "simulated"
# The simulated engine echoes the question, which is longer than this.
TOKENS_EACH = 64

STREAMED = (TTFT_P50, TTFT_P99, LATENCY_P50, REQUESTS, TOKENS)
WHOLE = (LATENCY_P50, LATENCY_P99, REQUESTS)
LOADS = [Scenario(clients, TOKENS_EACH, stream) for stream in (True, False) for clients in (1, 32)]


def main() -> None:
    """Print a table."""
    with postgres() as server, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        options = ("--engine", "simulated", "--no-access-log", "--database-url", server.url)
        with (
            running(Path(folder) / "alone", *options) as alone,
            cluster(server.url, Path(folder) / "ray", GATEWAY_ACCESS_LOG="false") as ray,
        ):
            ray.deploy(1)
            ray.until_running(1)
            print("| load | | gateway alone | behind Ray's proxy | ratio |\n|---|---|---|---|---|")
            for scenario in LOADS:
                compare(scenario, alone.base_url, ray.base_url, alone.process.pid)


def compare(scenario: Scenario, alone: str, behind: str, pid: int) -> None:
    """Print a line for each figure. ``pid``: a process to look at, whose CPU time is not printed."""
    results: tuple[list[LoadResult], list[LoadResult]] = ([], [])
    for _ in range(ROUNDS):
        for url, found in zip((alone, behind), results, strict=True):
            port = urlsplit(url).port
            assert port is not None
            found.append(asyncio.run(measure(scenario, port=port, pid=pid, model=MODEL, seconds=SECONDS)))
    for metric in STREAMED if scenario.stream else WHOLE:
        one, other = (median(metric.value(result) for result in found) for found in results)
        figures = f"{one:.1f} | {other:.1f} | {other / one:.2f}"
        print(f"| {scenario.name} | {metric.title} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
