"""Traces: what a request did, span by span, sent to an OpenTelemetry collector.

Off until an endpoint is set; nothing of opentelemetry is imported then, and requests pass none of this code.
Spans, all made when a request has ended, but for the first::

    POST /v1/chat/completions      the request: gateway.tracing.server_spans, request_trace
     |- queue                      from its arrival until it has a place at the engine
     |- chat {model}               at the engine: generation_trace
     |- commit                     until its rows were durable
     '- ...                        spans of an upstream server, or of vLLM, are below chat {model}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import Request

from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.tracing.request_trace import RequestTrace
    from gateway.tracing.tracing import Tracing

TRACE, TRACE_ID = "trace", "trace_id"
"""In a request's state, while tracing is on: its RequestTrace, and, as soon as that is known, its trace's id
in 32 hex digits."""


def tracing_of(settings: Settings) -> Tracing | None:
    """What makes and sends spans; None where they are sent nowhere."""
    if settings.traces_url is None:
        return None
    from gateway.tracing.tracing import Tracing

    return Tracing(settings, settings.traces_url)


def trace_of(request: Request) -> RequestTrace | None:
    """The request's; None while tracing is off."""
    trace: RequestTrace | None = request.scope.get("state", {}).get(TRACE)
    return trace


def trace_id_of(state: Mapping[str, Any]) -> str | None:
    """Of a request with this state (the scope's), 32 hex digits; None while tracing is off."""
    trace_id: str | None = state.get(TRACE_ID)
    return trace_id
