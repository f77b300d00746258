"""What the metrics say of requests, and that nobody can make more of them than there are."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import get_args
from uuid import UUID

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import MmapedDict

from engine.base import Delta, DeltaStream, Engine, GenerationRequest, Instead, Told, ToldCall, Usage
from engine.circuit_breaker import FAILURES, CircuitBreaker
from engine.ladder import Ladder
from engine.simulated import SimulatedEngine
from engine.upstream import Upstream, UpstreamEngine
from gateway import metrics
from gateway.access.caller import ANONYMOUS, Caller
from gateway.app import create_app
from gateway.errors import RefusedAs
from gateway.generation import AbortReason
from gateway.generation_stats import GenerationStats
from gateway.limits.account import Kind
from gateway.metrics.process import Pulse
from gateway.metrics.requests import LEFT_REASONS, OTHER, REASONS, UNKNOWN
from gateway.metrics.scrape import FOLDER, exposition
from gateway.metrics.watched import refresh, watch
from gateway.settings import load
from tests.gateway.fakes import AN_HOUR_MS, House
from tests.gateway.in_process import InProcess, in_process
from tests.strategies import echo_request, texts

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "metrics.md").read_text()
ROUTE = "/v1/chat/completions"

# Requests that end in all kinds of ways, beside whatever else comes.
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BODIES = st.sampled_from([CHAT, CHAT | {"model": "other"}, CHAT | {"stream": True}, {}, [], "x"])
KNOWN_PATHS = st.sampled_from([ROUTE, "/v1/completions", "/chat/chat", "/v1/models", "/metrics", "/tokenize"])
PATHS = KNOWN_PATHS | st.builds("{}/{}".format, KNOWN_PATHS, texts) | st.builds("/{}".format, texts)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]) | st.text(
    "ABCXYZ", min_size=1, max_size=9
)
HEADERS = ["x-request-id", "authorization", "user-agent", "x-forwarded-for", "host", "cookie"]

LOOKED_REGISTRY = CollectorRegistry()
LOOKED = Gauge("looked", "A gauge of these tests.", registry=LOOKED_REGISTRY)


class Telling(SimulatedEngine):
    """Answers each request with ``deltas``."""

    def __init__(self, deltas: Sequence[Delta]) -> None:
        super().__init__()
        self._deltas = deltas

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        return TellingStream(iter(self._deltas))


@dataclass
class TellingStream:
    deltas: Iterator[Delta]

    async def next(self) -> Delta:
        return next(self.deltas)

    async def abort(self) -> None:
        """It has told all there is."""


def value(name: str, **labels: object) -> float:
    return REGISTRY.get_sample_value(name, {key: str(label) for key, label in labels.items()}) or 0.0


def own_families() -> Iterator[Metric]:
    return (family for family in REGISTRY.collect() if family.name.startswith("gateway_"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcess]:
    gateway = in_process(tmp_path, authentication=False)
    yield gateway
    await gateway.client.aclose()


STATS = GenerationStats(
    request_id="r",
    endpoint=ROUTE,
    model="one",
    caller=ANONYMOUS,
    stream=True,
    status="completed",
    finish_reasons=["stop", "stop"],
    usage=Usage(7, 12, 3),
    arrived=0.0,
    queue_seconds=0.0,
    ttft_seconds=0.5,
    seconds=1.5,
    commit_seconds=0.25,
    row_ids=[UUID(int=1)],
    conversation_id=None,
    instead=[Instead("spare", "overloaded")],
)


def test_a_request_that_has_ended_is_counted_once_with_its_tokens_and_times() -> None:
    model = "counted once"
    stats = replace(STATS, model=model, caller=Caller(UUID(int=1), UUID(int=2)))
    degraded = value("gateway_degraded_answers_total", by="spare", reason="overloaded")
    commits = value("gateway_commit_wait_seconds_sum")
    metrics.observe(stats)
    labels = {"route": ROUTE, "model": model, "outcome": "completed", "caller": "key"}
    assert value("gateway_requests_total", **labels) == 1
    kinds = ("prompt", "completion", "cached")
    assert [value("gateway_tokens_total", kind=kind, model=model) for kind in kinds] == [7, 12, 3]
    assert value("gateway_time_to_first_token_seconds_sum", model=model) == 0.5
    # Of ten tokens after the first ones two came at a time.
    assert value("gateway_time_per_output_token_seconds_sum", model=model) == pytest.approx(0.2)
    assert value("gateway_request_duration_seconds_sum", model=model) == 1.5
    assert value("gateway_commit_wait_seconds_sum") == pytest.approx(commits + 0.25)
    assert value("gateway_degraded_answers_total", by="spare", reason="overloaded") == degraded + 1


def test_an_answer_in_one_piece_has_no_first_token() -> None:
    model = "in one piece"
    metrics.observe(replace(STATS, model=model, stream=False))
    assert value("gateway_request_duration_seconds_count", model=model) == 1
    assert value("gateway_time_to_first_token_seconds_count", model=model) == 0
    assert value("gateway_time_per_output_token_seconds_count", model=model) == 0


async def test_a_stream_that_nobody_reads_to_its_end_is_counted_as_its_row_says() -> None:
    house = House()
    before = value("gateway_tokens_total", kind="completion", model="m")
    labels = {"route": ROUTE, "model": "m", "outcome": "cancelled", "caller": "anonymous"}
    cancelled = value("gateway_requests_total", **labels)
    answer = house.stream("a long answer " * 1000, max_tokens=20_000)
    await house.client.has_text.wait()
    house.client.leave()
    await answer
    row = house.recorder.row
    assert row.status == "cancelled"
    assert value("gateway_requests_total", **labels) == cancelled + 1
    assert value("gateway_tokens_total", kind="completion", model="m") == before + row.completion_tokens


@pytest.mark.parametrize("reason", get_args(AbortReason))
@pytest.mark.parametrize("n", [1, 2])
async def test_who_never_got_a_token_has_no_first_one(reason: AbortReason, n: int) -> None:
    house = House(SimulatedEngine(ttft_ms=AN_HOUR_MS))
    firsts = value("gateway_time_to_first_token_seconds_count", model="m")
    ended = value("gateway_request_duration_seconds_count", model="m")
    answer = house.stream("abc", n=n)
    while not house.recorder.begun:
        await asyncio.sleep(0)
    (generation,) = house.generations._running
    await generation.abort(reason)
    await asyncio.gather(answer, return_exceptions=True)
    assert (house.recorder.row.ttft_ms, generation.stats and generation.stats.ttft_seconds) == (None, None)
    assert value("gateway_time_to_first_token_seconds_count", model="m") == firsts
    assert value("gateway_request_duration_seconds_count", model="m") == ended + 1


@pytest.mark.parametrize("calls", [(), (ToldCall(0, "look", "{}"),)])
async def test_a_first_token_may_come_uncounted(calls: Sequence[ToldCall]) -> None:
    """Who tells text, or a call, says how many tokens it was at the end, if at all."""
    opening = Delta("", (), told=Told())
    first = Delta("" if calls else "a", (), told=Told(tool_calls=calls))
    house = House(Telling([opening, first, Delta("", (), "stop", told=Told())]))
    async with house.open(echo_request("abc", stream=True), "abc") as generation:
        await generation.next()
        assert generation.ttft_seconds is None
        await generation.next()
        assert generation.ttft_seconds is not None
        await generation.next()
        await generation.settle()


def test_the_engine_is_up_while_it_takes_requests() -> None:
    def up(main: Engine) -> float:
        metrics.watch_engine(Ladder(main, ()), main)
        refresh()
        return value("gateway_engine_up")

    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    upstream = UpstreamEngine(Upstream("spare", "http://spare.test/v1"), breaker=breaker)
    assert (up(SimulatedEngine()), up(upstream)) == (1, 1)
    for _ in range(FAILURES):
        breaker.failed(breaker.begin() or 0)
    assert up(upstream) == 0
    now += breaker.pause_seconds
    assert up(upstream) == 1
    # Until the one that tries has ended all others are refused.
    assert breaker.begin() is not None
    assert up(upstream) == 0


async def test_answers_are_counted_by_the_routes_template_and_their_status(gateway: InProcess) -> None:
    asked = [
        ("GET", "/v1/models/a%2Fb/c", ("/v1/models/{model:path}", "GET", 404)),
        ("GET", "/v1/models", ("/v1/models", "GET", 200)),
        ("BREW", "/v1/models", ("/v1/models", OTHER, 405)),
        ("GET", "/nowhere/at/all", (UNKNOWN, OTHER, 404)),
        ("POST", ROUTE, (ROUTE, "POST", 400)),
    ]
    for method, path, (route, counted_as, status) in asked:
        labels = {"route": route, "method": counted_as, "status": status}
        before = value("gateway_http_requests_total", **labels)
        assert (await gateway.client.request(method, path, json={})).status_code == status
        assert value("gateway_http_requests_total", **labels) == before + 1


def label_sets(name: str) -> set[tuple[str, ...]]:
    return {
        tuple(sample.labels.values())
        for family in own_families()
        for sample in family.samples
        if sample.name == name
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(METHODS, PATHS, BODIES, st.sampled_from(HEADERS), texts)
async def test_whoever_asks_for_what_there_are_only_so_many_labels(
    gateway: InProcess,
    methods: dict[str, set[str]],
    method: str,
    path: str,
    body: object,
    header: str,
    text: str,
) -> None:
    """Of HTTP requests no more than (the methods of all routes, and one more of each) x (the statuses that
    the gateway answers with)."""
    # Of other tests, which have routes of their own.
    others, earlier = label_sets("gateway_requests_total"), label_sets("gateway_http_requests_total")
    try:
        await gateway.client.request(
            method, path, json=body, headers={header.encode(): text.encode("utf-8", "replace")}
        )
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError):
        return
    except httpx.RemoteProtocolError as error:
        # This client takes no redirect to the like of a host that it was told to name.
        if "location header" not in str(error):
            raise
    new = label_sets("gateway_http_requests_total") - earlier
    found = {labels for labels in earlier | new if labels[0] in methods}
    statuses = {status for _, _, status in found | new}
    assert statuses <= {str(int(status)) for status in HTTPStatus} | {"499"}
    assert {(route, method) for route, method, _ in found | new} <= {
        (route, method) for route, known in methods.items() for method in known
    }
    assert len(found) <= sum(map(len, methods.values())) * len(statuses)
    for route, model, outcome, caller in label_sets("gateway_requests_total") - others:
        assert (route in methods, model, caller) == (True, "simulated", "anonymous")
        assert outcome in ("completed", "cancelled", "timeout", "error", "shutdown", "unkept")


@pytest.fixture
def methods(tmp_path: Path) -> dict[str, set[str]]:
    """How the methods of each route are told."""
    found = {UNKNOWN: {OTHER}}
    for route in create_app(load({"data_dir": tmp_path})).routes:
        if isinstance(route, APIRoute):
            found.setdefault(route.path, {OTHER}).update(route.methods)
    return found


def test_every_reason_is_there_before_it_is_given() -> None:
    """Else the first one would be where its counter begins: nothing is seen to grow."""
    named: dict[str, set[str]] = {"REFUSED": set(), "LEFT": set()}
    for path in (ROOT / "gateway").rglob("*.py"):
        for metric, reason in re.findall(r'metrics\.(REFUSED|LEFT)\.labels\("(\w+)"\)', path.read_text()):
            named[metric].add(reason)
    assert set(REASONS) == named["REFUSED"] | set(get_args(Kind)) | set(get_args(RefusedAs))
    assert set(LEFT_REASONS) == set(get_args(AbortReason))
    assert named["LEFT"] == set()
    for reason in REASONS:
        assert REGISTRY.get_sample_value("gateway_requests_refused_total", {"reason": reason}) is not None


async def test_the_loops_lag_is_what_it_was_late() -> None:
    moments = iter([10.0, 10.25, 11.0, 11.0])
    seen: list[float] = []
    two = asyncio.Event()
    pulse = Pulse(pause_seconds=0.0, clock=lambda: next(moments, 12.0))

    def look() -> float:
        seen.append(value("gateway_event_loop_lag_seconds_sum"))
        if len(seen) == 3:
            two.set()
        return 0.0

    before = value("gateway_event_loop_lag_seconds_sum")
    watch(LOOKED, look)
    pulse.start("simulated", "simulated")
    await two.wait()
    await pulse.stop()
    assert [round(lag - before, 6) for lag in seen[:3]] == [0.0, 0.25, 0.25]
    assert value("gateway_start_time_seconds") > 0
    await pulse.stop()


async def test_a_gauge_that_fails_is_said_and_the_looks_go_on(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0
    twice = asyncio.Event()

    def broken() -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        twice.set()
        return 7.0

    watch(LOOKED, broken)
    pulse = Pulse(pause_seconds=0.0)
    pulse.start("simulated", "simulated")
    await twice.wait()
    await pulse.stop()
    (record,) = (record for record in caplog.records if record.name == "gateway.metrics")
    assert record.exc_info is not None
    assert LOOKED_REGISTRY.get_sample_value("looked") == 7.0


async def test_two_who_are_asked_at_once_forget_a_dead_process_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for mode in ("livesum", "livemax"):
        MmapedDict(str(tmp_path / f"gauge_{mode}_{dead.pid}.db")).close()  # type: ignore[no-untyped-call]
    find = Path.glob

    def found_and_removed_by_the_other(folder: Path, pattern: str) -> Iterator[Path]:
        for path in list(find(folder, pattern)):
            if str(dead.pid) in pattern:
                path.unlink()
            yield path

    monkeypatch.setattr(Path, "glob", found_and_removed_by_the_other)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert await exposition() == b""
    assert list(tmp_path.iterdir()) == []


async def test_metrics_are_as_prometheus_wants_them(gateway: InProcess) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    text = (await gateway.client.get("/metrics")).text
    own = "".join(
        line for line in text.splitlines(keepends=True) if " gateway_" in line or line.startswith("gateway_")
    )
    checked = subprocess.run([promtool, "check", "metrics"], input=own, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_page_has_every_metric_with_its_kind_and_labels() -> None:
    told = {}
    for line in DOCS.splitlines():
        if line.startswith("| `gateway_"):
            names, kind, labels, _ = line.strip("|").split("|", 3)
            for name in re.findall("`([^`]+)`", names):
                told[name] = (kind.strip(), sorted(re.findall("`([^`]+)`", labels)))
    assert told == {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, sorted(labels_of(family)))
        for family in own_families()
    }


def labels_of(family: Metric) -> tuple[str, ...]:
    collector = REGISTRY._names_to_collectors[family.name]
    assert isinstance(collector, MetricWrapperBase)
    return tuple(collector._labelnames)
