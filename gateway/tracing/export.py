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
SCHEDULE_SECONDS = 5.0

# OpenTelemetry's exporter says here why a batch could not be sent.
EXPORTER_LOG = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")


class CountingExporter(SpanExporter):
    """Sends batches by ``exporter``, and counts what became of them. ``taken`` is how many spans it was
    given, ``settled`` how many of these were sent or given up."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self.taken = 0
        self.settled = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the thread that sends; may take as long as the exporter tries."""
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            sent = result is SpanExportResult.SUCCESS
            if sent:
                metrics.SPANS_EXPORTED.inc(len(spans))
            else:
                metrics.SPANS_DROPPED.labels("not_taken").inc(len(spans))
            if sent and self._failing:
                log.info("the collector takes spans again")
            if not sent and not self._failing:
                log.warning("the collector takes no spans: they are dropped until it does")
            self._failing = not sent
            self.settled += len(spans)
        return result

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
    """A queue of QUEUE_SPANS before ``exporter``, sent every ``schedule_seconds``. What finds no room is
    dropped: the newest, so that traces that are begun come whole."""

    def __init__(self, exporter: CountingExporter, schedule_seconds: float, queue_spans: int) -> None:
        self._exporter = exporter
        self._queue_spans = queue_spans
        self._queued = 0
        self._batches = BatchSpanProcessor(
            exporter,
            max_queue_size=queue_spans,
            schedule_delay_millis=schedule_seconds * 1000,
            max_export_batch_size=min(BATCH_SPANS, queue_spans),
        )

    @property
    def unsettled(self) -> int:
        """Spans of which it is not known whether they are sent."""
        return self._queued - self._exporter.settled

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


def bounded_export(
    url: str,
    headers: dict[str, str],
    schedule_seconds: float = SCHEDULE_SECONDS,
    queue_spans: int = QUEUE_SPANS,
) -> BoundedProcessor:
    """Spans to the collector at ``url``, in OTLP's protobuf over HTTP. What else there is to choose
    (compression, certificates, timeout) is OpenTelemetry's own environment variables."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        log.warning("traces are sent as http/protobuf to %s: OTLP's protocol %s is not spoken", url, protocol)
    exporter = CountingExporter(OTLPSpanExporter(endpoint=url, headers=headers))
    EXPORTER_LOG.addFilter(exporter.first_of_an_outage)
    return BoundedProcessor(exporter, schedule_seconds, queue_spans)
