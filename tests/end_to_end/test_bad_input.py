"""Whatever a client sends: a clear 4xx, and one line in the log."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.served import Gateway

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
OK = [{"role": "user", "content": "hi"}]

# body, status, param, a word of the message
BODIES: list[tuple[Any, int, str | None, str]] = [
    ([], 400, None, "JSON object"),
    ("text", 400, None, "JSON object"),
    (None, 400, None, "JSON object"),
    (7, 400, None, "JSON object"),
    ({}, 400, "messages", "Missing"),
    ({"messages": []}, 400, "messages", "at least 1"),
    ({"messages": "hi"}, 400, "messages", "array"),
    ({"messages": [5]}, 400, "messages.0", "object"),
    ({"messages": [{"content": "hi"}]}, 400, "messages.0.role", "Missing"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages.0.role", "'user'"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content", "string"),
    ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "required"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages.0.content",
        "image_url",
    ),
    ({"messages": OK, "temperature": "hot"}, 400, "temperature", "number"),
    ({"messages": OK, "temperature": 2.1}, 400, "temperature", "2"),
    ({"messages": OK, "top_p": 0}, 400, "top_p", "greater than 0"),
    ({"messages": OK, "max_tokens": "many"}, 400, "max_tokens", "integer"),
    ({"messages": OK, "max_tokens": 1.5}, 400, "max_tokens", "integer"),
    ({"messages": OK, "stop": ""}, 400, "stop", "at least 1 character"),
    ({"messages": OK, "stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "4"),
    ({"messages": OK, "stop": 5}, 400, "stop", "a valid string, or a valid array"),
    ({"messages": OK, "stop": ["a", 5]}, 400, "stop.1", "string"),
    ({"messages": OK, "tool_choice": 7}, 400, "tool_choice", "'none', 'auto' or 'required', or an object"),
    ({"messages": OK, "seed": 2**70}, 400, "seed", "less than"),
    ({"messages": OK, "stream": "yes"}, 400, "stream", "boolean"),
    ({"messages": OK, "stream_options": {"include_usage": True}}, 400, "stream_options", "stream is true"),
    ({"messages": OK, "audio": {}}, 400, "audio", "not supported"),
    ({"messages": OK, "tools": [{"type": "function"}]}, 400, "tools.0.function", "Missing"),
    ({"messages": OK, "model": "gpt-4"}, 404, "model", "'simulated'"),
    ({"messages": OK, "model": 4}, 400, "model", "string"),
]


@pytest.mark.parametrize(("body", "status", "param", "word"), BODIES)
def test_a_bad_body_is_refused_clearly(
    client: httpx.Client, simulated: Gateway, body: Any, status: int, param: str | None, word: str
) -> None:
    written = len(simulated.output)
    answer = client.post(CHAT, content=json.dumps(body), headers=JSON)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert word in error["message"]
    lines = logged(simulated, written, answer)
    assert len(lines) == 1, lines


def logged(simulated: Gateway, written: int, answer: httpx.Response) -> list[str]:
    """What was logged since, once the line of ``answer`` is there; but for what has its own time."""
    simulated.wait_for(lambda: answer.headers["x-request-id"] in simulated.output)
    return [line for line in simulated.output[written:].splitlines() if "gateway.housekeeping" not in line]


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"messages": [}', b"\xff\xfe", b"[" * 100_000, b"NaN", b'{"a":1}{"b":2}']
)
def test_broken_json_is_refused_clearly(client: httpx.Client, simulated: Gateway, body: bytes) -> None:
    written = len(simulated.output)
    answer = client.post(CHAT, content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert len(logged(simulated, written, answer)) == 1


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_twenty_megabytes_is_refused(
    client: httpx.Client, simulated: Gateway, declared: bool
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000_000}]}).encode()
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    written = len(simulated.output)
    answer = client.post(CHAT, content=body if declared else pieces, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert len(logged(simulated, written, answer)) == 1
    assert client.post(CHAT, json={"messages": OK}).status_code == 200


LISTS = [
    ("/detokenize", "tokens", -1),
    ("/v1/completions", "prompt", -1),
    ("/v1/completions", "allowed_token_ids", -1),
    (CHAT, "messages", {}),
]


@pytest.mark.parametrize(("url", "field", "wrong"), LISTS)
def test_of_very_many_errors_only_the_first_is_looked_at(
    client: httpx.Client, url: str, field: str, wrong: Any
) -> None:
    """A million of them would take seconds and gigabytes to be listed."""
    body = {"prompt": "x"} if url == "/v1/completions" else {}
    answer = client.post(url, json=body | {field: [wrong] * 1_000_000}, timeout=20)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(f"{field}.0")


def test_a_prompt_that_does_not_fit_names_both_numbers(client: httpx.Client) -> None:
    answer = client.post(CHAT, json={"messages": [{"role": "user", "content": "x" * 1_048_576}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "1048576" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("POST", "/v1/nope", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405)],
)
def test_unknown_urls_and_methods_have_openais_shape(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_the_log_stays_one_line_whatever_the_client_writes(client: httpx.Client, simulated: Gateway) -> None:
    written = len(simulated.output)
    answer = client.post(CHAT, json={"messages": OK, "model": "a\nERROR forged\r\x1b[2J" + "x" * 5000})
    assert answer.status_code == 404
    lines = logged(simulated, written, answer)
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert len(lines[0]) < 1000


def test_the_sdk_raises_its_own_errors(simulated: Gateway) -> None:
    with openai.OpenAI(base_url=f"{simulated.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(
                model="simulated", messages=[{"role": "user", "content": "hi"}], temperature=9, stream=True
            )
    assert unknown.value.code == "model_not_found"
    assert bad.value.param == "temperature"


def test_fields_that_mean_nothing_here_are_named(client: httpx.Client) -> None:
    answer = client.post(CHAT, json={"messages": OK, "store": False, "verbosity": "low", "made_up": None})
    assert answer.status_code == 200
    assert answer.headers["x-gateway-ignored-fields"] == "store,verbosity"
