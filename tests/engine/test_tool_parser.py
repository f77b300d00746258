"""vLLM's own parsers of tool calls, without an engine that runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from engine.base import EngineError, ToolParser
from tests.adapters.template_models import LLAMA, SEARCH, WEATHER

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

from engine.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

TOOLS = [WEATHER, SEARCH]


class Loaded(VllmEngine):
    """As much of an engine as its tokenizer."""

    tokenizer = LLAMA.tokenizer


def parser(name: str) -> ToolParser:
    return Loaded(Path("model"), "model").tool_parser(name)


def test_a_parser_of_vllm_reads_calls() -> None:
    text, calls = parser("pythonic")("[get_weather(city='Paris', days=3), search()]", TOOLS)
    assert text == ""
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("get_weather", {"city": "Paris", "days": 3}),
        ("search", {}),
    ]


def test_what_is_no_call_comes_back_as_it_was() -> None:
    for text in ("Hello, all.\n", "[get_weather(city=)]", "", "[" * 3000):
        for name in ("pythonic", "qwen3_coder", "granite-20b-fc"):
            assert parser(name)(text, TOOLS) == (text, [])


def test_a_parser_knows_the_types_of_the_tools() -> None:
    text, calls = parser("qwen3_coder")(
        "Let me see.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        TOOLS,
    )
    assert text.strip() == "Let me see."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("get_weather", {"city": "Paris", "days": 3})
    ]


def test_special_tokens_are_kept_for_the_parsers_that_need_them() -> None:
    assert parser("pythonic").skip_special_tokens
    assert not parser("functiongemma").skip_special_tokens


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(EngineError, match=r"'nonsense'.*deepseek_v3.*pythonic"):
        parser("nonsense")


def test_a_parser_of_another_model_is_refused() -> None:
    with pytest.raises(EngineError, match="'jamba' can't be used with this model"):
        parser("jamba")
