"""The openai SDK's completions, unmodified, and its types, held to what they say. The simulated engine
answers with the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion
from pydantic import TypeAdapter

from adapters.openai.answer_types import CompletionChunk
from tests.end_to_end.served import Gateway
from tests.end_to_end.typed import checked, events, nulls
from tests.openai_schemas import check

CHUNK = TypeAdapter(CompletionChunk)
TEXT = "héllo 👋"
IDS = [ord(character) for character in TEXT]
ASKED: dict[str, Any] = {"model": "simulated", "prompt": TEXT}


@pytest.fixture
def sdk(simulated: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{simulated.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_an_answer_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.with_raw_response.create(**ASKED)
    completion = checked(Completion, answer.text)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (TEXT, "stop")
    # OpenAI's specification requires it also where it is null.
    assert set(nulls(json.loads(answer.text))) == {"choices.logprobs"}


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    with sdk.completions.with_streaming_response.create(**ASKED, stream=True, **options) as answer:
        told = events(answer.read().decode())
    ended = [event for event in told if event["choices"] and event["choices"][0]["finish_reason"]]
    assert len(ended) == 1
    for event in told:
        check("CreateCompletionStreamResponse", event)
        CHUNK.validate_json(json.dumps(event), strict=True)
        assert set(nulls(event)) - {"usage"} <= {"choices.logprobs", "choices.finish_reason"}
    assert "".join(choice["text"] for event in told for choice in event["choices"]) == TEXT
    assert (told[-1].get("usage") is not None) is usage
    assert all("usage" in event for event in told) is usage


@pytest.mark.parametrize("prompts", [["ab", "c👋"], [[97, 98], [99, 128075]]], ids=["texts", "lists-of-ids"])
def test_several_prompts_and_choices_are_told_apart_by_their_index(
    sdk: openai.OpenAI, simulated: Gateway, prompts: Any
) -> None:
    asked = {"model": "simulated", "prompt": prompts, "n": 2}
    whole = sdk.completions.create(**asked)
    assert [(choice.index, choice.text) for choice in whole.choices] == list(
        enumerate(["ab", "ab", "c👋", "c👋"])
    )
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 8)
    texts = ["", "", "", ""]
    for chunk in sdk.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["ab", "ab", "c👋", "c👋"]
    rows = simulated.rows("meta_data->'answer'->>'id' = $1", whole.id.removeprefix("cmpl-"))
    assert [(row["response"], row["completion_tokens"]) for row in rows] == [("ab", 4), ("c👋", 4)]


def test_ids_are_a_prompt_and_are_told_where_they_are_asked_for(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.with_raw_response.create(
        model="simulated", prompt=IDS, extra_body={"return_token_ids": True}
    )
    completion = checked(Completion, answer.text, "choices.prompt_token_ids", "choices.token_ids")
    assert completion.choices[0].text == TEXT
    assert completion.choices[0].model_extra == {"prompt_token_ids": IDS, "token_ids": IDS}


def test_logprobs_have_offsets_into_the_text(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.with_raw_response.create(**ASKED, logprobs=2)
    logprobs = checked(Completion, answer.text).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == list(TEXT)
    assert logprobs.text_offset == list(range(len(TEXT)))
    assert logprobs.token_logprobs == [0.0] * len(TEXT)
    assert [list(top) for top in logprobs.top_logprobs or []] == [[token] for token in TEXT]


def test_an_echo_repeats_the_prompt(sdk: openai.OpenAI, simulated: Gateway) -> None:
    whole = sdk.completions.create(**ASKED, echo=True, stop="o")
    assert whole.choices[0].text == TEXT + "héll"
    streamed = list(sdk.completions.create(**ASKED, echo=True, stop="o", stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == TEXT + "héll"
    # The row has what was generated.
    assert simulated.row(whole.id)["response"] == simulated.row(streamed[0].id)["response"] == "héll"


def test_max_tokens_are_sixteen_unless_something_else_is_said(sdk: openai.OpenAI) -> None:
    text = "x" * 50
    assert sdk.completions.create(model="simulated", prompt=text).choices[0].text == "x" * 16
    for limit in (None, 0, -1):
        unlimited = sdk.completions.create(model="simulated", prompt=text, max_tokens=limit)
        assert unlimited.choices[0].text == text


async def test_the_async_client(simulated: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{simulated.base_url}/v1", api_key="none") as sdk:
        whole = await sdk.completions.create(**ASKED)
        stream = await sdk.completions.create(**ASKED, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == whole.choices[0].text == TEXT


@pytest.mark.parametrize(
    ("asked", "param", "word"),
    [
        ({"suffix": "end"}, "suffix", "fill in"),
        ({"n": 2, "best_of": 3}, "best_of", "same as 'n'"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": {"text": "x"}}, "prompt", "list of strings"),
        ({"prompt": [-1]}, "prompt.0", "0"),
        ({"prompt": ["x"] * 1025}, "prompt", "1024"),
        ({"prompt": ["x"] * 100, "n": 100}, "n", "10000"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_honoured_is_refused_and_named(
    sdk: openai.OpenAI, asked: dict[str, Any], param: str, word: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.completions.create(**ASKED | asked)
    assert refused.value.param == param
    assert word in refused.value.message
