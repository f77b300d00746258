"""Deadlines, and streams that wait: a slow engine, real sockets, OpenAI's own library."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.end_to_end.served import Gateway, running

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def slow() -> Iterator[Gateway]:
    """Ten tokens a second, and a comment after each 20 ms without one."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    settings = {
        "GATEWAY_SIMULATED_TOKENS_PER_SECOND": "10",
        "GATEWAY_SSE_KEEP_ALIVE_SECONDS": "0.02",
        "GATEWAY_REQUEST_TIMEOUT_SECONDS": "60",
    }
    with running(folder, "--engine", "simulated", **settings) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sdk(slow: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{slow.base_url}/v1", api_key="none", max_retries=2) as client:
        yield client


def test_comments_keep_a_slow_stream_alive_and_clients_do_not_see_them(
    slow: Gateway, sdk: openai.OpenAI
) -> None:
    stream = sdk.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": "abcd"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "abcd"
    body = {"messages": [{"role": "user", "content": "abcd"}], "stream": True}
    raw = httpx.post(slow.base_url + CHAT, json=body).text
    assert raw.count(": keep-alive\n\n") >= 3
    # Comments stand between events only.
    blocks = raw.removesuffix("\n\n").split("\n\n")
    assert all(block == ": keep-alive" or block.startswith("data: ") for block in blocks)
    assert raw.endswith("data: [DONE]\n\n")


def test_a_whole_answer_that_takes_too_long_is_a_504_that_is_not_retried(
    slow: Gateway, sdk: openai.OpenAI
) -> None:
    headers = {"x-request-timeout": "1.5", "x-request-id": "too-long-whole"}
    with pytest.raises(openai.InternalServerError) as refused:
        sdk.chat.completions.create(
            model="simulated",
            messages=[{"role": "user", "content": "a" * 1000}],
            extra_headers=headers,
        )
    assert refused.value.status_code == 504
    assert refused.value.code == "timeout"
    (row,) = slow.rows("request_id = 'too-long-whole'")
    assert (row["status"], row["finish_reason"]) == ("timeout", "timeout")
    assert 0 < row["completion_tokens"] == len(row["response"]) < 1000


def test_a_stream_that_takes_too_long_ends_with_an_error(slow: Gateway, sdk: openai.OpenAI) -> None:
    headers = {"x-request-timeout": "1.5", "x-request-id": "too-long-stream"}
    told = ""
    with pytest.raises(openai.APIError) as failed:
        for chunk in sdk.chat.completions.create(
            model="simulated",
            messages=[{"role": "user", "content": "a" * 1000}],
            stream=True,
            extra_headers=headers,
        ):
            told += chunk.choices[0].delta.content or ""
    assert failed.value.code == "timeout"
    (row,) = slow.rows("request_id = 'too-long-stream'")
    assert (row["status"], row["response"]) == ("timeout", told)
    assert 0 < len(told) == row["completion_tokens"]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e3", ""])
def test_a_deadline_that_is_none_is_refused(slow: Gateway, value: str) -> None:
    body = {"messages": [{"role": "user", "content": "a"}]}
    answer = httpx.post(slow.base_url + CHAT, json=body, headers={"x-request-timeout": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-timeout"


def test_an_answer_tells_how_long_it_took(slow: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "ab"}]}
    for stream in (False, True):
        answer = httpx.post(slow.base_url + CHAT, json=body | {"stream": stream})
        assert float(answer.headers["x-gateway-ttft-ms"]) >= 0
        assert int(answer.headers["openai-processing-ms"]) >= 0
