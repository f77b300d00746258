"""Stop strings, min_tokens and shown control tokens, in answers cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapters.chat_format import TextRules
from adapters.chatglm3.calls import write_call
from adapters.chatglm3.content import PLACEHOLDER
from adapters.chatglm3.pieces import END_OF_SEQUENCE, Pieces
from adapters.chatglm3.reader import ChatGLM3Reader, Reading
from engine.base import Delta, FinishReason
from tests.adapters.chatglm3.test_content import stopped
from tests.adapters.chatglm3.test_reader import TOOLS, cuts, logprobs_of, read, read_all_ways, segment
from tests.strategies import texts


def random_cuts(ids: Sequence[int], data: st.DataObject) -> list[Sequence[int]]:
    ends = sorted(data.draw(st.lists(st.integers(0, max(0, len(ids) - 1)), max_size=6)))
    return [ids[start:end] for start, end in zip([0, *ends], [*ends, len(ids)], strict=True)]


TEXT = "one two\nthree, one two"


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", [("two",), ("\n",), ("wo\nth", "one"), ("e, o", " two")])
def test_a_stop_string_cut_anywhere_after_every_number_of_tokens(
    pieces: Pieces, stop: tuple[str, ...], include: bool
) -> None:
    ids = [*segment(pieces, TEXT), END_OF_SEQUENCE]
    header = len(pieces.encode("\n"))
    found = set()
    for min_tokens in range(len(ids) + 2):
        rules = TextRules(stop=stop, include_stop_str_in_output=include, min_tokens=min_tokens)
        early = pieces.decode(ids[header:min_tokens])
        expected, _ = stopped(TEXT, len(early), stop, include=include)
        assert read_all_ways(pieces, Reading(may_call={}, rules=rules), ids) == (expected, [], "stop")
        found.add(expected)
    assert len(found) > 1
    assert TEXT in found


@given(texts, st.data())
def test_the_first_stop_string_that_ends_after_min_tokens_ends_the_text(
    pieces: Pieces, text: str, data: st.DataObject
) -> None:
    ids = [*segment(pieces, text), END_OF_SEQUENCE]
    whole = read(pieces, Reading(may_call={}), [ids])[0]
    assume("\ufffd" not in whole)
    min_tokens = data.draw(st.integers(0, len(ids)))
    # What would have been told, had the engine ended there; without half a character.
    early = read(pieces, Reading(may_call={}), [ids[:min_tokens]], "length")[0].rstrip("\ufffd")
    part = st.tuples(st.integers(0, len(whole)), st.integers(1, 4)).map(lambda at: whole[at[0] :][: at[1]])
    stop = tuple(data.draw(st.lists((part | st.sampled_from("ab \n")).filter(bool), max_size=3)))
    include = data.draw(st.booleans())
    rules = TextRules(stop=stop, include_stop_str_in_output=include, min_tokens=min_tokens)
    expected, _ = stopped(whole, len(early), stop, include=include)
    told = read(pieces, Reading(may_call={}, rules=rules), random_cuts(ids, data))
    assert told == (expected, [], "stop")


@given(st.data())
def test_anything_is_read_the_same_however_it_is_cut(pieces: Pieces, data: st.DataObject) -> None:
    control = pieces.control
    parts: list[list[int]] = [
        pieces.encode("\n"),
        pieces.encode("get_weather\n"),
        pieces.encode("search\n"),
        pieces.encode(write_call({"q": "one"})),
        pieces.encode("one two [[训"),
        pieces.encode(f"{PLACEHOLDER}\n 2023年😀"),
        pieces.encode("get_we"),
        [0xF0 + 3, 0x9F + 3],
        [10**9],
        *([id_] for id_ in (0, 1, 2, control.sop, control.user, control.observation)),
        [control.assistant],
        [control.assistant],
    ]
    ids = [id_ for part in data.draw(st.lists(st.sampled_from(parts), max_size=10)) for id_ in part]
    finish_reason: FinishReason = data.draw(st.sampled_from(["stop", "length"]))
    if finish_reason == "stop":
        ids.append(data.draw(st.sampled_from(control.stops)))
    reading = Reading(
        may_call=TOOLS if (called := data.draw(st.booleans())) else {},
        header=data.draw(st.sampled_from([None, ""])),
        continued=data.draw(st.sampled_from([None, "", "x"])),
        parallel_tool_calls=data.draw(st.booleans()),
        as_is=not called and data.draw(st.booleans()),
        rules=TextRules(
            stop=data.draw(st.sampled_from([(), ("2023",), ("\n", "e"), ("[[训",), ("t_w", "one two")])),
            include_stop_str_in_output=data.draw(st.booleans()),
            min_tokens=data.draw(st.integers(0, len(ids) + 1)),
            skip_special_tokens=data.draw(st.booleans()),
        ),
    )
    told = read(pieces, reading, [ids], finish_reason)
    assert read(pieces, reading, random_cuts(ids, data), finish_reason) == told
    assert read(pieces, reading, [[id_] for id_ in ids] or [[]], finish_reason) == told


def test_a_stop_string_in_what_was_held_back_ends_the_answer(pieces: Pieces) -> None:
    """The text might still have become the placeholder."""
    ids = segment(pieces, "so [[训")
    reading = Reading(may_call={}, rules=TextRules(stop=("[[",)))
    assert read_all_ways(pieces, reading, ids, "length") == ("so ", [], "stop")


def test_no_stop_string_ends_in_a_header_line_or_a_call_of_the_first_tokens(pieces: Pieces) -> None:
    """They count as tokens, and are no text."""
    control = pieces.control
    call = segment(pieces, write_call({"q": "one"}), "search")
    ids = [*segment(pieces, "one"), control.assistant, *call, control.assistant, *segment(pieces, "one")]
    ids.append(control.user)
    called = [("search", '{"q": "one"}')]
    for min_tokens, text in (
        (0, ""),
        (len(segment(pieces, "one")) - 1, ""),
        (len(segment(pieces, "one")), "one\n"),
        (len(ids) - 2, "one\n"),
        (len(ids) - 1, "one\none"),
    ):
        rules = TextRules(stop=("one",), min_tokens=min_tokens)
        calls = called if text else []
        end_reason = "tool_calls" if text else "stop"
        told = read_all_ways(pieces, Reading(may_call=TOOLS, rules=rules), ids)
        assert told == (text, calls, end_reason)


def test_what_might_have_been_a_call_is_searched_from_the_right_token_on(pieces: Pieces) -> None:
    ids = [*pieces.encode("search\n"), *pieces.encode("no search"), END_OF_SEQUENCE]
    for min_tokens, text in ((0, ""), (len(pieces.encode("search\n")), "search\n no "), (99, None)):
        reading = Reading(may_call=TOOLS, rules=TextRules(stop=("search",), min_tokens=min_tokens))
        expected = "search\n no search" if text is None else text
        assert read_all_ways(pieces, reading, ids) == (expected, [], "stop")


def test_after_a_forced_header_a_call_that_is_none_is_searched_as_a_whole(pieces: Pieces) -> None:
    ids = [*pieces.encode("no call"), END_OF_SEQUENCE]
    for min_tokens, text in ((0, ""), (1, "search\n no call")):
        reading = Reading(
            may_call=TOOLS, header="search", rules=TextRules(stop=("arch",), min_tokens=min_tokens)
        )
        assert read_all_ways(pieces, reading, ids)[0] == ("se" if text == "" else text)


@pytest.mark.parametrize("include", [False, True])
def test_logprobs_are_told_up_to_the_token_that_completes_a_stop_string(
    pieces: Pieces, include: bool
) -> None:
    ids = [*segment(pieces, "one two\nthree"), END_OF_SEQUENCE]
    rules = TextRules(stop=("two\n",), include_stop_str_in_output=include)
    for parts in cuts(ids):
        reader = ChatGLM3Reader(pieces, Reading(may_call={}, rules=rules))
        text, found = "", b""
        for index, part in enumerate(parts):
            ended: FinishReason | None = "stop" if index == len(parts) - 1 else None
            piece = reader.read(Delta("", part, ended, logprobs=logprobs_of(part)))
            text += piece.text
            found += b"".join(one.token for one in piece.logprobs)
            if piece.ended:
                break
        assert text == ("one two\n" if include else "one ")
        assert found == b"one two\n"


RAW = TextRules(skip_special_tokens=False)


@given(st.data())
def test_with_special_tokens_shown_the_text_is_all_that_was_generated(
    pieces: Pieces, data: st.DataObject
) -> None:
    control = pieces.control
    names = {
        0: "<unk>",
        1: "<s>",
        2: "</s>",
        control.gmask: "[gMASK]",
        control.sop: "sop",
        control.system: "<|system|>",
        control.user: "<|user|>",
        control.assistant: "<|assistant|>",
        control.observation: "<|observation|>",
        10**9: "",
    }
    chosen = st.sampled_from(list(names.items())).map(lambda item: ([item[0]], item[1]))
    spoken = (texts | st.sampled_from([PLACEHOLDER, "\n", "search\n"])).map(
        lambda text: (pieces.encode(text), " " + text.replace("▁", " ") if text else "")
    )
    parts = data.draw(st.lists(chosen | spoken, max_size=8))
    ids = [id_ for part, _ in parts for id_ in part]
    expected = "".join(text for _, text in parts)
    end = data.draw(st.sampled_from(control.stops))
    for include in (False, True):
        rules = TextRules(skip_special_tokens=False, include_stop_str_in_output=include)
        reading = Reading(may_call={}, rules=rules, as_is=True)
        told = read(pieces, reading, random_cuts([*ids, end], data))
        assert told == (expected + names[end] * include, [], "stop")
        assert read(pieces, reading, random_cuts(ids, data), "length") == (expected, [], "length")


def test_a_stop_string_may_be_a_control_tokens_text_where_it_is_shown(pieces: Pieces) -> None:
    ids = [*segment(pieces, "one"), pieces.control.assistant, *segment(pieces, "two"), END_OF_SEQUENCE]
    rules = TextRules(stop=("<|assistant|>",), skip_special_tokens=False)
    assert read_all_ways(pieces, Reading(may_call={}, rules=rules, as_is=True), ids)[0] == " \n one"
    hidden = Reading(may_call={}, rules=TextRules(stop=("<|assistant|>",)))
    assert read_all_ways(pieces, hidden, ids)[0] == "one\ntwo"


def test_logprobs_of_shown_control_tokens_have_their_text(pieces: Pieces) -> None:
    ids = [*segment(pieces, "one"), pieces.control.assistant, END_OF_SEQUENCE]
    reader = ChatGLM3Reader(pieces, Reading(may_call={}, rules=RAW, as_is=True))
    piece = reader.read(Delta("", ids, "stop", logprobs=logprobs_of(ids)))
    assert piece.text == " \n one<|assistant|>"
    assert b"".join(one.token for one in piece.logprobs) == b" \n one<|assistant|></s>"


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_of_the_clients_own_is_text_only_where_stop_strings_are(
    pieces: Pieces, include: bool
) -> None:
    content = pieces.encode("one two")
    reading = Reading(may_call={}, rules=TextRules(include_stop_str_in_output=include))
    told = read_all_ways(pieces, reading, [*pieces.encode("\n"), *content])
    assert told == ("one two" if include else pieces.decode(content[:-1]), [], "stop")


def test_ends_of_turns_in_the_middle_have_no_text_and_the_text_goes_on(pieces: Pieces) -> None:
    """As with ignore_eos."""
    for stop in pieces.control.stops:
        ids = [stop, *segment(pieces, "one"), stop, *pieces.encode("two"), stop, stop]
        assert read_all_ways(pieces, Reading(may_call=TOOLS), ids, "length") == ("one two", [], "length")


def test_an_end_of_turn_in_the_middle_ends_a_call(pieces: Pieces) -> None:
    for stop in pieces.control.stops:
        ids = [
            *segment(pieces, write_call({"q": "x"}), "search"),
            stop,
            *pieces.encode("so."),
            pieces.control.assistant,
            *segment(pieces, write_call({}), "get_weather"),
        ]
        told = read_all_ways(pieces, Reading(may_call=TOOLS), ids, "length")
        assert told[:2] == ("so.", [("search", '{"q": "x"}'), ("get_weather", "{}")])


def test_a_continued_text_keeps_its_first_blank_and_may_go_on_to_a_call(pieces: Pieces) -> None:
    reading = Reading(may_call=TOOLS, continued="Let me")
    ids = [
        *pieces.encode("look it up."),
        pieces.control.assistant,
        *segment(pieces, write_call({"q": "x"}), "search"),
        pieces.control.observation,
    ]
    called = [("search", '{"q": "x"}')]
    assert read_all_ways(pieces, reading, ids) == (" look it up.", called, "tool_calls")
    line = [*segment(pieces, "b"), END_OF_SEQUENCE]
    assert read_all_ways(pieces, reading, line) == (" \n b", [], "stop")
    other = [pieces.control.assistant, *line]
    assert read_all_ways(pieces, reading, other) == ("\nb", [], "stop")
    assert read_all_ways(pieces, Reading(may_call=TOOLS, continued=""), other) == ("b", [], "stop")
