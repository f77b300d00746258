"""The answer to a request that failed before its first byte, in the shape of the dialect that it came in.

OpenAI's routes answer with OpenAI's error object. Chatchat's own (0.2) answer with its BaseResponse beside
FastAPI's ``detail``, for the official client shows the ``msg`` of any object whose ``code`` is not 200, and
nothing of a ``detail`` alone. Under /api fufan's front end reads ``status`` and ``message``; where it chats
it takes nothing but events, asks again and again until it gets one, and shows their ``text``. Clients of the
plain wrapper that courses teach read ``status``, too.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from adapters.chatchat.events import event
from gateway.errors import GatewayError, body_of
from gateway.last_answer import LastAnswer

NATIVE = ("/chat/", "/other/", "/llm_model/", "/server/", "/api/")
FUFAN = "/api/"
# Their clients look at ``status``.
TELLING_STATUS = (FUFAN, "/chat/new/", "/chat/get/")
EVENT_STREAM = "text/event-stream"
# Of Chatchat 0.3: OpenAI's dialect under another path.
OPENAI = ("/chat/chat/completions",)


def response_to(error: GatewayError, path: str, accept: str = "") -> Response:
    """The failure of a request to ``path``. ``accept``: the header."""
    native = path.startswith(NATIVE) and path not in OPENAI
    # FastAPI's own status for a body that did not pass.
    status = 422 if native and error.invalid_fields else error.status
    body = native_body(error, status, path) if native else body_of(error)
    kind = LastAnswer if error.closes else Response
    if path.startswith(FUFAN) and EVENT_STREAM in accept.lower():
        content, media_type = event(body | {"text": error.message, "message_id": ""}), EVENT_STREAM
    else:
        content = json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace")
        media_type = "application/json"
    return kind(content, status_code=status, media_type=media_type, headers=error.headers)


def native_body(error: GatewayError, status: int, path: str) -> dict[str, Any]:
    """``code`` is the HTTP status; ``detail`` is FastAPI's list where fields are at fault, else the text."""
    fields = [
        {"type": one["type"], "loc": ["body", *one["loc"]], "msg": one["msg"]} for one in error.invalid_fields
    ]
    body = {"code": status, "msg": error.message, "data": None, "detail": fields or error.message}
    return body | ({"status": status, "message": error.message} if path.startswith(TELLING_STATUS) else {})
