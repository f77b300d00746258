"""Answers in which models call tools as they like, cut at every place."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.chat_format import UnrenderablePrompt
from engine.base import FinishReason, StructuredOutput
from tests.adapters.template_models import LLAMA, MISTRALS, QWEN, WEATHER, Model
from tests.adapters.tool_calls.reading import (
    Told,
    asking,
    deltas_of,
    logprobs_of,
    read,
    read_all_ways,
    token_deltas,
)
from tests.strategies import json_values, texts

ARGUMENTS = '{"city":  "Paris", "days": 3.0}'
CALLED = ("get_weather", ARGUMENTS)
SEARCHED = ("search", "{}")


def hermes(*calls: tuple[str, str]) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in calls
    )


def llama(*calls: tuple[str, str]) -> str:
    return "; ".join(f'{{"name": "{name}", "parameters": {arguments}}}' for name, arguments in calls)


def mistral(*calls: tuple[str, str]) -> str:
    items = ", ".join(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in calls)
    return f"[TOOL_CALLS][{items}]"


def mistral_named(*calls: tuple[str, str]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in calls)


Write = Callable[..., str]

FAMILIES = pytest.mark.parametrize(
    ("model", "write"),
    [(QWEN, hermes), (LLAMA, llama), (MISTRALS, mistral), (MISTRALS, mistral_named)],
    ids=["hermes", "llama3_json", "mistral", "mistral named"],
)


def told(model: Model, text: str, **asked: object) -> Told:
    return read_all_ways(model.format.render(asking(**asked)).new_reader, text)  # type: ignore[arg-type]


@FAMILIES
def test_calls(model: Model, write: Write) -> None:
    assert told(model, write(CALLED)) == ("", [CALLED], "tool_calls")
    assert told(model, write(CALLED, SEARCHED)) == ("", [CALLED, SEARCHED], "tool_calls")


@FAMILIES
def test_without_parallel_calls_the_first_one_ends_the_answer(model: Model, write: Write) -> None:
    prompt = model.format.render(asking(parallel=False))
    assert prompt.ends_early
    text = write(CALLED, SEARCHED) + " and more"
    assert read_all_ways(prompt.new_reader, text) == ("", [CALLED], "tool_calls")
    assert read_all_ways(prompt.new_reader, text, "length") == ("", [CALLED], "tool_calls")
    assert not model.format.render(asking()).ends_early


@FAMILIES
def test_a_call_of_a_tool_that_was_not_offered_is_text(model: Model, write: Write) -> None:
    text = write(("search", '{"q": 1}'))
    assert told(model, text, may_call=[WEATHER]) == (text, [], "stop")


@FAMILIES
def test_where_nothing_may_be_called_all_is_text(model: Model, write: Write) -> None:
    text = f"{write(CALLED)} \n"
    assert told(model, text, may_call=[]) == (text, [], "stop")


@FAMILIES
@pytest.mark.parametrize("cut", [-1, -2, -9])
def test_a_cut_call_is_text_and_says_length(model: Model, write: Write, cut: int) -> None:
    text = write(CALLED).removesuffix("\n</tool_call>")[:cut]
    new_reader = model.format.render(asking()).new_reader
    assert read_all_ways(new_reader, text, "length") == (text, [], "length")


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (QWEN, f"Let me see.\n{hermes(CALLED)}", ("Let me see.", [CALLED], "tool_calls")),
        (QWEN, f"a {hermes(CALLED)} b {hermes(SEARCHED)}\n", ("a b", [CALLED, SEARCHED], "tool_calls")),
        (QWEN, hermes(CALLED).removesuffix("\n</tool_call>"), ("", [CALLED], "tool_calls")),
        (QWEN, hermes(CALLED).replace("\n", ""), ("", [CALLED], "tool_calls")),
        (
            QWEN,
            '<tool_call>[{"name": "search", "arguments": {}} , {"arguments": {}, "name": "search"}]',
            ("", [SEARCHED, SEARCHED], "tool_calls"),
        ),
        (
            QWEN,
            '<tool_call>{"arguments": {"x": "</tool_call>\\""}, "id": 1, "name": "search"}</tool_call>',
            ("", [("search", '{"x": "</tool_call>\\""}')], "tool_calls"),
        ),
        (
            QWEN,
            '<tool_call>{"name": "search", "arguments": "{\\"q\\": 1}"}</tool_call>',
            ("", [("search", '{"q": 1}')], "tool_calls"),
        ),
        (LLAMA, f"<|python_tag|>{llama(CALLED)}", ("", [CALLED], "tool_calls")),
        (LLAMA, f"\n{llama(CALLED)};\n{llama(SEARCHED)}", ("", [CALLED, SEARCHED], "tool_calls")),
        (LLAMA, f"{llama(CALLED)} as you see", (" as you see", [CALLED], "tool_calls")),
        (LLAMA, '{"name": "search", "arguments": {}}', ("", [SEARCHED], "tool_calls")),
        (MISTRALS, f"Wait. {mistral(CALLED)}", ("Wait.", [CALLED], "tool_calls")),
        (MISTRALS, "[TOOL_CALLS]search[CALL_ID]ab12[ARGS]{}", ("", [SEARCHED], "tool_calls")),
        (MISTRALS, "[TOOL_CALLS]search{}", ("", [SEARCHED], "tool_calls")),
    ],
)
def test_what_models_write(model: Model, text: str, expected: Told) -> None:
    assert told(model, text) == expected


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (QWEN, "<tool_call>"),
        (QWEN, "a <tool_call> b </tool_call> c\n"),
        (QWEN, '<tool_call>{"name": "search"}</tool_call>'),
        (QWEN, '<tool_call>{"name": "search", "arguments": [1]}</tool_call>'),
        (QWEN, '<tool_call>{"name": "search", "arguments": "[1]"}</tool_call>'),
        (QWEN, '<tool_call>{"name": "search", "arguments": {"x": NaN}}</tool_call>'),
        (QWEN, '<tool_call>{"name": ["search"], "arguments": {}}</tool_call>'),
        (QWEN, '<tool_call>{"name": "search", "arguments": {}} x</tool_call>'),
        (QWEN, "<tool_call>[]</tool_call>"),
        (QWEN, '<tool_call>{"name: "search"</tool_call>'),
        (QWEN, "<tool_call>" + "[" * 5000),
        (LLAMA, '{"a": 1}'),
        (LLAMA, "{x} is a set; {y} too"),
        (LLAMA, f"Sure: {llama(CALLED)}"),
        (LLAMA, "<|python_tag|>print(1)"),
        (LLAMA, "{"),
        (LLAMA, " \n"),
        (MISTRALS, "[TOOL_CALLS]"),
        (MISTRALS, "[TOOL_CALLS] [ARGS]{}"),
        (MISTRALS, '[TOOL_CALLS][{"name": "search"}]'),
        (MISTRALS, "[TOOL_CALLS]search[ARGS]"),
        (MISTRALS, "a [TOOL] b"),
    ],
)
def test_what_is_no_call_is_text_and_nothing_of_it_is_lost(model: Model, text: str) -> None:
    new_reader = model.format.render(asking()).new_reader
    whole = read(new_reader(), deltas_of([text]))
    assert whole == (text, [], "stop")
    if len(text) < 1000:
        assert read_all_ways(new_reader, text) == whole


def test_a_call_after_one_that_does_not_parse_is_read() -> None:
    broken = '<tool_call>{"name": "search</tool_call>'
    assert told(QWEN, f"{broken}\n{hermes(CALLED)}") == (broken, [CALLED], "tool_calls")
    twice = f"<tool_call>{hermes(CALLED)}"
    assert told(QWEN, twice) == ("<tool_call>", [CALLED], "tool_calls")
    assert told(MISTRALS, f"[TOOL_CALLS]{mistral(CALLED)}") == ("[TOOL_CALLS]", [CALLED], "tool_calls")


ATOMS = [
    "<tool_call>", "</tool_call>", "<tool_", "call>", "<|python_tag|>", "<|python", "[TOOL_CALLS]", "[TOOL_",
    "[ARGS]", "[CALL_ID]", "[", "]", "{", "}", '"', "\\", ",", ":", ";", " ", "\n", "search", "get_weather",
    '{"name": "search", "arguments": {}}', '{"name": "get_weather", "parameters": {"a": "}"}}', '"name"',
    '"arguments"', "text",
]  # fmt: skip

pieces = st.lists(st.sampled_from(ATOMS) | texts, max_size=10)


@pytest.mark.parametrize("model", [QWEN, LLAMA, MISTRALS], ids=["hermes", "llama3_json", "mistral"])
@given(pieces, st.booleans(), st.sampled_from(["stop", "length"]))
@example(
    ["<tool_call>", '{"name": "search', "</tool_call>", '"', ', "arguments": {}}', "</tool_call>"],
    True,
    "stop",
)
@example(['{"name": "search", "arguments": {}}', ";", " ", "text"], True, "stop")
def test_an_answer_is_read_the_same_however_it_is_cut(
    model: Model, parts: list[str], parallel: bool, finish_reason: FinishReason
) -> None:
    text = "".join(parts)
    new_reader = model.format.render(asking(parallel=parallel)).new_reader
    whole = read(new_reader(), deltas_of([text], finish_reason))
    assert read(new_reader(), deltas_of([*parts, ""], finish_reason)) == whole
    assert read(new_reader(), deltas_of([*text, ""], finish_reason)) == whole
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in whole[1])
    if not whole[1]:
        assert whole[0] == text


@FAMILIES
@given(st.dictionaries(texts, json_values, max_size=3))
def test_any_arguments_come_back_as_they_were_written(
    model: Model, write: Write, arguments: dict[str, object]
) -> None:
    for written in (json.dumps(arguments), json.dumps(arguments, ensure_ascii=False, indent=1)):
        text = write(("search", written))
        reader = model.format.render(asking()).new_reader()
        assert read(reader, deltas_of([*text, ""])) == ("", [("search", written)], "tool_calls")


# Control tokens and logprobs.


@pytest.mark.parametrize(
    ("model", "skip"), [(QWEN, True), (LLAMA, False), (MISTRALS, False)], ids=["chatml", "llama3", "mistral"]
)
def test_the_engine_leaves_out_special_tokens_where_calls_are_not_framed_by_them(
    model: Model, skip: bool
) -> None:
    assert model.format.render(asking()).skip_special_tokens is skip
    assert model.format.render(asking([])).skip_special_tokens
    assert not model.format.render(asking(skip_special_tokens=False)).skip_special_tokens


@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_no_other_control_token_is_shown_and_what_looks_like_one_is(skip_special_tokens: bool) -> None:
    tag, eot, head = "<|python_tag|>", "<|eot_id|>", "<|start_header_id|>"
    plain = LLAMA.format.plain_ids
    ids = [
        *plain("He"), *LLAMA.encode(head), *plain(f"llo {eot} and {head} "), *LLAMA.encode(head + head),
        *plain(f"{head}é. "), *LLAMA.encode(tag), *plain("x<|eot"),
        LLAMA.tokenizer.eos_token_id,
    ]  # fmt: skip
    shown = f"Hello {eot} and {head} {head}é. {tag}x<|eot"
    if not skip_special_tokens:
        shown = f"He{head}llo {eot} and {head} {head}{head}{head}é. {tag}x<|eot"
    prompt = LLAMA.format.render(asking(skip_special_tokens=skip_special_tokens))
    for at in [[], *([one] for one in range(len(ids) + 1)), range(1, len(ids))]:
        reader = prompt.new_reader()
        assert read(reader, token_deltas(LLAMA, ids, at, skip=False))[0] == shown


@pytest.mark.parametrize(
    ("model", "text", "content"),
    [
        (QWEN, "Hello é👋, all.", b"Hello \xc3\xa9\xf0\x9f\x91\x8b, all."),
        (QWEN, f"Let me see.\n{hermes(CALLED)}", b"Let me see."),
        (QWEN, f"a\n{hermes(CALLED)} b <tool_call> c", b"a b <tool_call> c"),
        (LLAMA, f"<|python_tag|>{llama(CALLED)}", b""),
        (LLAMA, "<|python_tag|>print()", b"print()"),
        (MISTRALS, f"Wait a bit.{mistral(CALLED, SEARCHED)}", b"Wait a bit."),
    ],
)
def test_logprobs_are_told_of_the_tokens_of_the_text(model: Model, text: str, content: bytes) -> None:
    prompt = model.format.render(asking())
    ids = [*model.encode(text), model.tokenizer.eos_token_id]
    for at in [[], *([one] for one in range(len(ids) + 1)), range(1, len(ids))]:
        deltas = token_deltas(model, ids, at, skip=prompt.skip_special_tokens)
        found = logprobs_of(prompt.new_reader(), deltas)
        assert b"".join(one.token for one in found) == content


# Which way of calling is taken.


def test_where_no_way_of_calling_is_known_it_says_what_to_do() -> None:
    for template in (
        "{{ tools }}",
        "{{ tools }}<tool_call>\n<function=f>",
        "{{ tools }}<tool_call>f\n<arg_key>a</arg_key>",
    ):
        unknown = Model(template, QWEN.special)
        with pytest.raises(UnrenderablePrompt, match="tool_call_parser") as refused:
            unknown.format.render(asking())
        assert refused.value.param == "tools"
        assert unknown.format.render(asking([])).structured is None
        assert unknown.format.render(asking(must_call=True)).structured is not None


def test_a_family_that_is_named_wins() -> None:
    named = Model("{{ tools }}[TOOL_CALLS]", QWEN.special, options={"call_family": "hermes"})
    assert told(named, hermes(CALLED))[1] == [CALLED]
    assert told(Model("{{ tools }} ipython parameters", QWEN.special), llama(CALLED))[1] == [CALLED]


def test_calls_and_structured_output_can_not_be_asked_for_at_once() -> None:
    structured = StructuredOutput("json_object")
    for must_call in (False, True):
        with pytest.raises(UnrenderablePrompt) as refused:
            QWEN.format.render(asking(must_call=must_call, structured=structured))
        assert refused.value.param == "response_format"
    assert QWEN.format.render(asking([], structured=structured)).structured is structured
