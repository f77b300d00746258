"""Unmodified clients ask the demo model, on the real engine, for the capital of France."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.end_to_end.served import Gateway

pytestmark = pytest.mark.vllm

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": 32,
}


def check_row(demo: Gateway, answer_id: str, text: str, usage: Any) -> None:
    """The row has the text that the client got, and the counts of ``usage``."""
    row = demo.row(answer_id)
    assert "Paris" in text
    assert row["query"] == QUESTION
    assert row["response"] == text
    assert (row["status"], row["model"]) == ("completed", MODEL)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert 0 < row["ttft_ms"] <= row["duration_ms"]


def test_openai_sdk(demo: Gateway) -> None:
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(**ASKED)
    assert answer.usage is not None
    text = answer.choices[0].message.content or ""
    check_row(demo, answer.id, text, answer.usage.model_dump())
    assert demo.row(answer.id)["finish_reason"] == answer.choices[0].finish_reason


def test_openai_sdk_streamed(demo: Gateway) -> None:
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        chunks = list(
            client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    check_row(demo, chunks[0].id, text, usage.model_dump())


async def test_openai_sdk_async(demo: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(**ASKED)
        stream = await client.chat.completions.create(**ASKED, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "Paris" in text
    assert text == answer.choices[0].message.content


def test_openai_sdk_completions(demo: Gateway) -> None:
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        answer = client.completions.create(
            model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
        )
    assert "Paris" in answer.choices[0].text
    assert demo.row(answer.id)["response"] == answer.choices[0].text


def langchain(demo: Gateway) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{demo.base_url}/v1",
        api_key=SecretStr("none"),
        model=MODEL,
        temperature=0,
        max_completion_tokens=32,
        stream_usage=True,
    )


def test_langchain_invoke(demo: Gateway) -> None:
    answer = langchain(demo).invoke(QUESTION)
    usage = answer.response_metadata["token_usage"]
    check_row(demo, answer.response_metadata["id"], str(answer.content), usage)


def check_langchain_stream(demo: Gateway, chunks: list[AIMessageChunk]) -> None:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.usage_metadata is not None
    usage = {
        "prompt_tokens": whole.usage_metadata["input_tokens"],
        "completion_tokens": whole.usage_metadata["output_tokens"],
    }
    row = demo.rows("query = $1", QUESTION)[-1]
    check_row(demo, row["id"].hex, str(whole.content), usage)


def test_langchain_stream(demo: Gateway) -> None:
    check_langchain_stream(demo, list(langchain(demo).stream(QUESTION)))


async def test_langchain_astream(demo: Gateway) -> None:
    assert "Paris" in "".join([str(chunk.content) async for chunk in langchain(demo).astream(QUESTION)])


def test_curl(demo: Gateway) -> None:
    body = json.dumps(ASKED | {"stream": True, "stream_options": {"include_usage": True}})
    url = f"{demo.base_url}/v1/chat/completions"
    output = subprocess.run(
        ["curl", "-sS", "-N", url, "-H", "content-type: application/json", "-d", body],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    events = [line.removeprefix("data: ") for line in output.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    check_row(demo, chunks[0]["id"], text, chunks[-1]["usage"])


def test_the_line_that_is_printed_last_works_when_pasted(demo: Gateway) -> None:
    line = next(line for line in demo.output.splitlines() if line.startswith("Try"))
    command = line.removeprefix("Try").strip().replace("curl -N", "curl -sS -N", 1)
    output = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
    assert "Paris" in output
    assert output.endswith("data: [DONE]\n\n")


def engine_counts(demo: Gateway) -> tuple[float, float]:
    """vLLM's own counters: prompt tokens, generated tokens."""
    lines = httpx.get(f"{demo.base_url}/metrics").text.splitlines()
    prompt, generated = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}_total"))
        for name in ("prompt_tokens", "generation_tokens")
    )
    return prompt, generated


def test_the_rows_sum_to_the_engines_own_counters(demo: Gateway) -> None:
    """Also over a request that the client left in the middle."""
    before, rows_before = engine_counts(demo), {row["id"] for row in demo.rows()}
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        client.chat.completions.create(**ASKED)
        with client.chat.completions.create(**ASKED | {"max_tokens": 2000, "stream": True}) as stream:
            for _ in zip(range(5), stream, strict=False):
                pass
    rows = closed_rows(demo, 2, rows_before)
    after = engine_counts(demo)
    assert {row["status"] for row in rows} == {"completed", "cancelled"}
    assert after[0] - before[0] == sum(row["prompt_tokens"] for row in rows)
    assert after[1] - before[1] == sum(row["completion_tokens"] for row in rows)


def closed_rows(demo: Gateway, count: int, known: set[object]) -> list[dict[str, Any]]:
    """The new rows, once ``count`` of them have been closed."""
    found: list[dict[str, Any]] = []

    def closed() -> bool:
        found[:] = [row for row in demo.rows("status <> 'running'") if row["id"] not in known]
        return len(found) >= count

    demo.wait_for(closed)
    return found


def test_structured_output_and_logprobs(demo: Gateway) -> None:
    """Of a model that is spoken to through its chat template."""
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            **ASKED,
            response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
            logprobs=True,
            top_logprobs=2,
        )
    choice = answer.choices[0]
    assert json.loads(choice.message.content or "") in ({"capital": "Paris"}, {"capital": "Rome"})
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert b"".join(bytes(token.bytes or []) for token in tokens) == (choice.message.content or "").encode()
    assert {len(token.top_logprobs) for token in tokens} == {2}
