"""The openai SDK, unmodified, and its types, held to what they say: chat completions and what goes with
any call. The simulated engine answers with the question."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.end_to_end.served import Gateway, running
from tests.end_to_end.typed import checked, events, nulls

TEXT = "héllo 👋"
MESSAGES: list[Any] = [{"role": "user", "content": TEXT}]
ASKED: dict[str, Any] = {"model": "simulated", "messages": MESSAGES}


@pytest.fixture
def sdk(simulated: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{simulated.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_an_answer_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.with_raw_response.create(**ASKED)
    completion = checked(ChatCompletion, answer.text)
    assert completion.choices[0].message.content == TEXT
    assert completion.system_fingerprint == "simulated"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 0
    # OpenAI's specification requires these two also where they are null.
    assert set(nulls(json.loads(answer.text))) == {"choices.logprobs", "choices.message.refusal"}


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    with sdk.chat.completions.with_streaming_response.create(**ASKED, stream=True, **options) as answer:
        told = events(answer.read().decode())
    chunks = [checked(ChatCompletionChunk, json.dumps(event)) for event in told]
    assert {(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, "simulated", "simulated")
    }
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
    assert set(nulls(told)) == {"choices.finish_reason"} | ({"usage"} if usage else set())
    assert (chunks[-1].usage is not None) is usage
    assert all("usage" in event for event in told) is usage


def test_everything_that_may_be_asked_for_at_once(sdk: openai.OpenAI) -> None:
    """Beside the answer only the token ids are told that were asked for."""
    asked: dict[str, Any] = ASKED | {
        "n": 2,
        "seed": 7,
        "stop": ["never", "comes"],
        "logprobs": True,
        "top_logprobs": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_completion_tokens": 100,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"104": 1},
        "user": "someone",
        "metadata": {"for": "a test"},
        "store": True,
        "service_tier": "auto",
        "extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "return_token_ids": True},
    }
    answer = sdk.chat.completions.with_raw_response.create(**asked)
    completion = checked(ChatCompletion, answer.text, "prompt_token_ids", "choices.token_ids")
    assert completion.service_tier == "default"
    assert [choice.index for choice in completion.choices] == [0, 1]
    ids = [ord(character) for character in TEXT]
    assert completion.model_extra == {"prompt_token_ids": ids}
    for choice in completion.choices:
        assert choice.model_extra == {"token_ids": ids}
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert [bytes(token.bytes or []).decode() for token in tokens] == list(TEXT)
        assert [token.top_logprobs[0].token for token in tokens] == list(TEXT)
    assert "x-gateway-ignored-fields" not in answer.headers


def test_the_stream_helper_tells_events_and_ends_with_the_whole_answer(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        **ASKED, n=2, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        told: list[Any] = list(stream)
        final = stream.get_final_completion()
    assert {event.type for event in told} == {
        "chunk",
        "content.delta",
        "content.done",
        "logprobs.content.delta",
        "logprobs.content.done",
    }
    for index in range(2):
        assert final.choices[index].message.content == TEXT
        logprobs = final.choices[index].logprobs
        assert logprobs is not None
        assert [token.token for token in logprobs.content or []] == list(TEXT)
    assert [event.content for event in told if event.type == "content.done"] == [TEXT, TEXT]
    whole = sdk.chat.completions.create(**ASKED, n=2, logprobs=True)
    assert final.usage == whole.usage
    assert (final.object, final.model, final.system_fingerprint) == (
        whole.object,
        whole.model,
        whole.system_fingerprint,
    )


async def test_the_async_client(simulated: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{simulated.base_url}/v1", api_key="none") as sdk:
        whole = await sdk.chat.completions.create(**ASKED)
        stream = await sdk.chat.completions.create(**ASKED, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with sdk.chat.completions.stream(**ASKED) as helper:
            final = await helper.get_final_completion()
        models = [model.id async for model in sdk.models.list()]
    assert text == whole.choices[0].message.content == final.choices[0].message.content == TEXT
    assert models == ["simulated"]


def test_the_headers_of_raw_and_streaming_responses(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.with_raw_response.create(**ASKED, extra_headers={"x-request-id": "mine-1"})
    assert whole.headers["x-request-id"] == whole.request_id == "mine-1"
    assert whole.parse().choices[0].message.content == TEXT
    assert whole.headers["openai-version"] == "2020-10-01"
    assert int(whole.headers["openai-processing-ms"]) >= 0
    assert float(whole.headers["x-gateway-ttft-ms"]) >= 0
    with sdk.chat.completions.with_streaming_response.create(**ASKED, stream=True) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.request_id
        assert int(stream.headers["openai-processing-ms"]) >= 0
        assert float(stream.headers["x-gateway-ttft-ms"]) >= 0
        assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_a_field_that_changes_nothing_is_named(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.with_raw_response.create(
        **ASKED, store=False, prompt_cache_key="k", reasoning_effort="low", extra_body={"made_up": 1}
    )
    assert answer.headers["x-gateway-ignored-fields"] == "made_up,prompt_cache_key,reasoning_effort,store"


def test_a_row_says_who_asked_and_what_for(sdk: openai.OpenAI, simulated: Gateway) -> None:
    labels: Any = {"user": "u", "safety_identifier": "s", "metadata": {"k": "v"}}
    answer = sdk.chat.completions.create(**ASKED, **labels, seed=3)
    stored = simulated.row(answer.id)["meta_data"]
    assert {name: stored[name] for name in labels} == labels
    assert stored["sampling"] == {"seed": 3}


def test_models(sdk: openai.OpenAI) -> None:
    (listed,) = sdk.models.list().data
    model = sdk.models.retrieve("simulated")
    assert listed == model
    assert (model.id, model.object, model.owned_by) == ("simulated", "model", "chatglm-gateway")
    extra = {"engine", "max_model_len", "parent", "root", "sampling_defaults"}
    assert set(model.model_extra or {}) == extra
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.models.retrieve("gpt-4")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


# What is asked, the SDK's class, param, code, a word of the message
REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str, str]] = [
    ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found", "simulated"),
    ({"temperature": 2.5}, openai.BadRequestError, "temperature", "invalid_value", "2"),
    ({"n": 129}, openai.BadRequestError, "n", "invalid_value", "128"),
    ({"n": 2, "temperature": 0}, openai.BadRequestError, "n", "invalid_value", "temperature"),
    ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias", "invalid_value", "token ids"),
    ({"top_logprobs": 3}, openai.BadRequestError, "top_logprobs", "invalid_value", "logprobs is true"),
    ({"messages": []}, openai.BadRequestError, "messages", "invalid_value", "at least 1"),
    ({"modalities": ["audio"]}, openai.BadRequestError, "modalities", "unsupported_parameter", "text"),
    (
        {"messages": [{"role": "user", "content": "x" * 1_048_577}]},
        openai.BadRequestError,
        "messages",
        "context_length_exceeded",
        "1048576",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "error", "param", "code", "word"), REFUSED)
def test_a_refusal_raises_the_sdks_own_class(
    sdk: openai.OpenAI,
    stream: bool,
    asked: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str,
    code: str,
    word: str,
) -> None:
    with pytest.raises(error) as raised:
        sdk.chat.completions.create(**ASKED | asked, stream=stream)
    assert (raised.value.param, raised.value.code) == (param, code)
    assert raised.value.type == "invalid_request_error"
    assert word in raised.value.message
    assert raised.value.request_id


@pytest.fixture
def slow_sdk(slow: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{slow.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_a_stream_with_comments_is_read(slow_sdk: openai.OpenAI) -> None:
    chunks = slow_sdk.chat.completions.create(**ASKED, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


def test_breaking_off_a_stream_ends_its_request(slow_sdk: openai.OpenAI, slow: Gateway) -> None:
    long: list[Any] = [{"role": "user", "content": "x" * 10_000}]
    with slow_sdk.chat.completions.create(model="simulated", messages=long, stream=True) as stream:
        id_ = next(iter(stream)).id
    slow.wait_for(lambda: slow.row(id_)["status"] != "running")
    row = slow.row(id_)
    assert row["status"] == "cancelled"
    assert row["completion_tokens"] < 1000


def test_a_deadline_is_an_error_of_its_own(slow_sdk: openai.OpenAI) -> None:
    """Before the first byte with its status, in a stream as an event."""
    headers = {"x-request-timeout": "0.1"}
    with pytest.raises(openai.InternalServerError) as late:
        slow_sdk.chat.completions.create(**ASKED, extra_headers=headers)
    assert (late.value.status_code, late.value.code) == (504, "timeout")
    long: list[Any] = [{"role": "user", "content": "x" * 400}]
    headers = {"x-request-timeout": "2"}
    with pytest.raises(openai.APIError) as cut:
        for _ in slow_sdk.chat.completions.create(
            model="simulated", messages=long, stream=True, extra_headers=headers
        ):
            pass
    assert not isinstance(cut.value, openai.APIStatusError)
    assert (cut.value.code, cut.value.type) == ("timeout", "server_error")
    assert "2 seconds" in cut.value.message


class Balanced(httpx2.BaseTransport):
    """As a load balancer does: the first attempt goes to one gateway, a retry to the other."""

    def __init__(self, first: str, other: str) -> None:
        self._first, self._other = httpx2.URL(first), httpx2.URL(other)
        self._transport = httpx2.HTTPTransport()
        self.statuses: list[int] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        gateway = self._other if self.statuses else self._first
        request.url = request.url.copy_with(port=gateway.port)
        response = self._transport.handle_request(request)
        self.statuses.append(response.status_code)
        return response


def test_a_gateway_on_its_way_down_sends_the_sdk_to_another(simulated: Gateway, data_dir: Path) -> None:
    options = ("--engine", "simulated", "--simulated-tokens-per-second", "20")
    text = "x" * 120
    with running(data_dir, *options) as ending, httpx2.Client(base_url=ending.base_url) as client:
        body = {"messages": [{"role": "user", "content": text}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            ending.signal(signal.SIGTERM)
            ending.wait_for(lambda: "shutting down" in ending.output)
            transport = Balanced(ending.base_url, simulated.base_url)
            with (
                httpx2.Client(transport=transport) as http,
                openai.OpenAI(base_url=f"{ending.base_url}/v1", api_key="none", http_client=http) as sdk,
            ):
                before = time.monotonic()
                answer = sdk.chat.completions.create(**ASKED)
            assert transport.statuses == [503, 200]
            # It waited as long as Retry-After said.
            assert time.monotonic() - before > 4
            assert answer.choices[0].message.content == TEXT
            assert list(lines)[-2:] == ["data: [DONE]", ""]
