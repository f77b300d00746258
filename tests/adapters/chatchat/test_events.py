from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.chat_format import Piece
from adapters.chatchat.events import (
    BEGINNING,
    ChatEvents,
    StreamStyle,
    TextEvents,
    event,
    failure_event,
    is_torn,
    text_event,
    whole_answer,
    whole_event,
)
from engine.base import Usage
from tests.sse_clients import by_line, event_source, fetch_event_source, official
from tests.strategies import json_values, texts

ID = "019a0f0e6c5c7b1f8d7e6a5b4c3d2e1f"
USAGE = Usage()
END = b"\r\n\r\n"

answers = st.lists(texts, max_size=8)
"""An answer in pieces, some of them without text."""

line_ends = st.text(alphabet="\r\na")


def bodies(events: ChatEvents | TextEvents, pieces: Sequence[str]) -> list[bytes]:
    """What leaves, one by one, for an answer in ``pieces``."""
    sent = [events.more(0, Piece(piece), USAGE) for piece in pieces]
    return [body for body in [*sent, events.last(["stop"], USAGE)] if body]


def stream_of(frames: Sequence[bytes]) -> str:
    """All of it, as UTF-8."""
    return b"".join(frames).decode()


def as_lines(text: str) -> str:
    """What any reader of events makes of a text's ends of lines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def test_the_bytes_are_chatchats() -> None:
    assert bodies(ChatEvents(ID), ["你好", '"\n']) == [
        b'data: {"text": "\xe4\xbd\xa0\xe5\xa5\xbd", "message_id": "%s"}\r\n\r\n' % ID.encode(),
        b'data: {"text": "\\"\\n", "message_id": "%s"}\r\n\r\n' % ID.encode(),
    ]
    assert bodies(TextEvents(), ["你", "\n二"]) == [
        b"data: \xe4\xbd\xa0\r\n\r\n",
        b"data: \r\ndata: \xe4\xba\x8c\r\n\r\n",
    ]
    assert failure_event("no", ID) == (
        b'data: {"code": 500, "msg": "no", "text": "", "message_id": "%s"}\r\n\r\n' % ID.encode()
    )


@given(texts)
def test_the_json_is_pythons_but_for_ends_of_lines(text: str) -> None:
    expected = json.dumps({"text": text, "message_id": ID}, ensure_ascii=False)
    for end in "\x85\u2028\u2029":
        expected = expected.replace(end, f"\\u{ord(end):04x}")
    assert event({"text": text, "message_id": ID}) == f"data: {expected}\r\n\r\n".encode()
    if text:
        assert bodies(ChatEvents(ID), [text]) == [event({"text": text, "message_id": ID})]


@given(answers, st.sampled_from(["delta", "cumulative"]))
@example(["a\u2028b", "\x85", "", "\u2029\r\n", "😀\0"], "delta")
def test_every_reader_gets_the_text_and_its_id(pieces: list[str], style: StreamStyle) -> None:
    sent = bodies(ChatEvents(ID, style), pieces)
    stream = stream_of(sent)
    read = [
        [json.loads(data) for data in event_source(stream)],
        [json.loads(data) for data in fetch_event_source(stream)],
        list(official(body.decode() for body in sent)),
        list(by_line(stream.splitlines())),
    ]
    assert all(objects == read[0] for objects in read)
    assert [list(one) for one in read[0]] == [["text", "message_id"]] * len(sent)
    assert {one["message_id"] for one in read[0]} == {ID}
    told = [one["text"] for one in read[0]]
    assert ("".join(told) if style == "delta" else told[-1]) == "".join(pieces)
    if style == "cumulative":
        so_far = ["".join(pieces[: end + 1]) for end, piece in enumerate(pieces) if piece]
        assert told == (so_far or [""])


@given(answers, texts, st.sampled_from(["delta", "cumulative"]))
def test_each_event_leaves_by_itself(pieces: list[str], echo: str, style: StreamStyle) -> None:
    completion = TextEvents(echo, style)
    sent = [*bodies(ChatEvents(ID, style), pieces), *bodies(completion, pieces), completion.opening]
    for body in filter(None, sent):
        assert body.startswith(b"data: ")
        assert body.endswith(END)
        assert len(event_source(body.decode())) == 1


@given(st.lists(texts | line_ends, max_size=8), texts | line_ends)
def test_raw_text_is_the_text_in_lines(pieces: list[str], echo: str) -> None:
    for style in ("delta", "cumulative"):
        events = TextEvents(echo, style)
        frames = [events.opening, *bodies(events, pieces)]
        told = event_source(stream_of(frames))
        whole = as_lines("".join([echo, *pieces]))
        assert ("".join(told) if style == "delta" else "".join(told[-1:])) == whole
    if echo:
        assert event_source(TextEvents(echo).opening.decode()) == [as_lines(echo)]
    assert event_source(text_event("".join(pieces)).decode()) == [as_lines("".join(pieces))]


@pytest.mark.parametrize("half", ["\ud83d", "a\udfffb\ud83d"])
def test_half_of_a_surrogate_pair_breaks_nothing(half: str) -> None:
    (body,) = bodies(ChatEvents(ID), [half])
    assert json.loads(body.decode()[6:])["text"] == half
    assert event_source(text_event(half).decode()) == [half.encode(errors="replace").decode()]


def test_an_answer_without_text_still_tells_its_id() -> None:
    for style in ("delta", "cumulative"):
        assert bodies(ChatEvents(ID, style), ["", ""]) == [event({"text": "", "message_id": ID})]
    assert bodies(TextEvents(), [""]) == []


@given(texts, st.lists(st.integers(20, 40_000), max_size=5))
def test_a_long_answer_may_be_torn_anywhere(text: str, places: list[int]) -> None:
    """But before the colon of its id, which is one place of many thousands."""
    text += "中:\n" * 4000
    frame = whole_event(text, ID)
    assert is_torn(frame)
    assert [json.loads(data) for data in event_source(frame.decode())] == [whole_answer(text, ID)]
    beginning, rest = frame[: len(BEGINNING)].decode(), frame[len(BEGINNING) :].decode()
    assert beginning == "data: "
    cuts = sorted({0, len(rest), *(place for place in places if place < len(rest) - 60)})
    pieces = [rest[start:end] for start, end in pairwise(cuts)]
    assert list(official([beginning, *pieces])) == [whole_answer(text, ID)]


@given(texts)
def test_a_short_answer_in_one_piece_is_an_event_as_any(text: str) -> None:
    assert whole_event(text, ID) == event(whole_answer(text, ID))


@given(json_values)
def test_an_event_of_any_json_is_one_line(value: object) -> None:
    stream = event(value).decode()
    assert [json.loads(data) for data in event_source(stream)] == [value]
    assert stream.splitlines() == [stream.removesuffix("\r\n\r\n"), ""]
