"""The spans of what a request does at the engine.

Made at its end, from what is known of it then: nothing is done for a token. Only the id of the span of the
generation is made before, because engines are told it. Names and meaning of attributes: OpenTelemetry's
semantic conventions for generative AI (status Development; open-telemetry/semantic-conventions-genai), span
"inference". The times of other spans are the request's own: see GenerationStats.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from engine.base import GenerationRequest
from gateway.generation_stats import GenerationStats
from gateway.tracing.failure import error_type
from gateway.tracing.text import input_messages, output_messages, plain

if TYPE_CHECKING:
    from gateway.prompt_answer import PromptAnswer
    from gateway.tracing.request_trace import RequestTrace

NOTHING: Mapping[str, AttributeValue] = {}

log = logging.getLogger("gateway.tracing")

MOST_STOPS = 16
LONGEST_NAME = 255
JSON_KINDS = ("json", "json_object")
FAILED = frozenset({"error", "timeout", "shutdown"})


class GenerationTrace:
    """``headers`` are what an engine is told of the span that its own spans are below: W3C's ``traceparent``
    and ``tracestate``. ``row_fields`` are for the meta_data of the request's rows: the trace's id, and that
    of the span where the trace is sampled."""

    def __init__(self, request: RequestTrace) -> None:
        self._tracing = request.tracing
        self._request = request
        context = request.context
        self._sampled = request.span.is_recording()
        id_ = self._tracing.ids.generate_span_id() if self._sampled else context.span_id
        self._span_id = id_
        self.headers = {
            "traceparent": f"00-{request.trace_id}-{format_span_id(id_)}-{context.trace_flags:02x}"
        }
        if context.trace_state:
            self.headers["tracestate"] = context.trace_state.to_header()
        self.row_fields = {"trace_id": request.trace_id}
        if self._sampled:
            self.row_fields["span_id"] = format_span_id(id_)
        self._arrived_ns = request.now_ns
        self._admitted_ns: int | None = None

    @property
    def _began_ns(self) -> int:
        """When the engine was asked."""
        return self._arrived_ns if self._admitted_ns is None else self._admitted_ns

    def admitted(self) -> None:
        """The request has its place at the engine."""
        self._admitted_ns = self._request.now_ns

    def ended(self, stats: GenerationStats, prompts: Sequence[PromptAnswer]) -> None:
        """The rows of the request are closed."""
        if not self._sampled:
            return
        try:
            self._queue(stats.queue_seconds, None)
            ended_ns = self._arrived_ns + int(stats.seconds * 1e9)
            self._generation(stats, prompts, ended_ns)
            error = stats.status if stats.status == "unkept" else None
            rows: dict[str, AttributeValue] = {"gateway.rows": [id_.hex for id_ in stats.row_ids]}
            committed_ns = ended_ns + int(stats.commit_seconds * 1e9)
            self._span("commit", ended_ns, committed_ns, rows, error)
        except Exception:
            # Whatever it is, the answer does not depend on it.
            log.exception("request %s has no spans", stats.request_id)

    def failed(self, prompts: Sequence[PromptAnswer], error: BaseException) -> None:
        """The request got no place at the engine, or the engine did not take it; no failure where its client
        has left."""
        if not self._sampled:
            return
        told = error_type(error)
        outcome: dict[str, AttributeValue] = {"gateway.outcome": "cancelled"} if told is None else {}
        try:
            if self._admitted_ns is None:
                self._queue(None, told, outcome)
                return
            self._queue(None, None)
            self._inference(prompts, outcome, self._request.now_ns, told)
        except Exception:
            log.exception("a request has no spans")

    def _queue(
        self, waited: float | None, error: str | None, outcome: Mapping[str, AttributeValue] = NOTHING
    ) -> None:
        attributes = dict(outcome)
        if waited is not None:
            attributes["gateway.queue.seconds"] = waited
        end_ns = self._request.now_ns if self._admitted_ns is None else self._admitted_ns
        self._span("queue", self._arrived_ns, end_ns, attributes, error)

    def _generation(self, stats: GenerationStats, prompts: Sequence[PromptAnswer], ended_ns: int) -> None:
        usage = stats.usage
        attributes: dict[str, AttributeValue] = {
            "gen_ai.request.stream": stats.stream,
            "gen_ai.response.id": stats.row_ids[0].hex,
            "gen_ai.response.finish_reasons": list(stats.finish_reasons),
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gateway.request_id": stats.request_id,
            "gateway.outcome": stats.status,
            "gateway.caller": stats.caller.kind,
        }
        if stats.conversation_id is not None:
            attributes["gen_ai.conversation.id"] = plain(stats.conversation_id, LONGEST_NAME)
        if usage.untold:
            attributes["gateway.usage.untold"] = True
        first_ns = None
        if stats.ttft_seconds is not None:
            first_ns = self._arrived_ns + int(stats.ttft_seconds * 1e9)
            if stats.stream:
                attributes["gen_ai.response.time_to_first_chunk"] = (first_ns - self._began_ns) / 1e9
        waits = [choice.queue_seconds for prompt in prompts for choice in prompt.choices]
        if known := [wait for wait in waits if wait is not None]:
            attributes["gateway.engine.queue_seconds"] = max(known)
        if stats.instead:
            attributes["gateway.degraded.by"] = list(dict.fromkeys(one.by for one in stats.instead))
            attributes["gateway.degraded.reason"] = stats.instead[0].reason
        error = stats.status if stats.status in FAILED else None
        by = stats.instead[0].by if stats.instead else None
        told_model = self._tracing.answerers[by].model
        if told_model is not None or by is None:
            attributes["gen_ai.response.model"] = told_model or plain(stats.model, LONGEST_NAME)
        self._inference(prompts, attributes, ended_ns, error, first_ns, by)

    def _inference(
        self,
        prompts: Sequence[PromptAnswer],
        attributes: dict[str, AttributeValue],
        ended_ns: int,
        error: str | None,
        first_ns: int | None = None,
        by: str | None = None,
    ) -> None:
        asked, answerer = prompts[0].requests[0].asked, self._tracing.answerers[by]
        operation = "chat" if asked is None or asked.completion is None else "text_completion"
        model = plain(prompts[0].row.model, LONGEST_NAME)
        attributes |= self._asked(prompts)
        attributes |= answerer.address
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": answerer.provider,
            "gen_ai.request.model": model,
        }
        self._tracing.ids.next_span_id = self._span_id
        name = f"{operation} {model}"
        self._span(name, self._began_ns, ended_ns, attributes, error, answerer.kind, first_ns)

    def _asked(self, prompts: Sequence[PromptAnswer]) -> dict[str, AttributeValue]:
        """What the client asked for, told for the first prompt of several."""
        request = prompts[0].requests[0]
        sampling, asked = request.sampling, request.asked
        attributes: dict[str, AttributeValue] = {"gen_ai.request.max_tokens": sampling.max_tokens}
        told = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
        }
        for name, value in told.items():
            if value is not None:
                attributes[f"gen_ai.request.{name}"] = value
        if (structured := (asked or sampling).structured) is not None and structured.kind in JSON_KINDS:
            # Where the request has an output format, the conventions say: nothing for text, which is the
            # default.
            attributes["gen_ai.output.type"] = "json"
        if stops := (asked or sampling).stop:
            attributes["gen_ai.request.stop_sequences"] = [
                plain(stop, LONGEST_NAME) for stop in stops[:MOST_STOPS]
            ]
        if (choices := len(prompts[0].choices)) > 1:
            attributes["gen_ai.request.choice.count"] = choices
        if len(prompts) > 1:
            attributes["gateway.prompts"] = len(prompts)
        if self._tracing.content:
            attributes |= self._content(prompts)
        return attributes

    def _content(self, prompts: Sequence[PromptAnswer]) -> Mapping[str, AttributeValue]:
        """What was said, of all prompts; as the guard list lets it through."""
        first: Sequence[GenerationRequest] = [prompt.requests[0] for prompt in prompts]
        messages = [message for request in first for message in request.messages]
        answers = [
            (
                choice.text,
                [(call.name, call.arguments) for call in choice.tool_calls],
                choice.end_reason or "error",
            )
            for prompt in prompts
            for choice in prompt.choices
            if choice.submitted
        ]
        return {
            "gen_ai.input.messages": input_messages(messages),
            "gen_ai.output.messages": output_messages(answers),
        }

    def _span(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, AttributeValue],
        error: str | None,
        kind: SpanKind = SpanKind.INTERNAL,
        first_ns: int | None = None,
    ) -> None:
        if error is not None:
            attributes["error.type"] = error
        parent = set_span_in_context(self._request.span, Context())
        span = self._tracing.tracer.start_span(name, parent, kind, attributes, start_time=start_ns)
        if first_ns is not None:
            span.add_event("gateway.first_token", timestamp=first_ns)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_ns)
