"""How spans leave: a collector that is slow or away costs spans, which are counted, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import REGISTRY

from gateway.settings import InvalidSetting, describe, load
from gateway.settings.observability import parsed_headers
from gateway.tracing import tracing_of
from gateway.tracing.tracing import Tracing, resource
from tests.gateway.traced import Kept, chosen, tracing_to
from tests.otlp_receiver import OtlpReceiver

ROOT = Path(__file__).parents[2]

# A process that has spans for a collector that hangs, and ends.
HANGING = """
import asyncio, sys
from gateway.settings import load
from gateway.tracing import tracing_of

tracing = tracing_of(load({"engine": "simulated", "otlp_endpoint": sys.argv[1]}))
tracing.tracer.start_span("a").end()
asyncio.run(tracing.close(0.2))
"""


class Blocked(SpanExporter):
    """Sends nothing until it may."""

    def __init__(self) -> None:
        self.asked, self.may = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.may.wait(60)
        return SpanExportResult.SUCCESS


class Failing(SpanExporter):
    """Sends nothing while it fails."""

    def __init__(self) -> None:
        self.fails = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE if self.fails else SpanExportResult.SUCCESS


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("gateway_spans_dropped_total", {"reason": reason}) or 0.0


def exported() -> float:
    return REGISTRY.get_sample_value("gateway_spans_exported_total") or 0.0


def make(tracing: Tracing, count: int = 1) -> None:
    for _ in range(count):
        tracing.tracer.start_span("a").end()


async def test_a_full_queue_drops_what_is_new_and_counts_it(caplog: pytest.LogCaptureFixture) -> None:
    exporter, before, sent = Blocked(), dropped("queue_full"), exported()
    tracing = tracing_to(exporter, queue_spans=4)
    make(tracing, 4)
    # A batch is taken out of the queue then, and not sent.
    assert await asyncio.to_thread(exporter.asked.wait, 60)
    make(tracing, 4 + 3)
    assert dropped("queue_full") - before == 3
    assert "Queue full" not in caplog.text
    exporter.may.set()
    await tracing.close(60)
    assert exported() - sent == 8


async def test_what_a_collector_does_not_take_is_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.tracing")
    exporter, before = Failing(), dropped("not_taken")
    tracing = tracing_to(exporter)
    for fails in (True, True, False):
        exporter.fails = fails
        make(tracing, 2)
        tracing.flush()
    assert dropped("not_taken") - before == 4
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await tracing.close(60)


async def test_the_end_sends_what_waits(receiver: OtlpReceiver) -> None:
    tracing = tracing_of(chosen(otlp_endpoint=f"{receiver.url}/some/path/", otlp_headers="a=b%20c,D=e"))
    assert tracing is not None
    make(tracing, 3)
    await tracing.close(60)
    assert len(receiver.spans) == 3
    assert receiver.paths == ["/some/path/v1/traces"]
    assert (receiver.headers[0]["a"], receiver.headers[0]["d"]) == ("b c", "e")


@pytest.mark.parametrize("says", ["hang", "fail"])
async def test_the_end_waits_for_no_collector_longer_than_it_may(receiver: OtlpReceiver, says: str) -> None:
    receiver.says = says  # type: ignore[assignment]
    tracing, before = (
        tracing_of(chosen(otlp_endpoint=receiver.url)),
        dropped("shutdown") + dropped("not_taken"),
    )
    assert tracing is not None
    make(tracing, 3)
    await tracing.close(0.2)
    assert dropped("shutdown") + dropped("not_taken") - before == 3


async def test_a_collector_that_is_not_there_costs_spans_only(caplog: pytest.LogCaptureFixture) -> None:
    tracing = tracing_of(chosen(otlp_endpoint="http://127.0.0.1:9", otlp_headers="authorization=secret"))
    assert tracing is not None
    make(tracing)
    await tracing.close(0.2)
    assert "spans were not sent" in caplog.text
    assert "secret" not in caplog.text


def test_a_process_ends_although_a_collector_hangs(receiver: OtlpReceiver) -> None:
    receiver.says = "hang"
    command = [sys.executable, "-c", HANGING, receiver.url]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert receiver.asked.is_set()


async def test_a_gateway_without_an_endpoint_traces_nothing() -> None:
    assert tracing_of(load({"engine": "simulated"})) is None
    assert tracing_of(chosen(otel_sdk_disabled=True)) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"otlp_endpoint": "http://a:4318"}, "http://a:4318/v1/traces"),
        ({"otlp_endpoint": "https://a/b/"}, "https://a/b/v1/traces"),
        ({"otlp_traces_endpoint": "http://a:1/x"}, "http://a:1/x"),
        ({"otlp_endpoint": "http://a", "otlp_traces_endpoint": "http://b/"}, "http://b/"),
        ({}, None),
    ],
)
def test_the_endpoints_are_those_of_the_specification(given: dict[str, str], url: str | None) -> None:
    assert load(given).traces_url == url


def test_the_variables_of_the_specification_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "k=a-secret")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    settings = load()
    assert (settings.traces_url, settings.service_name) == ("http://a:4318/v1/traces", "mine")
    assert settings.otlp_headers is not None
    assert settings.otlp_headers.get_secret_value() == "k=a-secret"
    assert "a-secret" not in repr(settings) + repr(list(describe(settings, {})))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:1/t")
    assert load().traces_url == "http://b:1/t"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert load().traces_url is None


@pytest.mark.parametrize(
    "given",
    [
        {"otlp_endpoint": "a-secret:4318"},
        {"otlp_endpoint": "http://user:a-secret@a"},
        {"otlp_endpoint": "grpc://a-secret"},
        {"otlp_traces_endpoint": "http://a-secret:x/"},
        {"otlp_headers": "a-secret"},
        {"otlp_headers": "k=a-secret\x01"},
        {"otlp_headers": "a secret=1"},
        {"trace_sample_ratio": 1.5},
        {"trace_sample_ratio": "nan"},
    ],
)
def test_what_can_not_be_used_is_refused_and_not_repeated(given: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting) as refused:
        load(given)
    assert "a-secret" not in str(refused.value)
    assert next(iter(given)) in str(refused.value)


def test_headers_are_read_as_the_specification_has_them() -> None:
    assert parsed_headers(" Api-Key = a%3Db , x=, ") == {"api-key": "a=b", "x": ""}


def test_who_sends_is_named_by_whoever_says_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource(None).attributes[SERVICE_NAME] == "chatglm-gateway"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=b,service.instance.id=c,team=d")
    told = resource(None).attributes
    assert (told[SERVICE_NAME], told[SERVICE_INSTANCE_ID], told["team"]) == ("b", "c", "d")
    assert resource("a").attributes[SERVICE_NAME] == "a"


async def test_other_protocols_are_not_spoken(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    tracing = tracing_of(chosen(otlp_endpoint=receiver.url))
    assert tracing is not None
    assert "grpc" in caplog.text
    await tracing.close(60)


def test_spans_have_ids_of_their_own_but_for_the_chosen_one() -> None:
    kept = Kept()
    tracing = tracing_to(kept)
    tracing.ids.next_span_id = 5
    make(tracing, 3)
    tracing.flush()
    assert next(span.span_id for span in kept.spans) == f"{5:016x}"
    assert len({span.span_id for span in kept.spans}) == 3
