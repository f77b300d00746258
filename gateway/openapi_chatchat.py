"""What /openapi.json says of Chatchat's own routes, and of the one that gives feedback in OpenAI's manner."""

from __future__ import annotations

from typing import Any

from adapters.chatchat.answer_types import (
    BaseResponse,
    ChatCompletionChunkOf03,
    ChatCompletionOf03,
    ChatFailure,
    ChatPiece,
    FufanError,
    FufanErrorEvent,
    NativeError,
)
from adapters.chatchat.chat_request import ChatRequest, FufanChatRequest, TextRequest
from adapters.chatchat.feedback import ChatFeedback
from adapters.openai.answer_types import FeedbackObject
from adapters.openai.feedback import FeedbackRequest
from gateway.openapi_native import (
    BODY,
    GENERATION,
    ID,
    event_stream,
    failures,
    fufan_failures,
    json_data,
)
from gateway.openapi_operations import CHAT, CHAT_EXAMPLE, FAILURES, openai_answers, openai_error
from gateway.openapi_parts import json_answer, json_body, ref

_PIECE = {"text": "你好！", "message_id": ID}
_WHOLE = {"application/json": {"schema": ref(ChatPiece), "example": _PIECE}}
_PIECES = event_stream(
    json_data(ChatPiece, ChatFailure),
    "".join(f'data: {{"text": "{text}", "message_id": "{ID}"}}\r\n\r\n' for text in ("你好", "！")),
)
_TEXTS = event_stream({"type": "string"}, "data: 床前\r\n\r\ndata: 明月光\r\n\r\n")
_ONE_PIECE = (
    "Without `stream` a single one, or JSON for a client that accepts application/json, and neither events "
    "nor whatever there is."
)
_HISTORY = [{"role": "user", "content": "我叫小明"}, {"role": "assistant", "content": "你好，小明！"}]

_CHAT: dict[str, Any] = {
    "requestBody": json_body(
        ChatRequest,
        {
            "question": {"summary": "A question", "value": {"query": "你好", "stream": True}},
            "history": {
                "summary": "With what was said before",
                "value": {"query": "我叫什么？", "history": _HISTORY, "stream": True},
            },
            "stored": {
                "summary": "With the last three stored turns",
                "value": {"query": "我叫什么？", "conversation_id": ID, "history_len": 3},
            },
        },
    ),
    "responses": {
        "200": {
            "description": f"Events. {_ONE_PIECE}",
            "content": _PIECES | _WHOLE,
        },
        **failures(*GENERATION),
    },
}
_COMPLETION: dict[str, Any] = {
    "requestBody": json_body(
        TextRequest, {"text": {"summary": "A text", "value": {"query": "床前明月光，", "max_tokens": 64}}}
    ),
    "responses": {
        "200": {
            "description": "Events whose data is the text itself, one line of data for each of its lines. "
            + _ONE_PIECE,
            "content": _TEXTS | _WHOLE,
        },
        **failures(*GENERATION),
    },
}
_FUFAN_CHAT: dict[str, Any] = {
    "requestBody": json_body(
        FufanChatRequest,
        {
            "front end": {
                "summary": "What the front end sends",
                "value": {"query": "你好", "conversation_id": ID, "model_name": "chatglm3-6b"},
            },
            "json": {"summary": "In one piece", "value": {"query": "你好", "stream": False}},
        },
    ),
    "responses": {
        "200": {"description": "Events; with `stream` false JSON.", "content": _PIECES | _WHOLE},
        **fufan_failures(*GENERATION, events=True),
    },
}
_CHAT_OF_03: dict[str, Any] = {
    "requestBody": CHAT["requestBody"],
    "responses": openai_answers(
        ChatCompletionOf03,
        ChatCompletionChunkOf03,
        CHAT_EXAMPLE | {"message_id": ID, "status": None},
        f'data: {{"id":"chatcmpl-{ID}",...,"message_id":"{ID}","status":null,"choices":[{{"index":0,'
        '"delta":{"content":"Paris"},"finish_reason":null}]}\n\n...\n\ndata: [DONE]\n\n',
    ),
}
_CHAT_FEEDBACK: dict[str, Any] = {
    "requestBody": json_body(
        ChatFeedback,
        {"good": {"summary": "A good one", "value": {"message_id": ID, "score": 90, "reason": "清楚"}}},
    ),
    "responses": {
        "200": json_answer(
            "What became of it, in `code`: 200, 400 for a score out of range, 404 for a message that is not "
            "there or is somebody else's, 503 while PostgreSQL is away.",
            ref(BaseResponse),
            {"code": 200, "msg": f"已反馈聊天记录 {ID}", "data": None},
        ),
        **failures(401, 403, *BODY, 503),
    },
}
_FEEDBACK: dict[str, Any] = {
    "requestBody": json_body(
        FeedbackRequest,
        {
            "thumbs": {"summary": "Thumbs", "value": {"completion_id": f"chatcmpl-{ID}", "thumbs": "up"}},
            "corrected": {
                "summary": "As it should have been",
                "value": {
                    "message_id": ID,
                    "score": 20,
                    "reason": "wrong",
                    "correction": "Paris.",
                    "id": "f-1",
                },
            },
        },
    ),
    "responses": {
        "200": json_answer(
            "What is stored.",
            ref(FeedbackObject),
            {
                "object": "feedback",
                "id": "f-1",
                "message_id": ID,
                "score": 20,
                "reason": "",
                "correction": "Paris.",
                "created": 1767225600,
            },
        ),
        **{status: FAILURES[status] for status in ("400", "401", "404", "408", "413", "415", "503")},
        "409": {
            "description": "There is a feedback with this id that says something else.",
            "content": openai_error(
                "There is a feedback with this id that says something else.", "id", "conflict"
            ),
        },
    },
}

BODIES = (ChatRequest, TextRequest, FufanChatRequest, ChatFeedback, FeedbackRequest)
ANSWERS = (
    ChatPiece,
    ChatFailure,
    ChatCompletionOf03,
    ChatCompletionChunkOf03,
    BaseResponse,
    FeedbackObject,
    NativeError,
    FufanError,
    FufanErrorEvent,
)
OPERATIONS: dict[str, dict[str, Any]] = {
    "/chat/chat": _CHAT,
    "/other/completion": _COMPLETION,
    "/api/chat": _FUFAN_CHAT,
    "/chat/chat/completions": _CHAT_OF_03,
    "/chat/feedback": _CHAT_FEEDBACK,
    "/v1/feedback": _FEEDBACK,
}
