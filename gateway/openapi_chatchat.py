"""What /openapi.json says of Chatchat's own routes, and of the one that gives feedback in OpenAI's manner."""

from __future__ import annotations

from typing import Any

from adapters.chatchat.answer_types import (
    BaseResponse,
    ChatCompletionChunkOf03,
    ChatCompletionOf03,
    ChatFailure,
    ChatPiece,
    CourseAnswer,
    FufanError,
    FufanErrorEvent,
    LatestMessages,
    NativeError,
)
from adapters.chatchat.chat_request import ChatRequest, TextRequest
from adapters.chatchat.course import CourseRequest
from adapters.chatchat.feedback import ChatFeedback
from adapters.openai.answer_types import FeedbackObject
from adapters.openai.feedback import FeedbackRequest
from gateway.openapi_native import (
    ACCESS,
    BODY,
    GENERATION,
    ID,
    event_stream,
    failures,
    fufan_failures,
    json_data,
)
from gateway.openapi_operations import CHAT, CHAT_EXAMPLE, FAILURES, openai_answers, openai_error
from gateway.openapi_parts import json_answer, json_body, parameter, ref

_PIECE = {"text": "你好！", "message_id": ID}
WHOLE = {"application/json": {"schema": ref(ChatPiece), "example": _PIECE}}
PIECES = event_stream(
    json_data(ChatPiece, ChatFailure),
    "".join(f'data: {{"text": "{text}", "message_id": "{ID}"}}\r\n\r\n' for text in ("你好", "！")),
)
_TEXTS = event_stream({"type": "string"}, "data: 床前\r\n\r\ndata: 明月光\r\n\r\n")
_TIME = "2026-01-01 00:00:00"
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
            "content": PIECES | WHOLE,
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
            "content": _TEXTS | WHOLE,
        },
        **failures(*GENERATION),
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
        **failures(*ACCESS, *BODY),
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
        **{
            status: FAILURES[status]
            for status in ("400", "401", "403", "404", "408", "413", "415", "429", "503")
        },
        "409": {
            "description": "There is a feedback with this id that says something else.",
            "content": openai_error(
                "There is a feedback with this id that says something else.", "id", "conflict"
            ),
        },
    },
}

_COURSE: dict[str, Any] = {
    "requestBody": json_body(
        CourseRequest,
        {
            "first": {"summary": "A question", "value": {"prompt": "你好", "history": []}},
            "pairs": {
                "summary": "With what was said before",
                "value": {"prompt": "我叫什么？", "history": [["我叫小明", "你好，小明！"]]},
            },
        },
    ),
    "responses": {
        "200": json_answer(
            "The answer.",
            ref(CourseAnswer),
            {"response": "你好！", "history": [["你好", "你好！"]], "status": 200, "time": _TIME},
        ),
        **fufan_failures(*GENERATION),
    },
}
_LATEST: dict[str, Any] = {
    "parameters": [
        parameter(
            "limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
        )
    ],
    "responses": {
        "200": json_answer(
            "The messages, newest first.",
            ref(LatestMessages),
            {
                "messages": [
                    {
                        "id": ID,
                        "query": "你好",
                        "response": "你好！",
                        "create_time": _TIME,
                        "conversation_id": None,
                        "feedback_score": -1,
                        "status": "completed",
                    }
                ],
                "status": 200,
                "time": _TIME,
            },
        ),
        **fufan_failures(422, *ACCESS),
    },
}

BODIES = (ChatRequest, TextRequest, ChatFeedback, FeedbackRequest, CourseRequest)
ANSWERS = (
    ChatPiece,
    ChatFailure,
    ChatCompletionOf03,
    ChatCompletionChunkOf03,
    BaseResponse,
    CourseAnswer,
    LatestMessages,
    FeedbackObject,
    NativeError,
    FufanError,
    FufanErrorEvent,
)
OPERATIONS: dict[str, dict[str, Any]] = {
    "/chat/chat": _CHAT,
    "/other/completion": _COMPLETION,
    "/chat/chat/completions": _CHAT_OF_03,
    "/chat/feedback": _CHAT_FEEDBACK,
    "/v1/feedback": _FEEDBACK,
    "/chat/new/message/": _COURSE,
    "/chat/get/messages/": _LATEST,
}
