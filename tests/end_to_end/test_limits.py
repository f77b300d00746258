"""Limits as clients meet them: the openai SDK, unmodified, and Chatchat's routes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.served import Gateway, running

# Each test asks from another address; the gateway believes a proxy on this machine.
LIMITS = '{"requests_per_minute": 20, "tokens_per_minute": 500, "concurrent_requests": 1}'
QUESTION: list[Any] = [{"role": "user", "content": "twelve chars"}]
ASKED: dict[str, Any] = {"model": "simulated", "messages": QUESTION, "max_tokens": 50}


@pytest.fixture(scope="module")
def limited() -> Iterator[Gateway]:
    """A gateway that answers 50 tokens per second."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    options = ("--engine", "simulated", "--simulated-tokens-per-second", "50")
    with running(folder, *options, GATEWAY_ANONYMOUS_LIMITS=LIMITS) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


def sdk_from(gateway: Gateway, address: str, retries: int = 0) -> openai.OpenAI:
    headers = {"x-forwarded-for": address}
    return openai.OpenAI(
        base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=retries, default_headers=headers
    )


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_tells_what_is_left(limited: Gateway, stream: bool) -> None:
    with sdk_from(limited, f"192.0.2.{stream:d}") as sdk:
        prompt = 500 - 50
        for remaining in ("19", "18"):
            answer = sdk.chat.completions.with_raw_response.create(**ASKED, stream=stream)
            told = {name: value for name, value in answer.headers.items() if "ratelimit" in name}
            if stream:
                for _ in answer.parse():
                    pass
            assert told["x-ratelimit-remaining-requests"] == remaining
            assert told["x-ratelimit-limit-requests"] == "20"
            assert told["x-ratelimit-limit-tokens"] == "500"
            assert told["x-ratelimit-reset-tokens"] == told["x-ratelimit-reset-requests"] == "1m0s"
            # The prompt's tokens, and all that may be answered; of the first request, what it has used.
            prompt -= int(told["x-ratelimit-remaining-tokens"])
            assert 0 < prompt < 50
            prompt = int(told["x-ratelimit-remaining-tokens"]) + 50 - 12 - 50


def test_a_refusal_is_a_rate_limit_error_and_says_when_to_come_again(limited: Gateway) -> None:
    with sdk_from(limited, "192.0.2.10") as sdk:
        sdk.chat.completions.create(**ASKED | {"max_tokens": 300})
        with pytest.raises(openai.RateLimitError) as refusal:
            sdk.chat.completions.create(**ASKED | {"max_tokens": 480})
        error = refusal.value
        assert error.code == "rate_limit_exceeded"
        assert "The limit of this address is reached: 500 tokens per minute" in str(error)
        assert 50 < int(error.response.headers["retry-after-ms"]) / 1000 <= 60
        assert error.response.headers["x-ratelimit-limit-tokens"] == "500"
        with pytest.raises(openai.BadRequestError) as larger:
            sdk.chat.completions.create(**ASKED | {"max_tokens": 500})
        assert (larger.value.code, larger.value.param) == ("request_larger_than_limit", "max_tokens")
        assert "retry-after" not in larger.value.response.headers


def test_the_sdks_own_retry_succeeds(limited: Gateway) -> None:
    """One request at once: the second waits as long as it is told, and is answered."""
    with sdk_from(limited, "192.0.2.20", retries=50) as sdk:
        sdk.chat.completions.create(**ASKED)
        # It takes two seconds, so that the second one comes meanwhile also on a slow machine.
        long: list[Any] = [{"role": "user", "content": "x" * 100}]
        first = sdk.chat.completions.create(model="simulated", messages=long, max_tokens=100, stream=True)
        next(iter(first))
        began = time.monotonic()
        answer = sdk.chat.completions.with_raw_response.create(**ASKED)
        assert answer.parse().choices[0].message.content == "twelve chars"
        assert answer.retries_taken >= 1
        # The least that it is told.
        assert time.monotonic() - began > 0.5 * answer.retries_taken
        first.close()


def test_an_answer_of_unnamed_length_ends_where_the_limit_does(limited: Gateway) -> None:
    with sdk_from(limited, "192.0.2.30") as sdk:
        long = [{"role": "user", "content": "x" * 440}]
        answer = sdk.chat.completions.create(model="simulated", messages=long)  # type: ignore[arg-type]
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 500


def test_chatchat_gets_its_own_shape(limited: Gateway) -> None:
    with httpx.Client(base_url=limited.base_url, headers={"x-forwarded-for": "192.0.2.40"}) as client:
        asked = {"query": "twelve chars", "max_tokens": 400, "stream": False}
        first = client.post("/chat/chat", json=asked)
        assert first.status_code == 200
        assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100
        client.post("/chat/chat", json=asked | {"max_tokens": 440})
        refused = client.post("/chat/chat", json=asked | {"max_tokens": 470})
        assert refused.status_code == 429
        assert refused.json()["code"] == 429
        assert "500 tokens per minute" in refused.json()["msg"]
        assert {"retry-after", "x-ratelimit-remaining-tokens"} <= refused.headers.keys()
        metrics = client.get("/metrics").text
        assert 'gateway_requests_refused_total{reason="tokens_per_minute"}' in metrics
