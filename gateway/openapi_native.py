"""Pieces of /openapi.json for the routes that are Chatchat's own: their failures and their events."""

from __future__ import annotations

from typing import Any

from adapters.chatchat.answer_types import FufanError, FufanErrorEvent, NativeError
from gateway.openapi_parts import Described, json_answer, ref

ID = "019a0f0e6c5c7b1f8d7e6a5b4c3d2e1f"

# When, and what is said then.
_FAILURES = {
    400: (
        "The request can't be honoured as it is; the message names the field.",
        "There is no prompt template 'x' of type 'llm_chat'; there are: default, py.",
    ),
    401: (
        "With authentication: no API key came, or one that is not known, has expired or was revoked, and "
        "nobody is logged in.",
        "Incorrect API key provided.",
    ),
    403: (
        "What is asked for may not be done: with this key, for a user who is somebody else, or by a page of "
        "another origin.",
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
    413: (
        "The body is too large, as it comes or unpacked; the connection is closed.",
        "The body is larger than 8388608 bytes.",
    ),
    415: (
        "The body is not JSON in UTF-8, or is compressed otherwise than with gzip; the connection is closed.",
        "The body must be JSON: send the header 'content-type: application/json'.",
    ),
    422: ("The body did not pass; `detail` has the fields.", "Missing required parameter: 'query'."),
    429: (
        "The caller has used up what its limits give, too many of its requests wait already, or too many "
        "logins or unknown keys came from there. Carries Retry-After.",
        "The limit of this key is reached: 60 requests per minute. Try again in 1s.",
    ),
    500: ("The engine failed on this request.", "The engine failed on this request."),
    503: (
        "Not now: full, shutting down, or PostgreSQL is away and needed. Carries Retry-After.",
        "The gateway is shutting down.",
    ),
    504: (
        "The answer took longer than a request may, or than its x-request-timeout.",
        "The answer took longer than 600 seconds.",
    ),
}
BODY = (408, 413, 415, 422)
ACCESS = (401, 403, 429, 503)
GENERATION = (400, 404, *ACCESS, *BODY, 500, 504)

_MISSING = [{"type": "missing", "loc": ["body", "query"], "msg": "Field required"}]


def failures(*statuses: int) -> Described:
    """Refusals before the first byte."""
    return {
        str(status): json_answer(_FAILURES[status][0], ref(NativeError), _example(status))
        for status in sorted(statuses)
    }


def fufan_failures(*statuses: int, events: bool = False) -> Described:
    """The same under /api and of the plain wrapper; ``events`` where a client that accepts events gets
    one."""
    told: Described = {}
    for status in sorted(statuses):
        example = _example(status) | {"status": status, "message": _FAILURES[status][1]}
        told[str(status)] = answer = json_answer(_FAILURES[status][0], ref(FufanError), example)
        if events:
            answer["content"] |= event_stream(json_data(FufanErrorEvent), "data: {...}\r\n\r\n")
    return told


def _example(status: int) -> dict[str, Any]:
    _, message = _FAILURES[status]
    return {"code": status, "msg": message, "data": None, "detail": _MISSING if status == 422 else message}


def json_data(*models: type[Any]) -> dict[str, Any]:
    """The data of an event that is JSON of one of ``models``."""
    schemas = [ref(model) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}


def event_stream(data: dict[str, Any], example: str) -> dict[str, Any]:
    """Content of events with ``data``."""
    schema = {
        "type": "object",
        "description": "One event; no more come when the stream ends.",
        "required": ["data"],
        "properties": {"data": data},
    }
    return {"text/event-stream": {"schema": schema, "example": example}}
