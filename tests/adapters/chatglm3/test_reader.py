"""Answers read from ids: whole, and cut at every boundary between tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given

from adapters.chat_format import ContentLogprob, Piece, TextRules
from adapters.chatglm3.calls import INTERPRETER, NotACall, read_call, write_call
from adapters.chatglm3.content import PLACEHOLDER, YEAR
from adapters.chatglm3.pieces import END_OF_SEQUENCE, Pieces
from adapters.chatglm3.reader import ChatGLM3Reader, Reading
from engine.base import Delta, FinishReason, TokenLogprob, Tool
from tests.chatglm3.tokenizers import vectors
from tests.strategies import texts

Told = tuple[str, list[tuple[str, str]], str]

WEATHER = Tool("get_weather", {"name": "get_weather", "parameters": {"type": "object"}})
SEARCH = Tool("search", {"name": "search"})
CODE = Tool(
    INTERPRETER,
    {"name": INTERPRETER, "parameters": {"type": "object", "properties": {"source": {"type": "string"}}}},
)
TOOLS = {tool.name: tool for tool in (WEATHER, SEARCH, CODE)}
PLAIN = Reading(may_call={})
WITH_TOOLS = Reading(may_call=TOOLS)


def segment(pieces: Pieces, content: str, header: str = "") -> list[int]:
    """As the model writes it."""
    return pieces.encode(f"{header}\n") + pieces.encode(content)


def read(
    pieces: Pieces,
    reading: Reading,
    parts: Sequence[Sequence[int]],
    finish_reason: FinishReason = "stop",
) -> Told:
    """What a client is told when the ids come in ``parts``: text, calls, why it ended. With ``stop`` the last
    id is the one that the engine stopped at."""
    reader = ChatGLM3Reader(pieces, reading)
    texts_told: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for index, ids in enumerate(parts):
        last = index == len(parts) - 1
        piece = reader.read(Delta("", ids, finish_reason if last else None))
        texts_told.append(piece.text)
        keep_calls(piece, calls)
        if piece.ended:
            break
    return (
        "".join(texts_told),
        [(name, "".join(arguments)) for name, arguments in calls],
        reader.end_reason(finish_reason),
    )


def keep_calls(piece: Piece, calls: list[tuple[str, list[str]]]) -> None:
    for call in piece.tool_calls:
        if call.name is not None:
            assert call.index == len(calls)
            assert call.arguments == ""
            calls.append((call.name, []))
        else:
            calls[call.index][1].append(call.arguments)


def cuts(ids: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """In one, at each boundary in two, token by token, and with Deltas that have none."""
    yield [ids]
    for at in range(len(ids)):
        yield [ids[:at], ids[at:]]
    yield [part for token_id in ids for part in ([], [token_id])]


def read_all_ways(
    pieces: Pieces, reading: Reading, ids: Sequence[int], finish_reason: FinishReason = "stop"
) -> Told:
    """The same however the ids come."""
    told = {json.dumps(read(pieces, reading, parts, finish_reason)) for parts in cuts(ids)}
    (one,) = told
    text, calls, end_reason = json.loads(one)
    return text, [tuple(call) for call in calls], end_reason


@given(texts)
def test_a_plain_answer_is_its_text(pieces: Pieces, text: str) -> None:
    ids = [*segment(pieces, text), END_OF_SEQUENCE]
    expected = text.replace("▁", " ").replace(PLACEHOLDER, YEAR)
    assert read(pieces, PLAIN, [ids]) == (expected, [], "stop")
    assert read(pieces, PLAIN, [[token_id] for token_id in ids]) == (expected, [], "stop")


@pytest.mark.parametrize("reading", [PLAIN, WITH_TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize(
    "text",
    [
        "你好👋！很高兴见到你。",
        "  indented\n\n  more ",
        "\n\nafter blank lines",
        "",
        " ",
        "get_weather\n",
        "search",
        "<|assistant|>\n<|user|> sop [gMASK] </s>",
        f"我的训练数据截至{PLACEHOLDER}，{PLACEHOLDER[:4]}",
    ],
)
def test_a_plain_answer_cut_anywhere(pieces: Pieces, reading: Reading, text: str) -> None:
    ids = [*segment(pieces, text), pieces.control.user]
    assert read_all_ways(pieces, reading, ids) == (text.replace(PLACEHOLDER, YEAR), [], "stop")


@pytest.mark.parametrize(
    "text", ["Hello", "你好！\n我是", "x\n\ny", "get_weather is a tool", "search\nfor it"]
)
def test_an_answer_without_a_header_is_its_text(pieces: Pieces, text: str) -> None:
    expected: Told = (text, [], "stop")
    assert read_all_ways(pieces, PLAIN, [*pieces.encode(text), END_OF_SEQUENCE]) == expected
    assert read_all_ways(pieces, WITH_TOOLS, [*pieces.encode(text), END_OF_SEQUENCE]) == expected


def test_a_cut_answer_says_length(pieces: Pieces) -> None:
    ids = segment(pieces, "你好 wor")
    assert read_all_ways(pieces, PLAIN, ids, "length") == ("你好 wor", [], "length")


def test_bytes_that_are_no_character_become_one_replacement_each(pieces: Pieces) -> None:
    broken = [0xF0 + 3, 0x9F + 3]
    ids = [*segment(pieces, "a"), *broken, *pieces.encode("b"), *broken, 13, *broken, END_OF_SEQUENCE]
    assert read_all_ways(pieces, PLAIN, ids)[0] == "a�� b��\n��"


def test_no_control_token_is_ever_text(pieces: Pieces) -> None:
    control = pieces.control
    hidden = [0, 1, 2, control.gmask, control.sop, control.system, control.user, control.observation, 10**9]
    ids = [*segment(pieces, "a"), *hidden, *segment(pieces, "b"), END_OF_SEQUENCE]
    assert read_all_ways(pieces, PLAIN, ids) == ("a \n b", [], "stop")
    assert read_all_ways(pieces, Reading(may_call={}, as_is=True), ids)[0] == " \n a \n b"


@pytest.mark.parametrize("fence", [True, False])
def test_a_call(pieces: Pieces, fence: bool) -> None:
    call = write_call({"location": "北京", "days": 3})
    body = call if fence else call.removeprefix("```python\n").removesuffix("\n```")
    ids = [*segment(pieces, body, "get_weather"), pieces.control.observation]
    called = [("get_weather", '{"location": "北京", "days": 3}')]
    assert read_all_ways(pieces, WITH_TOOLS, ids) == ("", called, "tool_calls")


def test_text_before_a_call_is_kept(pieces: Pieces) -> None:
    ids = [
        *segment(pieces, "好的，让我们来查看今天的天气"),
        pieces.control.assistant,
        *segment(pieces, write_call({"location": "beijing"}), "get_weather"),
        pieces.control.observation,
    ]
    called = [("get_weather", '{"location": "beijing"}')]
    assert read_all_ways(pieces, WITH_TOOLS, ids) == ("好的，让我们来查看今天的天气", called, "tool_calls")


def several(pieces: Pieces) -> list[int]:
    """Text, a call, text, a call, text."""
    joint = [pieces.control.assistant]
    return [
        *segment(pieces, "one"),
        *joint,
        *segment(pieces, write_call({"a": 1}), "search"),
        *joint,
        *segment(pieces, "two"),
        *joint,
        *segment(pieces, write_call({}), "get_weather"),
        *joint,
        *segment(pieces, " three"),
        END_OF_SEQUENCE,
    ]


def test_several_segments(pieces: Pieces) -> None:
    called = [("search", '{"a": 1}'), ("get_weather", "{}")]
    assert read_all_ways(pieces, WITH_TOOLS, several(pieces)) == ("one\ntwo\n three", called, "tool_calls")


def test_without_parallel_calls_the_first_one_ends_the_answer(pieces: Pieces) -> None:
    reading = Reading(may_call=TOOLS, parallel_tool_calls=False)
    called = [("search", '{"a": 1}')]
    assert read_all_ways(pieces, reading, several(pieces)) == ("one", called, "tool_calls")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("get_weather", "```python\ntool_call(location=)\n```"),
        ("get_weather", "no call at all"),
        ("get_weather", ""),
        ("unknown_tool", write_call({"a": 1})),
        ("get_weather_", write_call({"a": 1})),
        ("get_weathe", write_call({"a": 1})),
    ],
)
def test_what_is_no_call_of_an_offered_tool_comes_as_text(pieces: Pieces, header: str, body: str) -> None:
    ids = [*segment(pieces, body, header), pieces.control.observation]
    text, calls, end_reason = read_all_ways(pieces, WITH_TOOLS, ids)
    assert (calls, end_reason) == ([], "stop")
    assert text.replace("\n ", "\n") == f"{header}\n{body}"


def test_a_call_without_offered_tools_comes_as_text(pieces: Pieces) -> None:
    ids = [*segment(pieces, write_call({"a": 1}), "search"), pieces.control.observation]
    text, calls, end_reason = read_all_ways(pieces, PLAIN, ids)
    assert text == "search\n ```python\ntool_call(a=1)\n```"
    assert (calls, end_reason) == ([], "stop")


def test_a_cut_call_comes_as_text_and_says_length(pieces: Pieces) -> None:
    ids = segment(pieces, "```python\ntool_call(location='Bei", "get_weather")
    text, calls, end_reason = read_all_ways(pieces, WITH_TOOLS, ids, "length")
    assert text == "get_weather\n ```python\ntool_call(location='Bei"
    assert (calls, end_reason) == ([], "length")


def test_the_interpreter_is_called_with_the_code(pieces: Pieces) -> None:
    code = "for i in range(3):\n    print('```', i)"
    ids = [*segment(pieces, f"```python\n{code}\n```", INTERPRETER), pieces.control.observation]
    called = [(INTERPRETER, json.dumps({"source": code}))]
    assert read_all_ways(pieces, WITH_TOOLS, ids) == ("", called, "tool_calls")


def test_after_a_forced_header_comes_the_call(pieces: Pieces) -> None:
    reading = Reading(may_call=TOOLS, header="search")
    ids = [*pieces.encode(write_call({"q": "x"})), END_OF_SEQUENCE]
    assert read_all_ways(pieces, reading, ids) == ("", [("search", '{"q": "x"}')], "tool_calls")
    cut = ids[: len(ids) // 2]
    text, calls, end_reason = read_all_ways(pieces, reading, cut, "length")
    assert text.startswith("search\n ```python")
    assert (calls, end_reason) == ([], "length")


def test_after_a_forced_blank_header_comes_text(pieces: Pieces) -> None:
    reading = Reading(may_call={}, header="")
    ids = [*pieces.encode("search\nsomething"), END_OF_SEQUENCE]
    assert read_all_ways(pieces, reading, ids) == ("search\nsomething", [], "stop")


@given(texts)
def test_a_continuation_is_not_changed(pieces: Pieces, text: str) -> None:
    ids = [*segment(pieces, text, "search"), pieces.control.assistant, *segment(pieces, PLACEHOLDER), 2]
    told = f" search\n{pieces.decode([pieces.control.user, *pieces.encode(text)]).removeprefix('<|user|>')}"
    reading = Reading(may_call=TOOLS, as_is=True)
    assert read(pieces, reading, [ids])[0] == f"{told} \n {PLACEHOLDER}"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("\n",), "one two"),
        (("two",), "one "),
        (("three", "wo\nth"), "one t"),
        (("four",), "one two\nthree"),
        ((" ",), "one"),
    ],
)
def test_stop_strings_are_sought_in_what_the_client_sees(
    pieces: Pieces, stop: tuple[str, ...], text: str
) -> None:
    ids = [*segment(pieces, "one two\nthree"), END_OF_SEQUENCE]
    assert read_all_ways(pieces, Reading(may_call={}, rules=TextRules(stop=stop)), ids) == (text, [], "stop")


def test_a_stop_string_does_not_cut_a_call(pieces: Pieces) -> None:
    ids = [*segment(pieces, write_call({"q": "x"}), "search"), pieces.control.observation]
    reading = Reading(may_call=TOOLS, rules=TextRules(stop=("\n", "q")))
    assert read_all_ways(pieces, reading, ids) == ("", [("search", '{"q": "x"}')], "tool_calls")


def logprobs_of(ids: Sequence[int]) -> list[TokenLogprob]:
    return [TokenLogprob(token_id, -0.5, [(token_id, -0.5), (13, -2.0)]) for token_id in ids]


@pytest.mark.parametrize(
    ("header", "content", "told"),
    [
        ("", "Hello 你好👋", b"Hello \xe4\xbd\xa0\xe5\xa5\xbd\xf0\x9f\x91\x8b"),
        ("search", write_call({}), b""),
    ],
)
def test_logprobs_are_told_of_the_tokens_of_the_text(
    pieces: Pieces, header: str, content: str, told: bytes
) -> None:
    ids = [*segment(pieces, content, header), END_OF_SEQUENCE]
    for parts in cuts(ids):
        reader = ChatGLM3Reader(pieces, WITH_TOOLS)
        found: list[ContentLogprob] = []
        for index, part in enumerate(parts):
            ended: FinishReason | None = "stop" if index == len(parts) - 1 else None
            found += reader.read(Delta("", part, ended, logprobs=logprobs_of(part))).logprobs
        assert b"".join(one.token for one in found) == told
        assert all(one.top[1] == (b"\n", -2.0) for one in found)


def test_logprobs_of_text_that_might_have_been_a_call_are_told_as_well(pieces: Pieces) -> None:
    ids = [*pieces.encode("search for\nit"), END_OF_SEQUENCE]
    reader = ChatGLM3Reader(pieces, WITH_TOOLS)
    found = reader.read(Delta("", ids, "stop", logprobs=logprobs_of(ids))).logprobs
    assert b"".join(one.token for one in found) == b"search for\nit"


# Two hundred made-up calls.

NAMES = ["get_weather", "search"]
KEYS = ["location", "q", "unit", "类型", "n", "opts"]
STRINGS = [
    "北京",
    "it's",
    'say "hi"',
    "a\nb",
    "\\n",
    "tab\there",
    "```",
    "tool_call(x=1)",
    "😀",
    "<|user|>",
    "",
    "sop",
]
BREAKERS = ["(", "'", "=", ",", "```", "\n", "f'", "][", "lambda: ", "\\"]


def made_up_value(chance: random.Random, depth: int = 0) -> str:
    """A literal as a model may write it."""
    kind = chance.randrange(9 if depth < 3 else 6)
    inner = [made_up_value(chance, depth + 1) for _ in range(chance.randrange(4))] if kind > 5 else []
    match kind:
        case 0 | 1:
            return repr(chance.choice(STRINGS) + chance.choice(STRINGS))
        case 2:
            return json.dumps(chance.choice(STRINGS), ensure_ascii=chance.random() < 0.5)
        case 3:
            return str(chance.randint(-(10**12), 10**12))
        case 4:
            return repr(chance.uniform(-1e6, 1e6))
        case 5:
            return chance.choice(["True", "False", "None", "true", "null"])
        case 6:
            return f"[{', '.join(inner)}]"
        case 7:
            return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
        case _:
            return "{" + ", ".join(f"{chance.choice(STRINGS)!r}: {one}" for one in inner) + "}"


def made_up_call(number: int) -> tuple[str, str]:
    """Name and body; every fourth is broken."""
    chance = random.Random(number)
    keys = chance.sample(KEYS, chance.randrange(4))
    body = f"tool_call({', '.join(f'{key}={made_up_value(chance)}' for key in keys)})"
    if number % 4 == 3:
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice(BREAKERS) + body[at + chance.randrange(3) :]
    return chance.choice(NAMES), f"```python\n{body}\n```"


def expected_arguments(body: str) -> dict[str, Any] | None:
    try:
        return read_call(body)
    except NotACall:
        return None


def test_the_made_up_calls_are_of_every_kind() -> None:
    read_ones = [expected_arguments(made_up_call(number)[1]) for number in range(200)]
    assert 150 <= sum(one is not None for one in read_ones) < 190
    assert sum(bool(one) for one in read_ones) > 100


@pytest.mark.parametrize("number", range(200))
def test_a_made_up_call_cut_anywhere(pieces: Pieces, number: int) -> None:
    name, body = made_up_call(number)
    arguments = expected_arguments(body)
    ids = [*segment(pieces, body, name), pieces.control.observation]
    text, calls, end_reason = read_all_ways(pieces, WITH_TOOLS, ids)
    if arguments is None:
        assert (calls, end_reason) == ([], "stop")
        assert text == f"{name}\n {body}"
    else:
        assert (text, end_reason) == ("", "tool_calls")
        ((called, given_arguments),) = calls
        assert (called, json.loads(given_arguments)) == (name, arguments)


@pytest.mark.parametrize("vector", vectors("parse"), ids=lambda vector: vector["input"]["raw"][:20])
def test_published_answers(pieces: Pieces, vector: dict[str, Any]) -> None:
    """``raw`` is what the authors' tokenizer decodes: the blank that an answer begins with is gone."""
    raw, expected = vector["input"]["raw"], vector["expected"]
    ids: list[int] = []
    for index, one in enumerate(raw.split("<|assistant|>")):
        header, _, content = one.partition("\n")
        joint = [pieces.control.assistant] if index else []
        ids += [*joint, *segment(pieces, content.removeprefix(" "), header.strip())]
    tools = {name: Tool(name, {"name": name}) for name in ("f", "get_current_weather", INTERPRETER)}
    text, calls, _ = read_all_ways(pieces, Reading(may_call=tools), [*ids, pieces.control.observation])
    match expected["type"]:
        case "text":
            assert (text, calls) == (expected["content"], [])
        case "tool":
            assert text == expected.get("preamble", "")
            assert [(name, json.loads(given)) for name, given in calls] == [
                (expected["name"], expected["arguments"])
            ]
        case "code":
            assert calls == [(INTERPRETER, json.dumps({"code": "print(1)"}))]
