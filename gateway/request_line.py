"""The line that each request leaves in the log when it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import Scope

from gateway.access.address import client_address
from gateway.logs.formats import printable, shortened
from gateway.prompt_answer import names_of

if TYPE_CHECKING:
    from gateway.access.caller import Caller
    from gateway.errors import GatewayError
    from gateway.generation import Generation
    from gateway.generation_stats import GenerationStats

# In characters: of a path or an error's message, and of one prompt or answer.
LONGEST_FIELD = 300
LONGEST_CONTENT = 2_000
MOST_TEXTS = 8

# Asked every few seconds by machines: no spans, and not logged at info as long as all is well.
_POLLED = {"get_load", "health", "healthz", "livez", "load", "metrics", "ping", "readyz"}


def is_polled(path: str) -> bool:
    """Whether ``path`` is for probes and scrapers."""
    return path[1:].partition("/")[0] in _POLLED


class RequestLine:
    """A log record's message. ``scope`` after the request; ``status`` 0 where nothing was answered; with
    ``content`` the line has what was asked and answered."""

    def __init__(self, scope: Scope, status: int, seconds: float, content: bool = False) -> None:
        self._fields = fields_of(scope, status, seconds)
        if content and (generation := scope["state"].get("generation")) is not None:
            self._fields |= texts_of(generation)

    def fields(self) -> Mapping[str, Any]:
        """Of a JSON line; those that say nothing are left out."""
        return {name: value for name, value in self._fields.items() if value is not None}

    def __str__(self) -> str:
        """For a terminal: the same in brief."""
        told = self._fields
        parts = [f"{told['message']} {told['duration_ms']:.1f} ms {told['request_id']}"]
        if told["caller"] is not None:
            parts.append(told["caller"])
        if "prompt_tokens" in told:
            parts.append(f"{told['outcome']} {'/'.join(told['finish_reasons'])}")
            cached = f" ({told['cached_tokens']} cached)" if told["cached_tokens"] else ""
            parts.append(f"{told['prompt_tokens']}{cached}+{told['completion_tokens']} tokens")
            for name in ("queue", "ttft", "commit"):
                if (milliseconds := told[f"{name}_ms"]) is not None:
                    parts.append(f"{name} {milliseconds:.1f} ms")
            if told["degraded_by"]:
                parts.append(f"by {told['degraded_by']}")
        if told.get("error") is not None:
            parts.append(told["error"])
        parts += [f"{name} {json.dumps(told[name], ensure_ascii=False)}" for name in CONTENT if name in told]
        return printable(" ".join(parts))


CONTENT = ("prompts", "answers")


def fields_of(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What is known of a request at its end."""
    state = scope["state"]
    generation: Generation | None = state.get("generation")
    stats = generation.stats if generation is not None else None
    path = shortened(scope["path"], LONGEST_FIELD)
    caller: Caller | None = stats.caller if stats is not None else state.get("caller")
    error: GatewayError | None = state.get("error")
    return {
        "message": f"{scope['method']} {path} {status or 'gone'}",
        "request_id": state["request_id"],
        "trace_id": state.get("trace_id"),
        "method": scope["method"],
        "route": getattr(scope.get("route"), "path", None),
        "path": path,
        "status": status or None,
        "outcome": stats.status if stats is not None else outcome_of(status),
        "duration_ms": round(seconds * 1000, 2),
        **caller_fields(caller, scope),
        **(stats_fields(stats) if stats is not None else {}),
        "error": shortened(error.message, LONGEST_FIELD) if error is not None else None,
        "error_code": error.code if error is not None else None,
    }


def outcome_of(status: int) -> str:
    """Of a request that the engine did not take."""
    if status in (0, 499):
        return "gone"
    if status < 400:
        return "answered"
    return "refused" if status < 500 or status == 503 else "failed"


def caller_fields(caller: Caller | None, scope: Scope) -> dict[str, Any]:
    """Who asked; ``caller`` is None where nobody wanted to know."""
    if caller is None:
        return {"caller": None, "address": client_address(Request(scope)) or None}
    return {
        "caller": caller.name,
        "caller_kind": caller.kind,
        "key_id": caller.key_id.hex if caller.key_id is not None else None,
        "user_id": caller.user_id.hex if caller.user_id is not None else None,
        "address": caller.address or None,
    }


def stats_fields(stats: GenerationStats) -> dict[str, Any]:
    """How the engine did; times in milliseconds."""
    return {
        "model": stats.model,
        "stream": stats.stream,
        "finish_reasons": stats.finish_reasons,
        "prompt_tokens": stats.usage.prompt_tokens,
        "cached_tokens": stats.usage.cached_tokens,
        "completion_tokens": stats.usage.completion_tokens,
        "queue_ms": milliseconds(stats.queue_seconds),
        "ttft_ms": milliseconds(stats.ttft_seconds),
        "time_per_output_token_ms": milliseconds(stats.time_per_output_token_seconds),
        "commit_ms": milliseconds(stats.commit_seconds),
        "degraded_by": names_of(stats.instead) or None,
        "conversation_id": stats.conversation_id,
        "row_ids": [id_.hex for id_ in stats.row_ids],
    }


def milliseconds(seconds: float | None) -> float | None:
    """To a hundredth."""
    return None if seconds is None else round(seconds * 1000, 2)


def texts_of(generation: Generation) -> dict[str, list[str]]:
    """The last question of each prompt and each choice's answer, shortened."""
    texts = (generation.questions[:MOST_TEXTS], [choice.text for choice in generation.choices[:MOST_TEXTS]])
    return {
        name: [shortened(text, LONGEST_CONTENT) for text in each]
        for name, each in zip(CONTENT, texts, strict=True)
    }
