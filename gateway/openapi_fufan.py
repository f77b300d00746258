"""What /openapi.json says of fufan's routes: users, conversations, chat."""

from __future__ import annotations

from typing import Any

from adapters.chatchat.chat_request import FufanChatRequest
from adapters.chatchat.fufan import SUCCESS, WRONG, Login, NewConversation, NewName, Registration
from adapters.chatchat.fufan_answer_types import (
    Done,
    ListedConversations,
    ListedMessages,
    LoggedIn,
    LoginRefused,
    ModelNames,
    NewConversationId,
    Registered,
)
from gateway.openapi_chatchat import PIECES, WHOLE
from gateway.openapi_native import ACCESS, BODY, GENERATION, ID, fufan_failures
from gateway.openapi_parts import json_answer, json_body, parameter, ref

_USER = {"username": "小明", "password": "correct horse"}
_REGISTERED = SUCCESS | {"id": ID, "username": "小明"}
_TIME = "2026-01-01T00:00:00.000+00:00"
_LIST = [
    parameter("chat_types", "Only these types, separated by commas.", {"type": "string"}),
    parameter("limit", "At most so many.", {"type": "integer", "minimum": 1, "default": 1000}),
]
_CONVERSATION = parameter("conversation_id", "The conversation.", {"type": "string"}, in_path=True)

_CHAT: dict[str, Any] = {
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
        "200": {"description": "Events; with `stream` false JSON.", "content": PIECES | WHOLE},
        **fufan_failures(*GENERATION, events=True),
    },
}
_REGISTER: dict[str, Any] = {
    "requestBody": json_body(Registration, {"user": {"summary": "A user", "value": _USER}}),
    "responses": {
        "201": json_answer("The user, who is logged in: the cookie is set.", ref(Registered), _REGISTERED),
        **fufan_failures(400, 403, *BODY, 429, 503),
    },
}
_LOGIN: dict[str, Any] = {
    "requestBody": json_body(Login, {"user": {"summary": "A user", "value": _USER | {"code": ""}}}),
    "responses": {
        "200": {
            "description": f"Logged in: the cookie is set; or not: `status` is {WRONG['status']}.",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [ref(LoggedIn), ref(LoginRefused)]},
                    "example": _REGISTERED | {"message": "Login successful"},
                }
            },
        },
        **fufan_failures(403, *BODY, 429, 503),
    },
}
_LOGOUT: dict[str, Any] = {
    "responses": {
        "200": json_answer(
            "Logged out: the cookie is taken away.", ref(Done), SUCCESS | {"message": "Logged out"}
        ),
        **fufan_failures(403, 503),
    }
}
_CREATE: dict[str, Any] = {
    "requestBody": json_body(
        NewConversation,
        {
            "new": {
                "summary": "A new one",
                "value": {"user_id": ID, "name": "new_chat", "chat_type": "general_chat"},
            }
        },
    ),
    "responses": {
        "200": json_answer("The conversation.", ref(NewConversationId), SUCCESS | {"id": ID}),
        **fufan_failures(400, 404, *ACCESS, *BODY),
    },
}
_CONVERSATIONS: dict[str, Any] = {
    "parameters": [
        parameter("user_id", "The user; with authentication the caller.", {"type": "string"}, in_path=True),
        *_LIST,
        parameter("before", "The id of a conversation: only those that follow it.", {"type": "string"}),
    ],
    "responses": {
        "200": json_answer(
            "The conversations, newest first.",
            ref(ListedConversations),
            SUCCESS
            | {
                "msg": "success",
                "data": [{"id": ID, "name": "你好", "chat_type": "general_chat", "create_time": _TIME}],
                "has_more": False,
            },
        ),
        **fufan_failures(400, 404, *ACCESS),
    },
}
_MESSAGES: dict[str, Any] = {
    "parameters": [
        _CONVERSATION,
        *_LIST,
        parameter("before", "The id of a message: only older ones.", {"type": "string"}),
    ],
    "responses": {
        "200": json_answer(
            "The messages, oldest first.",
            ref(ListedMessages),
            SUCCESS
            | {
                "msg": "success",
                "data": [
                    {
                        "id": ID,
                        "conversation_id": ID,
                        "chat_type": "general_chat",
                        "query": "你好",
                        "response": "你好！",
                        "meta_data": {"stream": True},
                        "status": "completed",
                        "create_time": _TIME,
                    }
                ],
                "has_more": False,
            },
        ),
        **fufan_failures(400, 404, *ACCESS),
    },
}
_RENAME: dict[str, Any] = {
    "parameters": [_CONVERSATION],
    "requestBody": json_body(NewName, {"name": {"summary": "A name", "value": {"name": "第一课"}}}),
    "responses": {
        "200": json_answer("Renamed.", ref(Done), SUCCESS | {"message": "Conversation name updated"}),
        **fufan_failures(404, *ACCESS, *BODY),
    },
}
_DELETE: dict[str, Any] = {
    "parameters": [_CONVERSATION],
    "responses": {
        "200": json_answer("Gone.", ref(Done), SUCCESS | {"message": "Conversation deleted"}),
        **fufan_failures(404, *ACCESS),
    },
}
_MODEL_NAMES: dict[str, Any] = {
    "responses": {
        "200": json_answer(
            "The one that is served.",
            ref(ModelNames),
            SUCCESS | {"msg": "success", "data": {"models": ["chatglm3-6b"]}},
        ),
        **fufan_failures(*ACCESS),
    }
}

BODIES = (FufanChatRequest, Registration, Login, NewConversation, NewName)
ANSWERS = (
    Registered,
    LoggedIn,
    LoginRefused,
    Done,
    NewConversationId,
    ListedConversations,
    ListedMessages,
    ModelNames,
)
OPERATIONS: dict[str, dict[str, Any]] = {
    "/api/chat": _CHAT,
    "/api/users/register": _REGISTER,
    "/api/users/login": _LOGIN,
    "/api/users/logout": _LOGOUT,
    "/api/conversations": _CREATE,
    "/api/users/{user_id}/conversations": _CONVERSATIONS,
    "/api/conversations/{conversation_id}/messages": _MESSAGES,
    "/api/conversations/{conversation_id}/update_name": _RENAME,
    "/api/conversations/{conversation_id}": _DELETE,
    "/api/llm_model/list_running_models": _MODEL_NAMES,
}
