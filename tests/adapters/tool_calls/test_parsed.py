"""Answers whose calls a parser of the engine reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.chat_format import Prompt
from engine.base import Tool, ToolCall
from tests.adapters.template_models import LLAMA, LLAMA3, SEARCH, WEATHER, Model
from tests.adapters.tool_calls.reading import (
    asking,
    deltas_of,
    logprobs_of,
    read,
    read_all_ways,
    token_deltas,
)


@dataclass
class ArrowParser:
    """``text -> name arguments -> name arguments``; a ToolParser."""

    skip_special_tokens: bool = True
    given: list[tuple[str, list[Tool]]] = field(default_factory=list)

    def __call__(self, text: str, tools: Sequence[Tool]) -> tuple[str, list[ToolCall]]:
        self.given.append((text, list(tools)))
        content, *calls = text.split(" -> ")
        return content, [ToolCall(*call.split(" ", 1)) for call in calls]


def model(parser: ArrowParser) -> Model:
    return Model(LLAMA3, LLAMA.special, options={"tool_parser": parser})


def prompt(parser: ArrowParser, *, parallel: bool = True) -> Prompt:
    return model(parser).format.render(asking([SEARCH], parallel=parallel))


CALLS = 'So: -> search {"a": 1} -> search {}'


def test_the_parser_is_given_the_whole_answer_and_the_tools_that_may_be_called() -> None:
    parser = ArrowParser()
    expected = ("So:", [("search", '{"a": 1}'), ("search", "{}")], "tool_calls")
    assert read_all_ways(prompt(parser).new_reader, CALLS) == expected
    assert set(map(str, parser.given)) == {str((CALLS, [SEARCH]))}


def test_without_parallel_calls_the_first_one_is_told() -> None:
    expected = ("So:", [("search", '{"a": 1}')], "tool_calls")
    assert read_all_ways(prompt(ArrowParser(), parallel=False).new_reader, CALLS) == expected


def test_text_is_text_and_so_is_a_call_of_a_tool_that_was_not_offered() -> None:
    for text in ("Hello.\n", f"So: -> {WEATHER.name} {{}}"):
        assert read_all_ways(prompt(ArrowParser()).new_reader, text) == (text, [], "stop")


def test_a_cut_answer_says_length() -> None:
    assert read_all_ways(prompt(ArrowParser()).new_reader, "Hello", "length") == ("Hello", [], "length")


def test_a_parser_that_needs_special_tokens_is_given_them_and_the_client_is_not() -> None:
    parser = ArrowParser(skip_special_tokens=False)
    asked = prompt(parser)
    assert not asked.skip_special_tokens
    text = "Hello <|python_tag|>all"
    ids = [*LLAMA.encode(text), *LLAMA.encode("<|eot_id|>")]
    assert read(asked.new_reader(), token_deltas(LLAMA, ids, [2], skip=False))[0] == "Hello all"
    assert parser.given[0][0] == text


def test_logprobs_are_told_where_nothing_is_called() -> None:
    for text, content in (("Hello", b"Hello"), (CALLS, b"")):
        deltas = token_deltas(LLAMA, LLAMA.encode(text), [2], skip=True)
        found = logprobs_of(prompt(ArrowParser()).new_reader(), deltas)
        assert b"".join(one.token for one in found) == content


def test_forced_calls_need_no_parser() -> None:
    parser = ArrowParser()
    forced = model(parser).format.render(asking([SEARCH], must_call=True))
    assert read(forced.new_reader(), deltas_of(["{}"])) == ("", [("search", "{}")], "tool_calls")
    assert not parser.given
