"""A gateway whose engine is away, and another one that answers in its place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.end_to_end.served import Gateway, running

# Nothing listens there: a connection is refused at once.
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def degraded(simulated: Gateway) -> Iterator[Gateway]:
    """Its engine and its first fallback are away, the second is another gateway."""
    fallbacks = [
        {"name": "away", "url": NOWHERE, "retries": 0},
        {"name": "spare", "url": f"{simulated.base_url}/v1"},
    ]
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(
        folder,
        "--engine",
        "upstream",
        GATEWAY_UPSTREAM_URL=NOWHERE,
        GATEWAY_UPSTREAM_MODEL="main",
        GATEWAY_UPSTREAM_RETRIES="0",
        # It could be asked what the fallbacks can't.
        GATEWAY_UPSTREAM_DIALECT="vllm",
        GATEWAY_FALLBACKS=json.dumps(fallbacks),
        GATEWAY_FALLBACK_NOTICE="Back soon.",
    ) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(degraded: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own, which sees what every client would."""
    with openai.OpenAI(base_url=f"{degraded.base_url}/v1", api_key="none", timeout=60) as client:
        yield client


def test_a_whole_answer_is_anothers_and_says_so(
    client: openai.OpenAI, degraded: Gateway, simulated: Gateway
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="main", messages=[{"role": "user", "content": "你好, 😀"}]
    )
    answer = raw.parse()
    assert raw.headers["x-gateway-degraded"] == "spare"
    assert answer.choices[0].message.content == "你好, 😀"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 5)
    row = degraded.row(answer.id)
    assert (row["status"], row["response"], row["model"]) == ("completed", "你好, 😀", "main")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (5, 5)
    assert row["meta_data"]["degraded"] == {"by": "spare", "reason": "engine_dead"}


def test_a_stream_is_anothers_and_says_so_in_its_headers(degraded: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "streamed"}], "stream": True}
    with (
        httpx.Client(base_url=degraded.base_url, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.headers["x-gateway-degraded"] == "spare"
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(one) for one in data[:-1]]
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "streamed"
    assert degraded.row(chunks[0]["id"])["meta_data"]["degraded"]["by"] == "spare"


def test_what_another_can_not_be_asked_is_the_notice_or_a_503(degraded: Gateway) -> None:
    message = {"role": "user", "content": "top_k is not among OpenAI's fields"}
    body = {"messages": [message], "top_k": 5}
    with httpx.Client(base_url=degraded.base_url, timeout=60) as http:
        noticed = http.post("/v1/chat/completions", json=body)
        assert noticed.headers["x-gateway-degraded"] == "notice"
        assert noticed.json()["choices"][0]["message"]["content"] == "Back soon."
        refused = http.post("/v1/chat/completions", json=body | {"response_format": {"type": "json_object"}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(refused.headers["retry-after"]) > 0


def test_it_stays_ready_as_long_as_somebody_answers_and_tells_what_is_wrong(degraded: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with httpx.Client(base_url=degraded.base_url, timeout=60) as http:
        # So often that those who are away are left alone.
        for _ in range(6):
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.json()["choices"][0]["message"]["content"] == "hi"
        ready = http.get("/health/ready")
        metrics = http.get("/metrics").text
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    main, away = ready.json()["problems"]
    assert main.startswith("The upstream 'upstream' has failed")
    assert away.startswith("away: The upstream 'away' has failed")
    assert 'gateway_degraded_answers_total{by="spare",reason="engine_dead"}' in metrics
    assert NOWHERE not in ready.text
