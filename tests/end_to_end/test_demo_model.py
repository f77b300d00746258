"""The openai SDK, unmodified, asks the demo model, on the real engine, for the capital of France."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.end_to_end.question import ASKED, MODEL, check_row
from tests.end_to_end.served import Gateway
from tests.end_to_end.typed import checked

pytestmark = pytest.mark.vllm


@pytest.fixture
def sdk(demo: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_an_answer(sdk: openai.OpenAI, demo: Gateway) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**ASKED)
    answer = checked(ChatCompletion, raw.text)
    assert answer.usage is not None
    text = answer.choices[0].message.content or ""
    check_row(demo, answer.id, text, answer.usage.model_dump())
    assert demo.row(answer.id)["finish_reason"] == answer.choices[0].finish_reason
    assert str(answer.system_fingerprint).startswith("vllm-")


def test_a_stream(sdk: openai.OpenAI, demo: Gateway) -> None:
    asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(sdk.chat.completions.create(**asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    check_row(demo, chunks[0].id, text, usage.model_dump())


async def test_the_async_client(demo: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{demo.base_url}/v1", api_key="none") as client:
        answer = await client.chat.completions.create(**ASKED)
        stream = await client.chat.completions.create(**ASKED, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "Paris" in text
    assert text == answer.choices[0].message.content


def test_a_completion(sdk: openai.OpenAI, demo: Gateway) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
    )
    assert "Paris" in answer.choices[0].text
    assert demo.row(answer.id)["response"] == answer.choices[0].text


class Capital(BaseModel):
    """What is asked for."""

    capital: Literal["Paris", "Rome"]
    in_europe: bool


def test_parse_gives_an_object(sdk: openai.OpenAI) -> None:
    parsed = sdk.chat.completions.parse(**ASKED, response_format=Capital)
    assert isinstance(parsed.choices[0].message.parsed, Capital)
    with sdk.chat.completions.stream(**ASKED, response_format=Capital) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert "content.done" in kinds
    assert streamed == parsed.choices[0].message.parsed


def test_parse_tells_of_an_answer_that_was_cut(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(**ASKED | {"max_tokens": 2}, response_format=Capital)


def test_a_json_object(sdk: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_object"}
    answer = sdk.chat.completions.create(**ASKED, response_format=wanted)
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


def test_logprobs_are_those_of_the_texts_bytes(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**ASKED, logprobs=True, top_logprobs=2)
    choice = checked(ChatCompletion, raw.text).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert b"".join(bytes(token.bytes or []) for token in tokens) == (choice.message.content or "").encode()
    assert {len(token.top_logprobs) for token in tokens} == {2}
    for token in tokens:
        # Greedy: the likeliest was taken.
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)
        assert token.logprob <= 0


def test_a_completions_logprobs_and_echo(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "Paris is", "temperature": 0, "max_tokens": 4}
    raw = sdk.completions.with_raw_response.create(**asked, logprobs=2)
    plain = checked(Completion, raw.text).choices[0]
    assert plain.logprobs is not None
    assert "".join(plain.logprobs.tokens or []) == plain.text
    echoed = sdk.completions.create(**asked, logprobs=2, echo=True).choices[0]
    assert echoed.text == "Paris is" + plain.text
    assert echoed.logprobs is not None
    assert "".join(echoed.logprobs.tokens or []) == echoed.text
    told: Any = echoed.logprobs.token_logprobs
    # Nothing comes before the first token that would make it likely.
    assert told[0] is None
    assert told[-4:] == pytest.approx(plain.logprobs.token_logprobs)


def test_choices_differ_and_their_seed_repeats_them(sdk: openai.OpenAI, demo: Gateway) -> None:
    asked = ASKED | {"temperature": 1.5, "n": 3, "seed": 11, "max_tokens": 24}
    first, again = sdk.chat.completions.create(**asked), sdk.chat.completions.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]
    chunks = sdk.chat.completions.create(**asked, stream=True)
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert first.usage is not None
    assert demo.row(first.id)["completion_tokens"] == first.usage.completion_tokens


def test_several_prompts_are_answered_each(sdk: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    answer = sdk.completions.create(model=MODEL, prompt=prompts, temperature=0, max_tokens=6)
    assert "Paris" in answer.choices[0].text
    assert "Rome" in answer.choices[1].text


def test_stop_bias_and_vllms_own_fields(sdk: openai.OpenAI) -> None:
    plain = sdk.chat.completions.with_raw_response.create(**ASKED, extra_body={"return_token_ids": True})
    answer = checked(ChatCompletion, plain.text, "prompt_token_ids", "choices.token_ids").choices[0]
    text, ids = answer.message.content or "", (answer.model_extra or {})["token_ids"]
    stopped = sdk.chat.completions.create(**ASKED, stop=["Paris"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text.partition("Paris")[0], "stop")
    kept = sdk.chat.completions.create(
        **ASKED, stop=["Paris"], extra_body={"include_stop_str_in_output": True}
    )
    assert kept.choices[0].message.content == text.partition("Paris")[0] + "Paris"
    banned = sdk.chat.completions.create(
        **ASKED, logit_bias={str(ids[0]): -100}, extra_body={"return_token_ids": True}
    )
    assert (banned.choices[0].model_extra or {})["token_ids"][0] != ids[0]
    only = sdk.chat.completions.create(
        **ASKED | {"max_tokens": 3}, extra_body={"allowed_token_ids": [ids[0]], "ignore_eos": True}
    )
    assert only.usage is not None
    assert only.usage.completion_tokens == 3
    assert len(set(only.choices[0].message.content or "")) <= len(text)


def test_an_id_that_the_model_does_not_have_is_refused(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=MODEL, prompt=[10_000_000], max_tokens=1)


def engine_counts(demo: Gateway) -> tuple[float, float]:
    """vLLM's own counters: prompt tokens, generated tokens."""
    lines = httpx.get(f"{demo.base_url}/metrics").text.splitlines()
    prompt, generated = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}_total"))
        for name in ("prompt_tokens", "generation_tokens")
    )
    return prompt, generated


def test_the_rows_sum_to_the_engines_own_counters(sdk: openai.OpenAI, demo: Gateway) -> None:
    """Also over a request that the client left in the middle."""
    before, rows_before = engine_counts(demo), {row["id"] for row in demo.rows()}
    sdk.chat.completions.create(**ASKED)
    # However slow its client is to leave, it does not come to its own end before.
    endless = {"max_tokens": 2000, "stream": True, "extra_body": {"ignore_eos": True}}
    with sdk.chat.completions.create(**ASKED | endless) as stream:
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


ENDLESS = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"structured_outputs": {"regex": "(("}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "root ::= root"}}, "structured_outputs"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "#"}},
                }
            },
            "response_format",
        ),
    ],
)
def test_what_no_answer_can_fit_is_a_400_before_any_byte(
    sdk: openai.OpenAI, stream: bool, asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=stream, extra_body=asked
        )
    assert refused.value.param == param
