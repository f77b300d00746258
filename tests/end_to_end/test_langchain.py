"""LangChain's ChatOpenAI and OpenAI, unmodified."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.end_to_end.question import MODEL, QUESTION, check_row
from tests.end_to_end.served import Gateway

TEXT = "héllo 👋"


def chat(gateway: Gateway, model: str = "simulated", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{gateway.base_url}/v1", api_key=SecretStr("none"), model=model, max_retries=0, **options
    )


def completion(gateway: Gateway, model: str = "simulated", **options: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{gateway.base_url}/v1", api_key=SecretStr("none"), model=model, max_retries=0, **options
    )


def joined(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    return reduce(add, chunks)


def test_a_conversation(simulated: Gateway) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("hi"), AIMessage("hello"), HumanMessage(TEXT)]
    answer = chat(simulated).invoke(messages)
    assert answer.content == TEXT
    assert answer.response_metadata["finish_reason"] == "stop"
    row = simulated.row(answer.response_metadata["id"])
    assert row["response"] == TEXT
    assert [one["role"] for one in row["messages"]] == ["system", "user", "assistant", "user"]


def test_a_batch_is_answered_in_its_order(simulated: Gateway) -> None:
    questions = [f"{TEXT} {number}" for number in range(8)]
    assert [answer.content for answer in chat(simulated).batch(list(questions))] == questions
    assert completion(simulated).batch(list(questions)) == questions


async def test_async_calls(simulated: Gateway) -> None:
    model = chat(simulated)
    assert (await model.ainvoke(TEXT)).content == TEXT
    assert [answer.content for answer in await model.abatch([TEXT, "b"])] == [TEXT, "b"]
    assert "".join([str(chunk.content) async for chunk in model.astream(TEXT)]) == TEXT
    text = completion(simulated)
    assert await text.ainvoke(TEXT) == TEXT
    assert "".join([piece async for piece in text.astream(TEXT)]) == TEXT


@pytest.mark.parametrize("stream_usage", [False, True])
def test_a_stream_and_its_usage(simulated: Gateway, stream_usage: bool) -> None:
    whole = joined(list(chat(simulated, stream_usage=stream_usage).stream(TEXT)))
    assert whole.content == TEXT
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["model_name"] == "simulated"
    if stream_usage:
        assert whole.usage_metadata is not None
        told = (whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"])
        assert told == (len(TEXT), len(TEXT))
        assert whole.usage_metadata["input_token_details"] == {"cache_read": 0}
    else:
        assert whole.usage_metadata is None


def test_logprobs_whole_and_streamed(simulated: Gateway) -> None:
    model = chat(simulated, logprobs=True, top_logprobs=1)
    for answer in (model.invoke(TEXT), joined(list(model.stream(TEXT)))):
        tokens = answer.response_metadata["logprobs"]["content"]
        assert b"".join(bytes(token["bytes"]) for token in tokens) == TEXT.encode()
        assert all(len(token["top_logprobs"]) == 1 for token in tokens)


def test_many_choices(simulated: Gateway) -> None:
    result = chat(simulated, n=3).generate([[HumanMessage(TEXT)]])
    assert [[one.text for one in choices] for choices in result.generations] == [[TEXT] * 3]
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] == 3 * len(TEXT)


def test_several_prompts_are_one_request(simulated: Gateway) -> None:
    """As LangChain sends them: up to 20 at once."""
    prompts = [f"{TEXT} {number}" for number in range(5)]
    before = len(simulated.rows())
    result = completion(simulated, n=2, best_of=2).generate(prompts)
    assert [[one.text for one in choices] for choices in result.generations] == [[one] * 2 for one in prompts]
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] == 2 * sum(map(len, prompts))
    rows = simulated.rows()[before:]
    assert [row["query"] for row in rows] == prompts
    assert len({row["request_id"] for row in rows}) == 1


def test_a_completion_streamed_and_whole(simulated: Gateway) -> None:
    model, stop = completion(simulated, logprobs=1), ["👋"]
    assert model.invoke(TEXT, stop=stop) == "".join(model.stream(TEXT, stop=stop)) == "héllo "
    (generation,) = model.generate([TEXT], stop=stop).generations[0]
    assert generation.generation_info is not None
    assert generation.generation_info["finish_reason"] == "stop"
    assert "".join(generation.generation_info["logprobs"]["tokens"]).startswith("héllo ")


def test_fields_that_only_vllm_knows(simulated: Gateway) -> None:
    model = chat(simulated, extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1}, seed=5)
    answer = model.invoke(TEXT)
    stored = simulated.row(answer.response_metadata["id"])["meta_data"]["sampling"]
    assert stored == {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 5}


def test_a_refusal_names_the_field(simulated: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(simulated, temperature=3).invoke(TEXT)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as streamed:
        list(chat(simulated, temperature=3).stream(TEXT))
    assert streamed.value.param == "temperature"


class Capital(BaseModel):
    """A capital."""

    capital: Literal["Paris", "Rome"]
    in_europe: bool


def demo_chat(demo: Gateway, **options: Any) -> ChatOpenAI:
    return chat(demo, MODEL, temperature=0, stream_usage=True, max_completion_tokens=32, **options)


@pytest.mark.vllm
def test_the_demo_model(demo: Gateway) -> None:
    answer = demo_chat(demo).invoke(QUESTION)
    usage = answer.response_metadata["token_usage"]
    check_row(demo, answer.response_metadata["id"], str(answer.content), usage)


@pytest.mark.vllm
def test_the_demo_model_streamed(demo: Gateway) -> None:
    whole = joined(list(demo_chat(demo).stream(QUESTION)))
    assert whole.usage_metadata is not None
    usage = {
        "prompt_tokens": whole.usage_metadata["input_tokens"],
        "completion_tokens": whole.usage_metadata["output_tokens"],
    }
    row = demo.rows("query = $1", QUESTION)[-1]
    check_row(demo, row["id"].hex, str(whole.content), usage)


@pytest.mark.vllm
def test_an_object_by_schema(demo: Gateway) -> None:
    model = demo_chat(demo).with_structured_output(Capital, method="json_schema", strict=True)
    assert isinstance(model.invoke(QUESTION), Capital)
    raw: Any = demo_chat(demo).with_structured_output(Capital, method="json_schema", include_raw=True)
    told = raw.invoke(QUESTION)
    assert told["parsing_error"] is None
    assert told["parsed"] == Capital.model_validate_json(told["raw"].content)
    streamed = list(model.stream(QUESTION))
    assert isinstance(streamed[-1], Capital)


@pytest.mark.vllm
def test_a_json_object(demo: Gateway) -> None:
    """The model is free in what it says: it is JSON, cut where max_tokens are over."""
    raw: Any = demo_chat(demo).with_structured_output(None, method="json_mode", include_raw=True)
    told = raw.invoke(f"{QUESTION} Answer in JSON.")
    if told["raw"].response_metadata["finish_reason"] == "stop":
        assert isinstance(told["parsed"], dict)
    else:
        assert told["raw"].content.lstrip().startswith("{")
