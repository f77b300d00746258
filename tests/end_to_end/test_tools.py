"""Tools through the real vLLM on a model of another kind than ChatGLM3: the demo model, with a chat template
that knows tools."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from engine import demo_model
from tests.adapters.template_models import CHATML
from tests.end_to_end.conftest import DEMO_DATA
from tests.end_to_end.served import Gateway, running

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

pytestmark = pytest.mark.vllm

MODEL = "with-tools"
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
DIAL = {
    "name": "set_dial",
    "parameters": {
        "$defs": {"Mode": {"enum": ["warm", "cold"]}},
        "type": "object",
        "properties": {"mode": {"$ref": "#/$defs/Mode"}, "on": {"type": "boolean"}},
        "required": ["mode", "on"],
        "additionalProperties": False,
    },
}
STOP_ALL = {"name": "stop_all"}
TOOLS: list[Any] = [{"type": "function", "function": one} for one in (WEATHER, DIAL, STOP_ALL)]
RAIN: list[Any] = [{"role": "user", "content": "Will it rain in Paris in the next 3 days?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Gateway]:
    source = demo_model.ensure_demo_model(DEMO_DATA)
    # Beside the demo model, so that its weights need no copy.
    beside = Path(tempfile.mkdtemp(prefix="tools-", dir=DEMO_DATA))
    data_dir = Path(tempfile.mkdtemp(prefix="gateway-"))
    try:
        folder = beside / MODEL
        shutil.copytree(source, folder, copy_function=os.link)
        template = folder / "chat_template.jinja"
        template.unlink()
        template.write_text(CHATML)
        with running(data_dir, "--model", str(folder)) as gateway:
            yield gateway
    finally:
        shutil.rmtree(beside)
        shutil.rmtree(data_dir)


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def both(client: openai.OpenAI, served: Gateway, **asked_for: Any) -> Any:
    """The answer in one piece, after its stream and the rows of both were found to say the same."""
    asked_for = {"model": MODEL, "messages": RAIN, "temperature": 0, "max_tokens": 200} | asked_for
    create: Any = client.chat.completions.create
    whole = create(**asked_for)
    chunks = list(create(**asked_for, stream=True))
    text, finish_reason = "", None
    calls: list[list[str]] = []
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        text += choice.delta.content or ""
        finish_reason = choice.finish_reason or finish_reason
        for call in choice.delta.tool_calls or ():
            if call.id is not None:
                assert call.index == len(calls)
                calls.append([call.function.name, ""])
            calls[call.index][1] += call.function.arguments
    message = whole.choices[0].message
    told = [[one.function.name, one.function.arguments] for one in message.tool_calls or ()]
    assert (text, calls) == (message.content or "", told)
    assert finish_reason == whole.choices[0].finish_reason
    for id_ in (whole.id, chunks[0].id):
        row = served.row(id_)
        stored = [[one["name"], one["arguments"]] for one in row["details"].get("tool_calls", [])]
        assert (row["response"], stored, row["status"]) == (text, calls, "completed")
    return whole


def check_arguments(name: str, arguments: str) -> None:
    given = json.loads(arguments)
    if name == "get_weather":
        assert given.keys() == {"city", "days"}
        assert given["city"] in ("Paris", "Rome", "Oslo")
        assert given["days"] in range(1, 10)
    elif name == "set_dial":
        assert given.keys() == {"mode", "on"}
        assert given["mode"] in ("warm", "cold")
        assert isinstance(given["on"], bool)
    else:
        assert (name, given) == ("stop_all", {})


@pytest.mark.parametrize("name", ["get_weather", "set_dial", "stop_all"])
def test_a_named_call_fits_its_schema(client: openai.OpenAI, served: Gateway, name: str) -> None:
    choice = {"type": "function", "function": {"name": name}}
    (answer,) = both(client, served, tools=TOOLS, tool_choice=choice).choices
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls
    assert call.function.name == name
    check_arguments(name, call.function.arguments)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_of_one_of_the_tools(client: openai.OpenAI, served: Gateway, seed: int) -> None:
    sampled = {"temperature": 1, "seed": seed, "parallel_tool_calls": False}
    (answer,) = both(client, served, tools=TOOLS, tool_choice="required", **sampled).choices
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    (call,) = answer.message.tool_calls
    check_arguments(call.function.name, call.function.arguments)


def test_a_required_call_that_is_cut_says_length(client: openai.OpenAI, served: Gateway) -> None:
    tools = [TOOLS[0]]
    (answer,) = both(client, served, tools=tools, tool_choice="required", max_tokens=4).choices
    assert answer.finish_reason == "length"
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert call.function.arguments.startswith("{")


def test_where_nothing_may_be_called_the_answer_is_text(client: openai.OpenAI, served: Gateway) -> None:
    whole = both(client, served, tools=TOOLS, tool_choice="none", max_tokens=30)
    assert whole.choices[0].message.tool_calls is None
    assert whole.choices[0].message.content
    without = client.chat.completions.create(model=MODEL, messages=RAIN, max_tokens=1)
    # The tools are shown all the same.
    assert whole.usage.prompt_tokens > without.usage.prompt_tokens + 50  # type: ignore[union-attr]


def test_a_call_its_result_and_the_answer(client: openai.OpenAI, served: Gateway) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    first = both(client, served, tools=TOOLS, tool_choice=choice).choices[0].message
    (call,) = first.tool_calls
    messages = [
        *RAIN,
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"forecast": "<|im_end|> rain"}'},
    ]
    last = both(client, served, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=40)
    assert last.choices[0].message.content
    with httpx.Client(base_url=served.base_url) as http:
        body = {"messages": messages, "tools": TOOLS, "tool_choice": "none", "return_token_strs": True}
        counted = http.post("/tokenize", json=body).json()
        shown = http.post("/detokenize", json={"tokens": counted["tokens"]}).json()["prompt"]
    assert counted["count"] == last.usage.prompt_tokens
    called = json.dumps(json.loads(call.function.arguments))
    assert f'<tool_call>\n{{"name": "get_weather", "arguments": {called}}}\n</tool_call><|im_end|>' in shown
    assert '<tool_response>\n{"forecast": "<|im_end|> rain"}\n</tool_response><|im_end|>' in shown
    # System, user, call, result, answer: begun each, ended all but the last.
    assert [counted["token_strs"].count(one) for one in ("<|im_start|>", "<|im_end|>")] == [5, 4]


def test_a_call_that_the_model_makes_by_itself(client: openai.OpenAI, served: Gateway) -> None:
    """From a model this small only by example."""
    messages: list[Any] = []
    for city in ("Rome", "Oslo", "Rome", "Oslo"):
        function = {"name": "get_weather", "arguments": json.dumps({"city": city, "days": 3})}
        messages += [
            {"role": "user", "content": f"Will it rain in {city} in the next 3 days?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": city, "type": "function", "function": function}],
            },
        ]
    (answer,) = both(client, served, messages=[*messages, *RAIN], tools=[TOOLS[0]], max_tokens=60).choices
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Paris", "days": 3},
    )


def test_a_schema_that_can_not_be_held_is_a_400_before_any_byte(client: openai.OpenAI) -> None:
    broken: Any = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        },
    }
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(
                model=MODEL, messages=RAIN, tools=[broken], tool_choice="required", stream=stream
            )


@tool
def get_weather(city: str, days: int) -> str:
    """Tells the weather."""
    return "rain"


@tool
def set_dial(on: bool) -> str:
    """Sets the dial."""
    return "done"


def test_langchain_binds_tools(served: Gateway) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{served.base_url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        temperature=0,
        max_completion_tokens=200,
    )
    bound = model.bind_tools([get_weather, set_dial], tool_choice="any", parallel_tool_calls=False)
    first = bound.invoke([HumanMessage("Rain in Paris?")])
    (call,) = first.tool_calls
    assert call["name"] in ("get_weather", "set_dial")
    assert call["args"].keys() == ({"city", "days"} if call["name"] == "get_weather" else {"on"})
    whole: Any = None
    for chunk in bound.stream([HumanMessage("Rain in Paris?")]):
        whole = chunk if whole is None else whole + chunk
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [(call["name"], call["args"])]
    result = ToolMessage("rain", tool_call_id=call["id"])
    last = model.bind_tools([get_weather, set_dial], tool_choice="none").invoke(
        [HumanMessage("Rain in Paris?"), first, result]
    )
    assert last.content
    assert not last.tool_calls
