"""What /openapi.json says of each operation: its body, its answers, its failures, each with an example."""

from __future__ import annotations

from typing import Any

from adapters.openai.answer_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    DetokenizedText,
    Model,
    ModelList,
    Tokens,
)
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.refused import IGNORED, REFUSED
from adapters.openai.tokens import DetokenizeRequest, TokenizeRequest
from gateway.openapi_parts import Described, exact_object, json_answer, json_body, ref

ERROR_TYPES = ["invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"]
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What went wrong, for people."},
                "type": {"type": "string", "enum": ERROR_TYPES},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                "code": {"type": ["string", "null"], "description": "What went wrong, for programs."},
            },
        }
    },
}


def openai_error(
    message: str, param: str | None, code: str | None, kind: str = "invalid_request_error"
) -> Any:
    """The content of a failure."""
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {"application/json": {"schema": ref("Error"), "example": example}}


FAILURES: Described = {
    "400": {
        "description": "The request can't be honoured as it is; the message names the field.",
        "content": openai_error(
            "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
        ),
    },
    "401": {
        "description": "With authentication: no API key came, or one that is not known, has expired or was "
        "revoked, and nobody is logged in.",
        "content": openai_error("Incorrect API key provided.", None, "invalid_api_key"),
    },
    "403": {
        "description": "The key's scopes do not include this (insufficient_scope); or a page of another "
        "origin asks with the cookie of whoever is logged in (permission_denied).",
        "content": openai_error(
            "The caller's scopes do not include 'inference'.", None, "insufficient_scope"
        ),
    },
    "404": {
        "description": "The model is not served here.",
        "content": openai_error(
            "The model 'gpt-4' is not served here; 'demo' is.", "model", "model_not_found"
        ),
    },
    "408": {
        "description": "The body did not arrive in time; the connection is closed.",
        "content": openai_error("The body did not arrive within 30 seconds.", None, "request_timeout"),
    },
    "413": {
        "description": "The body is too large, as it comes or unpacked; the connection is closed.",
        "content": openai_error("The body is larger than 8388608 bytes.", None, "body_too_large"),
    },
    "415": {
        "description": "The body is not JSON in UTF-8, or is compressed otherwise than with gzip "
        "(unsupported_encoding); the connection is closed.",
        "content": openai_error(
            "The body must be JSON: send the header 'content-type: application/json'.",
            None,
            "unsupported_media_type",
        ),
    },
    "429": {
        "description": "The caller has used up what its limits give, too many of its requests wait already, "
        "or too many unknown keys came from this address. Carries Retry-After.",
        "content": openai_error(
            "The limit of this key is reached: 60 requests per minute. Try again in 1s.",
            None,
            "rate_limit_exceeded",
            "rate_limit_error",
        ),
    },
    "500": {
        "description": "The engine failed on this request.",
        "content": openai_error("The engine failed on this request.", None, None, "server_error"),
    },
    "503": {
        "description": "Not now: full, shutting down, or PostgreSQL is away where it is needed: for stored "
        "turns, or to know who is logged in. Carries Retry-After.",
        "content": openai_error("The gateway is shutting down.", None, "shutting_down", "server_error"),
    },
    "504": {
        "description": "The answer took longer than a request may, or than its x-request-timeout.",
        "content": openai_error("The answer took longer than 600 seconds.", None, "timeout", "server_error"),
    },
}

_USAGE = {
    "prompt_tokens": 37,
    "completion_tokens": 8,
    "total_tokens": 45,
    "prompt_tokens_details": {"cached_tokens": 0},
}
_HEAD = {
    "created": 1767225600,
    "model": "smollm2-135m-instruct",
    "system_fingerprint": "vllm-0.32.0-0f1e2d3c",
}
_ID = "019a0f0e6c5c7b1f8d7e6a5b4c3d2e1f"


def openai_answers(whole: type[Any], chunk: type[Any], example: dict[str, Any], stream: str) -> Described:
    """Of a generation: whole, and as a stream of chunks."""
    data = {"anyOf": [ref(chunk), ref("Error")]}
    event = {
        "type": "object",
        "description": f"One event: a {chunk.__name__}, or an Error, which ends the stream; the last event "
        "of a stream that went well is `[DONE]`.",
        "required": ["data"],
        "properties": {
            "data": {
                "anyOf": [
                    {"const": "[DONE]"},
                    {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
                ]
            }
        },
    }
    return {
        "200": {
            "description": "The answer; with stream=true, server-sent events that end with `[DONE]`.",
            "content": {
                "application/json": {"schema": ref(whole), "example": example},
                "text/event-stream": {"schema": event, "example": stream},
            },
        },
        **FAILURES,
    }


_TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}
CHAT_EXAMPLE: dict[str, Any] = {
    "id": f"chatcmpl-{_ID}",
    "object": "chat.completion",
    **_HEAD,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "The capital of France is Paris.",
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}
CHAT: dict[str, Any] = {
    "requestBody": json_body(
        ChatCompletionRequest,
        {
            "question": {
                "summary": "A question",
                "value": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
            },
            "stream": {
                "summary": "Streamed, with usage",
                "value": {
                    "messages": [
                        {"role": "system", "content": "Answer in one word."},
                        {"role": "user", "content": "What is the capital of France?"},
                    ],
                    "max_tokens": 16,
                    "temperature": 0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                },
            },
            "tools": {
                "summary": "A question and a tool (ChatGLM3)",
                "value": {
                    "messages": [{"role": "user", "content": "今天北京的天气怎么样？"}],
                    "tools": [_TOOL],
                },
            },
        },
    ),
    "responses": openai_answers(
        ChatCompletion,
        ChatCompletionChunk,
        CHAT_EXAMPLE,
        f'data: {{"id":"chatcmpl-{_ID}","object":"chat.completion.chunk",...,"choices":[{{"index":0,'
        '"delta":{"content":"Paris"},"finish_reason":null}]}\n\n...\n\ndata: [DONE]\n\n',
    ),
}
_COMPLETION: dict[str, Any] = {
    "requestBody": json_body(
        CompletionRequest,
        {
            "continue": {
                "summary": "Continue a text",
                "value": {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
            }
        },
    ),
    "responses": openai_answers(
        Completion,
        CompletionChunk,
        {
            "id": f"cmpl-{_ID}",
            "object": "text_completion",
            **_HEAD,
            "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
            "usage": _USAGE,
        },
        f'data: {{"id":"cmpl-{_ID}","object":"text_completion",...,"choices":[{{"index":0,'
        '"text":" Paris","logprobs":null,"finish_reason":null}]}\n\n...\n\ndata: [DONE]\n\n',
    ),
}

_READING: Described = {status: FAILURES[status] for status in ("401", "403", "429", "503")}
_REFUSALS: Described = {status: answer for status, answer in FAILURES.items() if status not in ("500", "504")}
_TOKENIZE: dict[str, Any] = {
    "requestBody": json_body(
        TokenizeRequest,
        {
            "text": {"summary": "A text", "value": {"prompt": "你好"}},
            "conversation": {
                "summary": "A conversation",
                "value": {"messages": [{"role": "user", "content": "你好"}]},
            },
        },
    ),
    "responses": {
        "200": json_answer(
            "The tokens.",
            ref(Tokens),
            {
                "count": 8,
                "max_model_len": 8192,
                "tokens": [64790, 64792, 64795, 30910, 13, 36474, 54591, 64796],
                "token_strs": None,
            },
        ),
        **_REFUSALS,
    },
}
_DETOKENIZE: dict[str, Any] = {
    "requestBody": json_body(
        DetokenizeRequest, {"ids": {"summary": "Some ids", "value": {"tokens": [36474, 54591]}}}
    ),
    "responses": {"200": json_answer("The text.", ref(DetokenizedText), {"prompt": "你好"}), **_REFUSALS},
}

_MODEL = {
    "id": "smollm2-135m-instruct",
    "object": "model",
    "created": 1767225600,
    "owned_by": "chatglm-gateway",
    "root": "smollm2-135m-instruct",
    "parent": None,
    "engine": "vllm",
    "max_model_len": 8192,
    "sampling_defaults": {"temperature": 0.2, "top_p": 0.9},
}
_MODELS_ANSWERS: Described = {
    "200": json_answer("The list.", ref(ModelList), {"object": "list", "data": [_MODEL]}),
    **_READING,
}
_MODEL_ANSWERS: Described = {
    "200": json_answer("The model.", ref(Model), _MODEL),
    "404": FAILURES["404"],
    **_READING,
}


_PROBLEMS = {"type": "array", "items": {"type": "string"}}
_LIVE_ANSWERS: Described = {
    "200": json_answer("Alive.", exact_object(status={"const": "alive"}), {"status": "alive"}),
}
_READY_ANSWERS: Described = {
    "200": json_answer(
        "Ready, also where something is wrong.",
        {
            "anyOf": [
                exact_object(status={"const": "ready"}, problems=_PROBLEMS | {"maxItems": 0}),
                exact_object(status={"const": "degraded"}, problems=_PROBLEMS | {"minItems": 1}),
            ]
        },
        {"status": "ready", "problems": []},
    ),
    "503": json_answer(
        "Not ready.",
        exact_object(status={"const": "not ready"}, problems=_PROBLEMS | {"minItems": 1}),
        {"status": "not ready", "problems": ["The engine's processes have ended."]},
    ),
}
_HEALTH_ANSWERS: Described = {
    "200": {"description": "Requests may come; no body."},
    "503": {"description": "They may not; no body."},
}
_COUNT = {"type": "integer", "minimum": 0}
_LOAD_ANSWERS: Described = {
    "200": json_answer("The load.", exact_object(server_load=_COUNT), {"server_load": 3}),
}
_GET_LOAD_ANSWERS: Described = {"200": json_answer("The load.", exact_object(load=_COUNT), {"load": 3})}
_METRICS_ANSWERS: Described = {
    **_READING,
    "200": {
        "description": "Prometheus' text format.",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": 'gateway_http_requests_total{method="GET",route="/metrics",status="200"} 3.0\n',
            }
        },
    },
}


# By path.
def _fields_text() -> str:
    """What becomes of fields that the body's schema does not have."""
    refused = "; ".join(f"`{name}`: {refusal.why.removesuffix('.')}" for name, refusal in REFUSED.items())
    ignored = "; ".join(f"`{name}`: {why}" for name, why in IGNORED.items())
    return (
        "The field `x-origin` of each property says whose it is: OpenAI's, vLLM's or Chatchat's.\n\n"
        f"**Refused** with a 400, because the answer would not be what was asked for: {refused}.\n\n"
        "**Ignored**, and named in the header `x-gateway-ignored-fields`, as any unknown field is: "
        f"{ignored}."
    )


FIELDS_TEXT = _fields_text()
GENERATING = ("/v1/chat/completions", "/v1/completions")

OPERATIONS: dict[str, dict[str, Any]] = {
    "/v1/models": {"responses": _MODELS_ANSWERS},
    "/v1/models/{model}": {"responses": _MODEL_ANSWERS},
    "/v1/chat/completions": CHAT,
    "/v1/completions": _COMPLETION,
    "/tokenize": _TOKENIZE,
    "/detokenize": _DETOKENIZE,
    "/health/live": {"responses": _LIVE_ANSWERS},
    "/health/ready": {"responses": _READY_ANSWERS},
    "/health": {"responses": _HEALTH_ANSWERS},
    "/load": {"responses": _LOAD_ANSWERS},
    "/get_load": {"responses": _GET_LOAD_ANSWERS},
    "/metrics": {"responses": _METRICS_ANSWERS},
}

BODIES = (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
ANSWERS = (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Model,
    ModelList,
    Tokens,
    DetokenizedText,
)
