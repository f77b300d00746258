"""A real Prometheus scrapes a gateway: every panel of the dashboard and every rule finds its data."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.end_to_end.served import Gateway, running
from tests.gateway.test_metrics_rules import PROMETHEUS, panels, queries, rules

SECONDS = 400.0
ROUTE = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
# What nobody listens on.
NOWHERE = "http://127.0.0.1:9/v1"
OPTIONS = ("--engine", "simulated", "--simulated-ttft-ms", "20", "--simulated-tokens-per-second", "200")
REQUESTS_PER_MINUTE = 10
# Of queries, and of recording rules: what is more than 0 when ``ask_in_all_ways`` was called twice.
MOVED = re.compile(
    r"gateway_(requests|requests_refused|http_requests|tokens)_total|gateway_\w+_seconds_bucket"
    r"|gateway_(rows_written|engine_up|engine_places|start_time_seconds|info)\b|:gateway_"
)


class Prometheus:
    """A server of Debian's package, with this project's configuration. Use ``scraping``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self._process = process
        self._output = output
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=SECONDS)

    def wait_for(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, f"{what}\n{self._output.read_text()}"
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return self._client.get("/query", params={"query": "1"}).is_success
        except httpx.TransportError:
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What PromQL gives now."""
        answer = self._client.get("/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        """By name, as they were evaluated last."""
        groups = self._client.get("/rules").json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}


@contextmanager
def scraping(gateway: Gateway, folder: Path) -> Iterator[Prometheus]:
    """With no change but the target, and how often it is looked at."""
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(PROMETHEUS / name, folder)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [gateway.base_url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = folder / "prometheus.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        prometheus = Prometheus(process, port, output)
        prometheus.wait_for(prometheus.answers, "it answers")
        yield prometheus
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="prometheus-") as folder:
        yield Path(folder)


def asked_for_real(query: str) -> str:
    """A panel's query without Grafana's variables."""
    # All scrapes of a test, however late they come.
    return query.replace("$instance", ".*").replace("$model", ".*").replace("$__rate_interval", "10m")


def without_data(prometheus: Prometheus, expressions: dict[str, str]) -> list[str]:
    """The names of those that give nothing: no number, or none above 0 of what has moved."""
    found = []
    for name, one in expressions.items():
        # What is not a number is neither: a quantile of nothing, a part of nothing.
        values = [float(series["value"][1]) for series in prometheus.ask(asked_for_real(one))]
        if not any(value > 0 if MOVED.search(one) else not math.isnan(value) for value in values):
            found.append(name)
    return found


def panel_queries(*, of_vllm: bool) -> dict[str, str]:
    return {
        f"{panel['title']}: {query}": query
        for panel in panels()
        for query in queries(panel)
        if ("vllm:" in query) is of_vllm
    }


def ask_in_all_ways(gateway: Gateway) -> None:
    """One request that ends as each outcome."""
    with httpx.Client(base_url=gateway.base_url, timeout=SECONDS) as client:
        assert client.post(ROUTE, json=CHAT).status_code == 200
        assert client.post(ROUTE, json=CHAT | {"stream": True}).status_code == 200
        assert client.post(ROUTE, json={}).status_code == 400
        assert client.get("/nowhere").status_code == 404
        long = {"messages": [{"role": "user", "content": "a long answer " * 1000}], "stream": True}
        with client.stream("POST", ROUTE, json=long) as answer:
            next(answer.iter_lines())
        late = client.post(ROUTE, json=long | {"stream": False}, headers={"x-request-timeout": "0.2"})
        assert late.status_code == 504


def test_every_panel_and_every_rule_finds_its_data(folder: Path, data_dir: Path) -> None:
    settings = {
        "GATEWAY_ANONYMOUS_LIMITS": json.dumps({"requests_per_minute": REQUESTS_PER_MINUTE}),
        "GATEWAY_FALLBACKS": json.dumps([{"name": "spare", "url": NOWHERE}]),
        "GATEWAY_MAX_RUNNING_REQUESTS": "16",
    }
    with running(data_dir, *OPTIONS, **settings) as gateway, scraping(gateway, folder) as prometheus:
        prometheus.wait_for(lambda: prometheus.ask("up == 1"), "the gateway is scraped")
        ask_in_all_ways(gateway)
        outcomes = 'count(gateway_requests_total{outcome=~"completed|cancelled|timeout"}) == 3'
        prometheus.wait_for(lambda: prometheus.ask(outcomes), "each outcome is there")
        # A series that begins does not grow yet.
        ask_in_all_ways(gateway)
        gateway.wait_for(lambda: httpx.post(gateway.base_url + ROUTE, json=CHAT).status_code == 429)
        shown = panel_queries(of_vllm=False)
        assert len(shown) > 40
        recorded = {rule["record"]: rule["record"] for rule in rules("rules.yml")}
        wanted = shown | recorded
        assert len([one for one in wanted.values() if MOVED.search(one)]) > 30
        nothing = {"a part of nothing": "vector(0) / 0", "no series": "vector(0) > 1"}
        assert without_data(prometheus, nothing) == list(nothing)
        prometheus.wait_for(lambda: not without_data(prometheus, wanted), "all panels and recording rules")
        refused = 'sum(gateway_requests_refused_total{reason="requests_per_minute"})'
        assert float(prometheus.ask(refused)[0]["value"][1]) >= 1

        prometheus.wait_for(
            lambda: all(rule["health"] != "unknown" for rule in prometheus.rules().values()), "all evaluated"
        )
        evaluated = prometheus.rules()
        for alert in rules("alerts.yml"):
            assert evaluated[alert["alert"]]["health"] == "ok", evaluated[alert["alert"]]
            if "vllm:" not in alert["expr"]:
                for metric in re.findall(r"(?:\w+:)?(?:gateway|process)_\w+(?::\w+)?", alert["expr"]):
                    assert prometheus.ask(metric), f"{alert['alert']}: {metric}"


@pytest.mark.vllm
def test_the_panels_of_the_engine_find_its_metrics(folder: Path, demo: Gateway) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 8, "stream": True}
    with scraping(demo, folder) as prometheus:
        prometheus.wait_for(lambda: prometheus.ask("up == 1"), "the gateway is scraped")
        for _ in range(2):
            assert httpx.post(f"{demo.base_url}/v1/completions", json=body, timeout=SECONDS).is_success
        shown = panel_queries(of_vllm=True)
        assert len(shown) > 8
        prometheus.wait_for(lambda: not without_data(prometheus, shown), "all panels")
        for alert in rules("alerts.yml"):
            for metric in re.findall(r"vllm:\w+", alert["expr"]):
                assert prometheus.ask(metric), f"{alert['alert']}: {metric}"
