"""How spans leave the process: never by a request's time, never without being counted.

A span that has ended is put into a bounded queue; a thread of OpenTelemetry's sends the queue every few
seconds, or when it has a batch. A collector that is slow or away costs spans, which
``gateway_spans_dropped_total`` counts, and nothing else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway import metrics

log = logging.getLogger("gateway.tracing")

# The defaults of OpenTelemetry's specification (sdk, "Batching processor").
QUEUE_SPANS = 2048
BATCH_SPANS = 512

# OpenTelemetry's exporter says here why a batch could not be sent.
EXPORTER_LOG = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")


class CountingExporter(SpanExporter):
    """Sends batches by ``exporter``, and counts what became of them. ``taken`` is how many spans it was
    given, ``settled`` how many of these were sent or given up."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = self._given_up = False
        self.taken = 0
        self.settled = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the thread that sends; may take as long as the exporter tries."""
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if not self._given_up:
                self._count(len(spans), result is SpanExportResult.SUCCESS)
            self.settled += len(spans)
        return result

    def _count(self, spans: int, sent: bool) -> None:
        if sent:
            metrics.SPANS_EXPORTED.inc(spans)
        else:
            metrics.SPANS_DROPPED.labels("not_taken").inc(spans)
        if sent and self._failing:
            log.info("the collector takes spans again")
        if not sent and not self._failing:
            log.warning("the collector takes no spans: they are dropped until it does")
        self._failing = not sent

    def give_up(self) -> None:
        """Count nothing more: whoever ends has counted what was not sent."""
        self._given_up = True

    def first_of_an_outage(self, record: logging.LogRecord) -> bool:
        """A filter of EXPORTER_LOG: one reason for each outage, not one for each batch of it."""
        return not self._failing and record.levelno >= logging.ERROR

    def shutdown(self) -> None:
        """What is being sent is tried no more."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return True


class BoundedProcessor(SpanProcessor):
    """A queue of ``queue_spans`` before ``exporter``, sent every OTEL_BSP_SCHEDULE_DELAY milliseconds (5000),
    or when there is a batch. A span that finds no room is dropped, not one that waits: so traces that are
    kept are kept whole, mostly."""

    def __init__(self, exporter: CountingExporter, queue_spans: int = QUEUE_SPANS) -> None:
        self._exporter = exporter
        self._queue_spans = queue_spans
        self._queued = 0
        self._batches = BatchSpanProcessor(
            exporter,
            max_queue_size=queue_spans,
            max_export_batch_size=min(BATCH_SPANS, queue_spans),
        )

    def give_up(self) -> int:
        """Of so many spans it is not known that they were sent: count them as dropped."""
        self._exporter.give_up()
        if (left := self._queued - self._exporter.settled) > 0:
            metrics.SPANS_DROPPED.labels("shutdown").inc(left)
        return left

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """On the event loop: must not wait."""
        if self._queued - self._exporter.taken >= self._queue_spans:
            metrics.SPANS_DROPPED.labels("queue_full").inc()
            return
        self._queued += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits; may take as long as a hanging collector does."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits now."""
        return self._batches.force_flush(timeout_millis)


def bounded_export(url: str, headers: dict[str, str]) -> BoundedProcessor:
    """Spans to the collector at ``url``, in OTLP's protobuf over HTTP. What else there is to choose
    (compression, certificates, timeout) is OpenTelemetry's own environment variables."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        log.warning("traces are sent as http/protobuf to %s: OTLP's protocol %s is not spoken", url, protocol)
    exporter = CountingExporter(OTLPSpanExporter(endpoint=url, headers=headers))
    EXPORTER_LOG.addFilter(exporter.first_of_an_outage)
    return BoundedProcessor(exporter)
