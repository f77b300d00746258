"""What /openapi.json says of the admin's routes, and of who the caller is."""

from __future__ import annotations

from typing import Any

from adapters.openai.admin import (
    CallerObject,
    ChangedKey,
    ChangedUser,
    KeyList,
    KeyObject,
    NewKey,
    NewKeyObject,
    NewUser,
    UserList,
    UserObject,
    list_object,
)
from gateway.openapi_operations import FAILURES, openai_error
from gateway.openapi_parts import Described, json_answer, json_body, parameter, ref

_ID = "019a0f0e6c5c7b1f8d7e6a5b4c3d2e1f"
_NONE = dict.fromkeys(
    ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests"), None
)
_LIMITS = _NONE | {"requests_per_minute": 60, "concurrent_requests": 8}
_KEY = {
    "object": "api_key",
    "id": _ID,
    "name": "search service",
    "prefix": "cgw_4fGh2LmQ",
    "user_id": _ID,
    "username": "search",
    "scopes": ["feedback", "inference", "read"],
    "limits": _LIMITS,
    "weight": 1.0,
    "status": "active",
    "created_at": 1767225600,
    "expires_at": None,
    "revoked_at": None,
}
_USER = {
    "object": "user",
    "id": _ID,
    "username": "search",
    "is_admin": False,
    "has_password": False,
    "limits": _NONE,
    "created_at": 1767225600,
}

_ACCESS: Described = {status: FAILURES[status] for status in ("401", "403", "429", "503")}
_BAD: Described = {"400": FAILURES["400"]}
_BODY: Described = _BAD | {status: FAILURES[status] for status in ("408", "413", "415")}
_TAKEN: Described = {
    "409": {
        "description": "There is a user of this name.",
        "content": openai_error("There is a user of this name.", "username", "username_taken"),
    }
}


def _no_such(what: str) -> Described:
    content = openai_error(f"There is no such {what}.", f"{what}_id", f"{what}_not_found")
    return {"404": {"description": "There is none with this id.", "content": content}}


def _ok(status: str, description: str, model: type[Any], example: Any) -> Described:
    return {status: json_answer(description, ref(model), example)}


_PAGE = [
    parameter("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    parameter("after", "The `last_id` of a list: only what follows it.", {"type": "string"}),
]
_KEY_ID = parameter("key_id", "The key: its id, not itself.", {"type": "string"}, in_path=True)
_USER_ID = parameter("user_id", "The user.", {"type": "string"}, in_path=True)

OPERATIONS: dict[str, dict[str, Any]] = {
    "/v1/me": {
        "responses": _ok(
            "200",
            "Whoever has sent this.",
            CallerObject,
            {
                "object": "caller",
                "user_id": _ID,
                "key_id": _ID,
                "scopes": ["feedback", "inference", "read"],
                "limits": {"key": _LIMITS, "user": _NONE},
                "weight": 1.0,
            },
        )
        | _ACCESS
    },
    "/admin/keys": {
        "get": {
            "parameters": [parameter("user_id", "Only the keys of this user.", {"type": "string"}), *_PAGE],
            "responses": _ok("200", "The keys.", KeyList, list_object([_KEY], has_more=False))
            | _BAD
            | _ACCESS,
        },
        "post": {
            "requestBody": json_body(
                NewKey,
                {
                    "key": {
                        "summary": "A key with limits",
                        "value": {
                            "user_id": _ID,
                            "name": "search service",
                            "limits": {"requests_per_minute": 60, "concurrent_requests": 8},
                        },
                    }
                },
            ),
            "responses": _ok(
                "201",
                "The key; keep it, it is not shown again.",
                NewKeyObject,
                _KEY | {"key": "cgw_4fGh2LmQ…"},
            )
            | _no_such("user")
            | _BODY
            | _ACCESS,
        },
    },
    "/admin/keys/{key_id}": {
        "post": {
            "parameters": [_KEY_ID],
            "requestBody": json_body(
                ChangedKey,
                {"limit": {"summary": "Another limit", "value": {"limits": {"tokens_per_day": 1000000}}}},
            ),
            "responses": _ok("200", "The key.", KeyObject, _KEY) | _no_such("key") | _BODY | _ACCESS,
        },
        "delete": {
            "parameters": [_KEY_ID],
            "responses": _ok(
                "200", "The key.", KeyObject, _KEY | {"status": "revoked", "revoked_at": 1767312000}
            )
            | _no_such("key")
            | _ACCESS,
        },
    },
    "/admin/users": {
        "get": {
            "parameters": _PAGE,
            "responses": _ok("200", "The users.", UserList, list_object([_USER], has_more=False))
            | _BAD
            | _ACCESS,
        },
        "post": {
            "requestBody": json_body(
                NewUser, {"service": {"summary": "Who has keys only", "value": {"username": "search"}}}
            ),
            "responses": _ok("201", "The user.", UserObject, _USER) | _TAKEN | _BODY | _ACCESS,
        },
    },
    "/admin/users/{user_id}": {
        "post": {
            "parameters": [_USER_ID],
            "requestBody": json_body(
                ChangedUser, {"admin": {"summary": "An admin", "value": {"is_admin": True}}}
            ),
            "responses": _ok("200", "The user.", UserObject, _USER) | _no_such("user") | _BODY | _ACCESS,
        }
    },
    "/admin/users/{user_id}/access": {
        "delete": {
            "parameters": [_USER_ID],
            "responses": _ok("200", "The user.", UserObject, _USER) | _no_such("user") | _ACCESS,
        }
    },
}

BODIES = (NewKey, ChangedKey, NewUser, ChangedUser)
ANSWERS = (CallerObject, KeyObject, NewKeyObject, KeyList, UserObject, UserList)
