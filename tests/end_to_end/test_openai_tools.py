"""The openai SDK's own helpers for tools, unmodified, with the tests' ChatGLM3 on the real engine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.end_to_end.served import Gateway
from tests.end_to_end.typed import checked, events

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

from tests.end_to_end.chatglm3_scripts import ARGUMENTS, FINAL, PREAMBLE, RAIN, RESULT, TOOLS

pytestmark = pytest.mark.vllm

RAINS: dict[str, Any] = {
    "model": "chatglm3-6b",
    "messages": [{"role": "user", "content": RAIN}],
    "max_tokens": 300,
}


class get_weather(BaseModel):
    """Tells the weather."""

    city: str
    days: int


class SetDial(BaseModel):
    """Sets a dial."""

    level: Literal[1, 2, 3]
    on: bool


@pytest.fixture
def sdk(chatglm3: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chatglm3.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_a_call_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**RAINS, tools=TOOLS, logprobs=True)
    answer = checked(ChatCompletion, raw.text)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert '"tool_calls"' in raw.text
    assert '"function_call"' not in raw.text


def test_a_streamed_call_is_of_openais_types_and_nothing_else(sdk: openai.OpenAI) -> None:
    create = sdk.chat.completions.with_streaming_response.create
    with create(**RAINS, tools=TOOLS, stream=True) as answer:
        told = events(answer.read().decode())
    chunks = [checked(ChatCompletionChunk, json.dumps(event)) for event in told]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(call.function.arguments or "" for call in calls if call.function) == json.dumps(
        ARGUMENTS, ensure_ascii=False
    )


def test_parse_gives_a_calls_arguments_as_an_object(sdk: openai.OpenAI) -> None:
    parsed = sdk.chat.completions.parse(**RAINS, tools=[pydantic_function_tool(get_weather)])
    (call,) = parsed.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == get_weather.model_validate(ARGUMENTS)
    assert parsed.choices[0].message.content == PREAMBLE


@pytest.mark.parametrize("seed", range(3))
def test_a_forced_call_fits_its_strict_schema(sdk: openai.OpenAI, seed: int) -> None:
    """From a model that writes noise."""
    parsed = sdk.chat.completions.parse(
        model="chatglm3-6b",
        messages=[{"role": "user", "content": "anything"}],
        tools=[pydantic_function_tool(SetDial), pydantic_function_tool(get_weather)],
        tool_choice={"type": "function", "function": {"name": "SetDial"}},
        seed=seed,
        max_tokens=300,
    )
    (call,) = parsed.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, SetDial)


def test_the_stream_helper_tells_of_a_call_as_it_is_written(sdk: openai.OpenAI) -> None:
    tools = [pydantic_function_tool(get_weather)]
    with sdk.chat.completions.stream(**RAINS, tools=tools) as stream:
        told: list[Any] = list(stream)
        final = stream.get_final_completion().choices[0]
    deltas = [one for one in told if one.type == "tool_calls.function.arguments.delta"]
    (done,) = [one for one in told if one.type == "tool_calls.function.arguments.done"]
    assert (done.name, done.index) == ("get_weather", 0)
    assert "".join(one.arguments_delta for one in deltas) == done.arguments
    assert done.parsed_arguments == get_weather.model_validate(ARGUMENTS)
    assert (final.finish_reason, final.message.content) == ("tool_calls", PREAMBLE)
    whole = sdk.chat.completions.parse(**RAINS, tools=tools).choices[0].message
    (streamed,), (call,) = final.message.tool_calls or [], whole.tool_calls or []
    assert streamed.function.arguments == call.function.arguments
    assert streamed.id.startswith("call_")


def test_what_the_helper_gives_can_be_sent_back(sdk: openai.OpenAI) -> None:
    """As it is, with the SDK's own extra fields and nulls in it."""
    tools = [pydantic_function_tool(get_weather)]
    first = sdk.chat.completions.parse(**RAINS, tools=tools).choices[0].message
    (call,) = first.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    asked = RAINS | {"messages": [*RAINS["messages"], first, result]}
    assert sdk.chat.completions.create(**asked, tools=tools).choices[0].message.content == FINAL
