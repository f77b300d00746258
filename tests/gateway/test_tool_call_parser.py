"""The setting that says how a model writes tool calls, up to the chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine.base import EngineError, ModelCard, Tool, ToolCall, ToolParser
from engine.simulated import SimulatedEngine
from gateway.lifecycle import chat_format_of
from gateway.settings import load
from tests.adapters.template_models import QWEN
from tests.adapters.tool_calls.reading import asking, deltas_of, read

CALL = '{"name": "search", "parameters": {}}'


class Everything:
    """Takes any text for one call."""

    skip_special_tokens = True

    def __call__(self, text: str, tools: Sequence[Tool]) -> tuple[str, list[ToolCall]]:
        return "", [ToolCall("search", text)]


class Templated(SimulatedEngine):
    """With a model that has a chat template, and one parser."""

    def __init__(self) -> None:
        super().__init__()
        self.card = ModelCard(name="m", engine="simulated", max_model_len=100, chat_format="chat_template")
        self.tokenizer: Any = QWEN.tokenizer

    def tool_parser(self, name: str) -> ToolParser:
        if name != "everything":
            raise EngineError("only everything")
        return Everything()


def calls(name: str | None, text: str) -> list[tuple[str, str]]:
    reader = chat_format_of(Templated(), name).render(asking()).new_reader()
    return read(reader, deltas_of([text]))[1]


def test_the_template_tells_where_nothing_is_set() -> None:
    assert load({"engine": "simulated"}).tool_call_parser is None
    assert calls(None, f"<tool_call>{CALL}</tool_call>") == [("search", "{}")]


def test_a_family_or_a_parser_of_the_engine_is_taken_by_its_name() -> None:
    assert load({"engine": "simulated", "tool_call_parser": "x"}).tool_call_parser == "x"
    assert calls("llama3_json", CALL) == [("search", "{}")]
    assert calls("hermes", CALL) == []
    assert calls("everything", "{}") == [("search", "{}")]


def test_a_name_that_means_nothing_is_refused() -> None:
    with pytest.raises(EngineError, match="only everything"):
        chat_format_of(Templated(), "nonsense")
    with pytest.raises(EngineError, match="tool_call_parser"):
        chat_format_of(SimulatedEngine(), "hermes")
    with pytest.raises(EngineError, match="no parsers"):
        SimulatedEngine().tool_parser("hermes")
