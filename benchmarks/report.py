"""Measurements as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import LoadResult, Percentiles, Scenario

Results = Mapping[Scenario, Sequence[LoadResult]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a result, with its unit."""

    title: str
    value: Callable[[LoadResult], float]


def _ttft(result: LoadResult) -> Percentiles:
    assert result.ttft_ms is not None
    return result.ttft_ms


CPU_PER_TOKEN = Metric("front-end CPU per token, µs", lambda result: result.cpu_us_per_token)
CPU_PER_REQUEST = Metric("front-end CPU per request, µs", lambda result: result.cpu_us_per_request)
TOKENS = Metric("tokens/s", lambda result: result.tokens_per_second)
REQUESTS = Metric("requests/s", lambda result: result.requests_per_second)
TTFT_P50 = Metric("time to first token p50, ms", lambda result: _ttft(result).p50)
TTFT_P99 = Metric("time to first token p99, ms", lambda result: _ttft(result).p99)
LATENCY_P50 = Metric("latency p50, ms", lambda result: result.latency_ms.p50)
LATENCY_P99 = Metric("latency p99, ms", lambda result: result.latency_ms.p99)
EVENTS = Metric("events per token", lambda result: result.events_per_token)
MEMORY = Metric("front-end resident memory, MiB", lambda result: result.server_resident_mib)

STREAMED = (
    CPU_PER_TOKEN,
    CPU_PER_REQUEST,
    TOKENS,
    REQUESTS,
    TTFT_P50,
    TTFT_P99,
    LATENCY_P50,
    LATENCY_P99,
    EVENTS,
    MEMORY,
)
WHOLE = (CPU_PER_REQUEST, CPU_PER_TOKEN, REQUESTS, TOKENS, LATENCY_P50, LATENCY_P99, MEMORY)


def render_tables(by_server: Mapping[str, Results]) -> str:
    """A table for the streamed scenarios and one for the others; rows metric by metric, load by load."""
    scenarios = list(next(iter(by_server.values())))
    parts: list[str] = []
    for title, stream, metrics in (("Streamed", True, STREAMED), ("Not streamed", False, WHOLE)):
        chosen = [scenario for scenario in scenarios if scenario.stream is stream]
        if chosen:
            heading = f"### {title}: {chosen[0].tokens} tokens per answer"
            rows = [render_row(metric, scenario, by_server) for metric in metrics for scenario in chosen]
            parts += [heading, "\n".join([*_head(list(by_server)), *rows])]
    return "\n\n".join(parts)


def _head(servers: Sequence[str]) -> list[str]:
    titles = ["", "clients", *servers, *([" / ".join(servers)] if len(servers) == 2 else [])]
    return [line(titles), line(["---", *["---:"] * (len(titles) - 1)])]


def render_row(metric: Metric, scenario: Scenario, by_server: Mapping[str, Results]) -> str:
    """One metric of one scenario: each server's median and spread, and what the medians' ratio is."""
    samples = [[metric.value(result) for result in results[scenario]] for results in by_server.values()]
    cells = [metric.title, str(scenario.clients), *map(render_spread, samples)]
    if len(samples) == 2:
        cells.append(f"{median(samples[0]) / median(samples[1]):.2f}")
    return line(cells)


def render_spread(values: Sequence[float]) -> str:
    """The median, and the least and the greatest value."""
    return f"{figure(median(values))} ({figure(min(values))}–{figure(max(values))})"


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def line(cells: Sequence[str]) -> str:
    """Of a table."""
    return f"| {' | '.join(cells)} |"


def write_between_markers(document: Path, name: str, text: str) -> None:
    """Replace what stands between the two marker comments of ``document`` that have this ``name``."""
    begin, end = f"<!-- {name} benchmark: begin -->", f"<!-- {name} benchmark: end -->"
    before, found_begin, rest = document.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{document} lacks {begin} or {end}")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")
