"""What makes spans, and ends with the gateway."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from importlib.metadata import version

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from gateway.settings import Settings
from gateway.settings.observability import parsed_headers
from gateway.tracing.answerers import answerers
from gateway.tracing.export import BoundedProcessor, bounded_export

log = logging.getLogger("gateway.tracing")

NAME = "chatglm-gateway"

# How long the end of the gateway waits for the last spans.
FLUSH_SECONDS = 5.0

# Beyond any attribute that is made here; text is bounded by itself, so that it stays JSON.
MOST_CHARACTERS = 300_000


class ChosenIds(RandomIdGenerator):
    """Random ids, but for the next span's where it was chosen before: what is told to others is the id of a
    span that is made when it has ended."""

    def __init__(self) -> None:
        self.next_span_id: int | None = None

    def generate_span_id(self) -> int:
        """The chosen one, once."""
        chosen, self.next_span_id = self.next_span_id, None
        return super().generate_span_id() if chosen is None else chosen


class Tracing:
    """Makes spans, and sends them to ``url``; all on one event loop, but for the sending."""

    def __init__(self, settings: Settings, url: str, processor: BoundedProcessor | None = None) -> None:
        self.content = settings.trace_content
        self.client_address = settings.trace_client_address
        # Where nobody has to say who he is, nobody is less believed than others.
        asks = settings.authenticates or settings.trace_context != "authenticated"
        self.trace_context = settings.trace_context if asks else "all"
        self.answerers = answerers(settings)
        self.ids = ChosenIds()
        headers = settings.otlp_headers
        self._processor = processor or bounded_export(
            url, {} if headers is None else parsed_headers(headers.get_secret_value())
        )
        # Nobody else's: vLLM sets a provider for the whole process.
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
            resource=resource(settings.service_name),
            id_generator=self.ids,
            span_limits=SpanLimits(max_span_attribute_length=MOST_CHARACTERS),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self.tracer = self._provider.get_tracer("gateway", version(NAME))

    def flush(self) -> None:
        """Send what waits; in a thread of the caller's."""
        self._provider.force_flush()

    async def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send what waits, for so long at most; what is left then is dropped, and counted."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            # Later than anyone waits, there may be no loop any more.
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        # Not one of the loop's own threads: the process would not end before it.
        threading.Thread(target=end, name="end of tracing", daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            log.warning("the collector did not take the last spans within %.0f s", seconds)
        if (left := self._processor.give_up()) > 0:
            log.warning("%d spans were not sent", left)


def resource(service_name: str | None) -> Resource:
    """What sends the spans; OTEL_RESOURCE_ATTRIBUTES may say more of it."""
    told = Resource.create({} if service_name is None else {SERVICE_NAME: service_name})
    own = {SERVICE_VERSION: version(NAME), SERVICE_INSTANCE_ID: f"{socket.gethostname()}:{os.getpid()}"}
    attributes = own | dict(told.attributes)
    if str(attributes[SERVICE_NAME]).partition(":")[0] == "unknown_service":
        attributes[SERVICE_NAME] = NAME
    return Resource(attributes, told.schema_url)
