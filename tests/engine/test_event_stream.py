from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.event_stream import EventReader, EventTooLarge

ENDS = ["\n", "\r", "\r\n"]

# What one event consists of: lines of data, and lines that tell nothing.
lines = st.one_of(
    st.text(alphabet="aé👋: \t\u2028", max_size=6).map(lambda text: f"data: {text}"),
    st.sampled_from(["data", "data:", "data:x", ": comment", "event: x", "id: 1", "\ufeffdata: y"]),
)


def data_of(event: list[str]) -> bytes | None:
    """By the standard's words, line by line."""
    data = []
    for line in event:
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
    return "\n".join(data).encode() if data else None


def read(pieces: list[bytes]) -> list[bytes]:
    reader = EventReader(1000)
    found = [data for piece in pieces for data in reader.feed(piece)]
    return found + list(reader.end())


@given(st.lists(st.lists(lines, min_size=1, max_size=4), max_size=4), st.sampled_from(ENDS), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(
    events: list[list[str]], end: str, data: st.DataObject
) -> None:
    text = "".join("".join(line + end for line in event) + end for event in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    if events:
        # Only a mark at the very beginning is none of the text.
        events[0][0] = events[0][0].removeprefix("\ufeff")
    expected = [found for event in events if (found := data_of(event)) is not None]
    assert read(pieces) == read([bytes([one]) for one in text]) == expected


@pytest.mark.parametrize("end", ENDS)
def test_the_last_event_may_lack_its_empty_line(end: str) -> None:
    assert read([f"data: a{end}{end}data: b".encode()]) == [b"a", b"b"]
    assert read([f"data: a{end}{end}data: b{end}".encode()]) == [b"a", b"b"]


@pytest.mark.parametrize("endless", [b"x", b"data: x\n", b"data:\n", b": x"])
def test_nothing_grows_without_an_end(endless: bytes) -> None:
    reader = EventReader(1000)
    with pytest.raises(EventTooLarge):
        for _ in range(2000):
            assert list(reader.feed(endless)) == []


def test_a_stream_of_comments_may_be_as_long_as_it_likes() -> None:
    reader = EventReader(1000)
    for _ in range(2000):
        assert list(reader.feed(b": alive\n\n")) == []
