"""Pieces of /openapi.json for Chatchat's own routes: their failures and their events."""

from __future__ import annotations

from typing import Any

from adapters.chatchat.answer_types import FufanError, FufanErrorEvent, NativeError
from gateway.openapi_parts import Described, json_answer, ref

ID = "019a0f0e6c5c7b1f8d7e6a5b4c3d2e1f"

# Why, and what is said then.
_FAILURES = {
    400: (
        "The request can't be honoured as it is; the message names the field.",
        "Unknown prompt template 'x' of the type llm_chat; there are default, general_chat, py, with_history.",
    ),
    401: ("With authentication: whoever asks has not logged in.", "Log in first."),
    403: (
        "With authentication: the user of the path or the body is somebody else.",
        "'user_id' is not the caller's.",
    ),
    404: (
        "What is named is not here: the model, the user, the conversation. With authentication also what is "
        "somebody else's.",
        "The model 'gpt-4' is not served here; 'chatglm3-6b' is.",
    ),
    408: (
        "The body did not arrive in time; the connection is closed.",
        "The body did not arrive within 30 seconds.",
    ),
    409: ("It is there already.", "This name is taken."),
    413: ("The body is too large; the connection is closed.", "The body is larger than 8388608 bytes."),
    415: (
        "The body is not JSON in UTF-8; the connection is closed.",
        "The body must be JSON: send the header 'content-type: application/json'.",
    ),
    422: ("The body did not pass; the detail has the fields.", "Missing required parameter: 'query'."),
    429: (
        "Too many logins have failed. Carries Retry-After.",
        "Too many logins have failed; try again in 60 s.",
    ),
    500: ("The engine failed on this request.", "The engine failed on this request."),
    503: (
        "Not now: full, shutting down, or PostgreSQL is away and needed. Carries Retry-After.",
        "The gateway is shutting down.",
    ),
    504: ("The answer took longer than a request may.", "The answer took longer than 600 seconds."),
}
BODY = (408, 413, 415, 422)
GENERATION = (400, 401, 404, *BODY, 500, 503, 504)

_MISSING = [{"type": "missing", "loc": ["body", "query"], "msg": "Field required"}]


def failures(*statuses: int) -> Described:
    """Refusals before the first byte."""
    return {
        str(status): json_answer(_FAILURES[status][0], ref(NativeError), _example(status))
        for status in statuses
    }


def fufan_failures(*statuses: int, events: bool = False) -> Described:
    """The same under /api; ``events`` where a client that accepts events gets one."""
    told: Described = {}
    for status in statuses:
        example = _example(status) | {"status": status, "message": _FAILURES[status][1]}
        told[str(status)] = answer = json_answer(_FAILURES[status][0], ref(FufanError), example)
        if events:
            answer["content"] |= event_stream(ref(FufanErrorEvent), "data: {...}\r\n\r\n")
    return told


def _example(status: int) -> dict[str, Any]:
    _, message = _FAILURES[status]
    return {"code": status, "msg": message, "data": None, "detail": _MISSING if status == 422 else message}


def event_stream(data: dict[str, Any], example: str, *, is_json: bool = True) -> dict[str, Any]:
    """Content of events, whose data is JSON of a schema or raw text."""
    holds = (
        {"type": "string", "contentMediaType": "application/json", "contentSchema": data} if is_json else data
    )
    schema = {
        "type": "object",
        "description": "One event; the stream's end says that there are no more.",
        "required": ["data"],
        "properties": {"data": holds},
    }
    return {"text/event-stream": {"schema": schema, "example": example}}
