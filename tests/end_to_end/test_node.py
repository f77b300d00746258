"""The openai npm package, unmodified, on Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.question import ASKED, check_row
from tests.end_to_end.served import Gateway

FOLDER = Path(__file__).parent / "node"
OLDEST_NODE = 20
TEXT = "héllo 👋\u2028"
SIMULATED: dict[str, Any] = {"model": "simulated", "messages": [{"role": "user", "content": TEXT}]}


def missing() -> str | None:
    """What is not there to run these tests with."""
    node = shutil.which("node")
    if node is None:
        return "Node is not installed"
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if int(version[1:].partition(".")[0]) < OLDEST_NODE:
        return f"Node is {version}; the openai npm package needs {OLDEST_NODE} or newer"
    if not (FOLDER / "node_modules" / "openai").is_dir():
        return "the openai npm package is not installed: make test does it where npm is"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def seen(gateway: Gateway, case: str, asked: dict[str, Any]) -> Any:
    """What the package saw."""
    command = ["node", "client.mjs", gateway.base_url, case, json.dumps(asked)]
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_an_answer(simulated: Gateway) -> None:
    told = seen(simulated, "create", SIMULATED | {"n": 2, "logprobs": True})
    assert [choice["message"]["content"] for choice in told["answer"]["choices"]] == [TEXT, TEXT]
    tokens = told["answer"]["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens) == TEXT.encode()
    assert told["request_id"] == simulated.row(told["answer"]["id"])["request_id"]


def test_a_stream(simulated: Gateway) -> None:
    chunks = seen(simulated, "stream", SIMULATED)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == TEXT
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(TEXT)


def test_the_stream_helper(simulated: Gateway) -> None:
    told = seen(simulated, "helper", SIMULATED)
    assert "".join(told["deltas"]) == told["final"]["choices"][0]["message"]["content"] == TEXT
    assert told["usage"]["completion_tokens"] == len(TEXT)
    assert told["final"]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_comments_between_events_disturb_nothing(slow: Gateway) -> None:
    chunks = seen(slow, "stream", SIMULATED)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == TEXT


def test_completions_of_several_prompts(simulated: Gateway) -> None:
    told = seen(simulated, "completions", {"model": "simulated", "prompt": ["ab", TEXT], "n": 2})
    assert [choice["text"] for choice in told["whole"]["choices"]] == ["ab", "ab", TEXT, TEXT]
    assert told["texts"] == ["ab", "ab", TEXT, TEXT]


def test_models(simulated: Gateway) -> None:
    told = seen(simulated, "models", {"model": "simulated"})
    assert told["listed"] == [told["retrieved"]]
    assert told["retrieved"]["id"] == "simulated"


@pytest.mark.parametrize(
    ("asked", "kind", "status", "param", "code"),
    [
        ({"temperature": 3}, "BadRequestError", 400, "temperature", "invalid_value"),
        ({"model": "gpt-4"}, "NotFoundError", 404, "model", "model_not_found"),
    ],
)
def test_a_refusal_raises_the_packages_own_class(
    simulated: Gateway, asked: dict[str, Any], kind: str, status: int, param: str, code: str
) -> None:
    told = seen(simulated, "error", SIMULATED | asked)
    assert (told["kind"], told["status"], told["param"], told["code"]) == (kind, status, param, code)
    assert told["type"] == "invalid_request_error"
    assert told["requestID"].startswith("req_")
    assert told["pieces"] == []


def test_a_failure_in_a_stream_is_raised(slow: Gateway) -> None:
    long = {"model": "simulated", "messages": [{"role": "user", "content": "x" * 400}]}
    told = seen(slow, "error", long | {"headers": {"x-request-timeout": "2"}})
    assert (told["kind"], told["code"], told["type"]) == ("APIError", "timeout", "server_error")
    assert "2 seconds" in told["message"]
    assert ("x" * 400).startswith("".join(told["pieces"]))


def test_an_abort_ends_the_request_in_the_engine(slow: Gateway) -> None:
    long = {"model": "simulated", "messages": [{"role": "user", "content": "x" * 10_000}]}
    told = seen(slow, "abort", long)
    slow.wait_for(lambda: slow.row(told["id"])["status"] != "running")
    row = slow.row(told["id"])
    assert row["status"] == "cancelled"
    assert row["response"].startswith(told["text"])
    assert row["completion_tokens"] < 1000


@pytest.mark.vllm
def test_the_demo_model(demo: Gateway) -> None:
    told = seen(demo, "create", ASKED)["answer"]
    check_row(demo, told["id"], told["choices"][0]["message"]["content"], told["usage"])


@pytest.mark.vllm
def test_parse_gives_an_object(demo: Gateway) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "capital", "strict": True, "schema": schema}}
    message = seen(demo, "parse", ASKED | {"response_format": wanted})
    assert message["parsed"] == json.loads(message["content"])
    assert message["parsed"] in ({"capital": "Paris"}, {"capital": "Rome"})


@pytest.mark.vllm
def test_a_tool_is_run_and_its_result_answered(chatglm3: Gateway) -> None:
    from tests.end_to_end.chatglm3_scripts import ARGUMENTS, FINAL, PREAMBLE, RAIN, RESULT, TOOLS

    asked = {
        "model": "chatglm3-6b",
        "messages": [{"role": "user", "content": RAIN}],
        "tools": TOOLS,
        "result": RESULT,
        "max_tokens": 200,
    }
    told = seen(chatglm3, "tools", asked)
    assert told["calls"] == [{"name": "get_weather", "given": ARGUMENTS}]
    assert told["content"] == FINAL
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert told["messages"][1]["content"] == PREAMBLE
