"""A gateway in this process whose spans stay here: encoded as they would be sent, and decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from engine.base import Engine
from gateway.settings import Settings, load
from gateway.tracing.export import BoundedProcessor, CountingExporter
from gateway.tracing.tracing import Tracing
from tests.gateway.in_process import InProcess, in_process
from tests.otlp_receiver import Received, received

NOWHERE = "http://127.0.0.1:9"


class Kept(SpanExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[Received] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encoded = encode_spans(spans).SerializeToString()
        self.spans += received(ExportTraceServiceRequest.FromString(encoded))
        return SpanExportResult.SUCCESS


@dataclass
class Traced:
    """``gateway`` and its spans."""

    gateway: InProcess
    kept: Kept

    @property
    def tracing(self) -> Tracing:
        tracing = self.gateway.lifecycle.tracing
        assert tracing is not None
        return tracing

    @property
    def spans(self) -> list[Received]:
        """All that have ended, in the order of their ends."""
        self.tracing.flush()
        return self.kept.spans

    def span(self, start: str) -> Received:
        """The only one whose name starts so."""
        (span,) = (span for span in self.spans if span.name.startswith(start))
        return span


def traced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine | None = None, **settings: Any
) -> Traced:
    """A gateway with these settings, whose spans are kept."""
    kept = Kept()
    monkeypatch.setattr(
        "gateway.tracing.tracing.bounded_export", lambda *_: BoundedProcessor(CountingExporter(kept))
    )
    return Traced(in_process(data_dir, engine, otlp_endpoint=NOWHERE, **settings), kept)


def tracing_to(exporter: SpanExporter, queue_spans: int = 2048, **settings: Any) -> Tracing:
    """Spans that ``exporter`` is given."""
    return Tracing(chosen(**settings), NOWHERE, BoundedProcessor(CountingExporter(exporter), queue_spans))


def chosen(**settings: Any) -> Settings:
    return load({"engine": "simulated", "otlp_endpoint": NOWHERE} | settings)
