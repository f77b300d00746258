"""A request's trace: its server span, and what is made below it.

Names and meaning of attributes: OpenTelemetry's semantic conventions for HTTP spans (stable, 1.23 and later),
W3C Trace Context for what comes and goes in headers. What the conventions have no name for is ``gateway.*``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request
from starlette.types import Scope

from gateway.access.address import client_address
from gateway.tracing import TRACE_ID
from gateway.tracing.evaluation import EVENT, evaluation, is_span
from gateway.tracing.failure import error_type
from gateway.tracing.generation_trace import GenerationTrace
from gateway.tracing.text import plain
from persistence.feedback import Feedback

if TYPE_CHECKING:
    from gateway.access.caller import Caller
    from gateway.tracing.tracing import Tracing

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

LONGEST_PATH = 1000

# A generation that ended so is a request that failed, also where its status said 200 long before.
FAILED = frozenset({"error", "timeout", "shutdown", "unkept"})

_PROPAGATOR = TraceContextTextMapPropagator()


class RequestTrace:
    """From a request's arrival to its ``end``. ``trace_id`` is also that of one that is not sampled; its
    spans are not made.

    Whose trace it belongs to may depend on who asks: then its span is made, with the time of its arrival, as
    soon as that is known or somebody wants to know.
    """

    def __init__(self, tracing: Tracing, scope: Scope) -> None:
        self.tracing = tracing
        self._scope = scope
        self._began_ns, self._began = time.time_ns(), time.perf_counter_ns()
        method = scope["method"]
        self._method = method if method in METHODS else "HTTP"
        self._attributes: dict[str, str | int] = {
            "http.request.method": method if method in METHODS else "_OTHER",
            "url.path": plain(scope["path"], LONGEST_PATH),
            "url.scheme": scope.get("scheme", "http"),
        }
        if tracing.client_address and (address := client_address(Request(scope))):
            self._attributes["client.address"] = address
        self._parent = parent_of(scope)
        self._span: Span | None = None
        if (
            tracing.trace_context != "authenticated"
            or not get_current_span(self._parent).get_span_context().is_valid
        ):
            self.begin()

    def begin(self) -> None:
        """Who asks is known, or will not be. Does nothing the second time."""
        if self._span is not None:
            return
        parent, links = self._parent, []
        told = get_current_span(parent).get_span_context()
        if told.is_valid and not self._is_believed:
            parent = Context()
            links = [
                Link(SpanContext(told.trace_id, told.span_id, is_remote=True, trace_flags=told.trace_flags))
            ]
        self._span = self.tracing.tracer.start_span(
            self._method,
            parent,
            SpanKind.SERVER,
            self._attributes,
            links,
            start_time=self._began_ns,
        )
        self._scope.setdefault("state", {})[TRACE_ID] = self.trace_id

    @property
    def _is_believed(self) -> bool:
        """Whether the client may say which trace this belongs to, and whether it is sampled."""
        if self.tracing.trace_context != "authenticated":
            return self.tracing.trace_context == "all"
        caller: Caller | None = self._scope.get("state", {}).get("caller")
        return caller is not None and caller.kind != "anonymous"

    @property
    def span(self) -> Span:
        """The server span."""
        self.begin()
        assert self._span is not None
        return self._span

    @property
    def context(self) -> SpanContext:
        """The server span's."""
        return self.span.get_span_context()

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return format_trace_id(self.context.trace_id)

    @property
    def now_ns(self) -> int:
        """Nanoseconds since 1970; what is later in the request is never less, whoever sets the clock."""
        return self._began_ns + time.perf_counter_ns() - self._began

    def generation(self) -> GenerationTrace:
        """What the request does at the engine."""
        return GenerationTrace(self)

    def rated(self, given: Feedback) -> None:
        """The request was a feedback. It becomes an event of a span in the trace of the answer, as a child of
        what made the answer, where that was sampled; else of this request's own span."""
        attributes = evaluation(given, self.tracing.content)
        if given.span is None or not is_span(*given.span):
            self.span.add_event(EVENT, attributes)
            return
        trace_id, span_id = (int(id_, 16) for id_ in given.span)
        answer = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        at = self.now_ns
        span = self.tracing.tracer.start_span(
            EVENT,
            set_span_in_context(NonRecordingSpan(answer), Context()),
            attributes=attributes,
            links=[Link(self.context)],
            start_time=at,
        )
        span.add_event(EVENT, attributes, at)
        span.end(at)
        self.span.add_link(answer)

    def end(self, scope: Scope, failure: BaseException | None) -> None:
        """The last byte was sent, or never will be; ``failure`` is what went through to the server."""
        span = self.span
        if not span.is_recording():
            return
        state = scope.get("state", {})
        if (route := getattr(scope.get("route"), "path", None)) is not None:
            span.update_name(f"{self._method} {route}")
            span.set_attribute("http.route", route)
        if (request_id := state.get("request_id")) is not None:
            span.set_attribute("gateway.request_id", request_id)
        status = state.get("status")
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        stats = getattr(state.get("generation"), "stats", None)
        error = None
        if stats is not None and stats.status in FAILED:
            error = stats.status
        elif failure is not None:
            error = error_type(failure)
        elif status is not None and status >= 500:
            error = str(status)
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(self.now_ns)


def parent_of(scope: Scope) -> Context:
    """What ``traceparent`` and ``tracestate`` tell, as far as they are in order; else a context without a
    parent. One traceparent too many is none."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        if name in (b"traceparent", b"tracestate"):
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    if len(found.get("traceparent", ())) != 1:
        return Context()
    return _PROPAGATOR.extract(found, Context())
