from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.openai.chat_request import ChatCompletionRequest
from engine.base import EngineDead, EngineError, EngineOverloaded, GenerationFailed, RequestRefused
from gateway.error_shapes import response_to
from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    GenerationError,
    InsufficientQuota,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    RateLimitExceeded,
    Unavailable,
    UnknownUrl,
    UnsupportedEncoding,
    UnsupportedMediaType,
    body_of,
    from_engine,
    from_status,
    from_validation,
)
from tests.strategies import json_values

MESSAGES = [{"role": "user", "content": "hi"}]
INVALID = "invalid_request_error"
KINDS = [
    (GatewayError, 500, "server_error", None),
    (InvalidRequest, 400, INVALID, None),
    (ContextLengthExceeded, 400, INVALID, "context_length_exceeded"),
    (InvalidApiKey, 401, INVALID, "invalid_api_key"),
    (PermissionDenied, 403, INVALID, "permission_denied"),
    (ModelNotFound, 404, INVALID, "model_not_found"),
    (UnknownUrl, 404, INVALID, "unknown_url"),
    (NotFound, 404, INVALID, "not_found"),
    (MethodNotAllowed, 405, INVALID, "method_not_allowed"),
    (BodyTimeout, 408, INVALID, "request_timeout"),
    (Conflict, 409, INVALID, "conflict"),
    (BodyTooLarge, 413, INVALID, "body_too_large"),
    (UnsupportedMediaType, 415, INVALID, "unsupported_media_type"),
    (UnsupportedEncoding, 415, INVALID, "unsupported_encoding"),
    (InsufficientQuota, 429, "insufficient_quota", "insufficient_quota"),
    (GenerationError, 500, "server_error", None),
    (Unavailable, 503, "server_error", "overloaded"),
    (DeadlineExceeded, 504, "server_error", "timeout"),
]


def refused(body: str | dict[str, Any]) -> InvalidRequest:
    """What a client is told about a chat with ``body``."""
    raw = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(ValidationError) as invalid:
        ChatCompletionRequest.model_validate_json(raw)
    return from_validation(invalid.value.errors())


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "Missing required parameter"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [5]}, "messages.0", "an object"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "Missing required parameter"),
        ({"messages": [{"role": "bot", "content": "hi"}]}, "messages.0.role", "'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "required for the role 'user'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "'image_url' are not supported",
        ),
        ({"messages": MESSAGES, "temperature": 3}, "temperature", "less than or equal to 2"),
        ({"messages": MESSAGES, "temperature": "hot"}, "temperature", "valid number"),
        ({"messages": MESSAGES, "max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"messages": MESSAGES, "stop": 5}, "stop", "must be a valid string, or a valid array"),
        ({"messages": MESSAGES, "stop": list("abcde")}, "stop", "at most 4 items"),
        ({"messages": MESSAGES, "stream_options": {}}, "stream_options", "when stream is true"),
        (
            {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "valid boolean",
        ),
    ],
)
def test_a_refusal_names_the_field_and_says_why(body: dict[str, Any], param: str, words: str) -> None:
    error = refused(body)
    assert (error.status, error.param) == (400, param)
    assert f"'{param}'" in error.message
    assert words in error.message
    assert error.code in ("invalid_value", "missing_required_parameter")


@pytest.mark.parametrize("body", ["[]", '"hi"', "null", "5", "true"])
def test_a_body_that_is_not_an_object_is_told_so(body: str) -> None:
    error = refused(body)
    assert (error.message, error.param) == ("The body must be a JSON object.", None)


@pytest.mark.parametrize("body", ["", "{", "{'a': 1}", '{"a":}', "[" * 1000, r'{"a":"\ud800"}'])
def test_broken_json_is_told_so(body: str) -> None:
    error = refused(body)
    assert error.message.startswith("The body is not valid JSON: ")
    assert error.param is None


@given(
    json_values
    | st.fixed_dictionaries({}, optional=dict.fromkeys(ChatCompletionRequest.model_fields, json_values))
)
def test_every_refusal_has_a_message_of_one_line_that_names_no_inner_type(value: object) -> None:
    try:
        ChatCompletionRequest.model_validate_json(json.dumps(value))
    except ValidationError as invalid:
        error = from_validation(invalid.errors())
        assert error.status == 400
        assert len(error.message.splitlines()) == 1
        assert error.param is None or error.param.split(".")[0] in ChatCompletionRequest.model_fields
        assert not {"[", "-"} & set(error.param or "")


@pytest.mark.parametrize(("kind", "status", "type_", "code"), KINDS)
def test_a_body_has_all_four_keys(
    kind: type[GatewayError], status: int, type_: str, code: str | None
) -> None:
    error = kind("What went wrong.", "field")
    assert error.status == status
    assert body_of(error) == {
        "error": {"message": "What went wrong.", "type": type_, "param": "field", "code": code}
    }
    assert body_of(kind("x", code="mine"))["error"]["code"] == "mine"
    assert ("retry-after" in error.headers) == (status == 503)


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"),
    [(0.0, "1", "1"), (0.0004, "1", "1"), (0.7, "1", "700"), (3.4, "4", "3400"), (60, "60", "60000")],
)
def test_when_to_come_again_is_never_too_early(seconds: float, whole: str, milliseconds: str) -> None:
    limited = RateLimitExceeded("Token limit reached.", seconds)
    assert body_of(limited)["error"] == {
        "message": "Token limit reached.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    away = Unavailable("Full.", retry_after_seconds=seconds)
    for error in (limited, away):
        headers = response_to(error, "/v1/models").headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == (whole, milliseconds)


def test_an_error_says_what_else_a_client_has_to_know() -> None:
    assert response_to(InvalidApiKey("x"), "/v1/models").headers["www-authenticate"] == "Bearer"
    assert response_to(UnsupportedEncoding("x"), "/v1/models").headers["accept-encoding"] == "gzip, identity"
    for kind in (InsufficientQuota, DeadlineExceeded):
        assert response_to(kind("x"), "/v1/models").headers["x-should-retry"] == "false"


def test_one_errors_headers_are_not_anothers() -> None:
    InvalidApiKey("x").headers["x-made-up"] = "1"
    assert InvalidApiKey("x").headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("failure", "kind", "param", "code"),
    [
        (RequestRefused("no room", "max_tokens"), InvalidRequest, "max_tokens", None),
        (EngineOverloaded("inside"), Unavailable, None, "overloaded"),
        (EngineDead("inside"), Unavailable, None, "engine_unavailable"),
        (GenerationFailed("inside"), GenerationError, None, None),
        (EngineError("inside"), GenerationError, None, None),
    ],
)
def test_an_engines_failure_means_something_to_a_client(
    failure: EngineError, kind: type[GatewayError], param: str | None, code: str | None
) -> None:
    error = from_engine(failure)
    assert (type(error), error.param, error.code) == (kind, param, code)
    # Only a refusal's own words are for the client.
    assert "inside" not in error.message


@given(st.text(st.characters()))
def test_a_response_is_json_whatever_the_message_holds(message: str) -> None:
    response = response_to(Unavailable(message), "/v1/models")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"].isdecimal()
    assert json.loads(bytes(response.body))["error"]["message"] == message


@pytest.mark.parametrize(
    ("status", "type_", "code", "words"),
    [
        (404, "invalid_request_error", "unknown_url", "Unknown URL: GET /nowhere"),
        (405, "invalid_request_error", "method_not_allowed", "Not allowed: GET /nowhere"),
        (418, "invalid_request_error", None, "I'm a Teapot"),
        (502, "server_error", None, "Bad Gateway"),
    ],
)
def test_starlettes_refusals_have_openais_shape(
    status: int, type_: str, code: str | None, words: str
) -> None:
    error = from_status(status, "", "GET", "/nowhere")
    assert error.status == status
    assert body_of(error)["error"] == {"message": words, "type": type_, "param": None, "code": code}
