"""The reader of event streams reads the standard's own examples as the standard says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.event_streams import Event, EventReader

EXAMPLES = [
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
    (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        # The last one is not ended by an empty line.
        [Event("first event", last_event_id="1"), Event("second event")],
    ),
    ("data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
    ("data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
    ("event: add\ndata: 73857293\n\nevent: remove\n\n", [Event("73857293", "add")]),
    ("\ufeffdata: a\r\n\r\ndata: b\r\rdata:\ufeffc\n\n", [Event("a"), Event("b"), Event("\ufeffc")]),
    ("retry: 20\nid: 1\0\nunknown: x\ndata: a\n\n", [Event("a")]),
]


@pytest.mark.parametrize(("stream", "events"), EXAMPLES)
def test_the_examples_of_the_standard(stream: str, events: list[Event]) -> None:
    assert EventReader().feed(stream.encode()) == events


def test_what_is_no_event_is_told_apart() -> None:
    reader = EventReader()
    assert reader.feed(b": ping\n:pong\nretry: 20\nretry: x\n\n") == []
    assert (reader.comments, reader.retry_ms, reader.unfinished) == (["ping", "pong"], 20, False)
    assert reader.feed(b"data: a\n") == []
    assert reader.unfinished


@given(
    st.lists(st.sampled_from(["data", ": ", ":", "id", "好", "\r", "\n", "\r\n", "x", "\ufeff"])), st.data()
)
def test_it_does_not_matter_where_the_packets_end(pieces: list[str], data: st.DataObject) -> None:
    stream = "".join(pieces).encode()
    cut = data.draw(st.integers(0, len(stream)))
    apart = EventReader()
    assert apart.feed(stream[:cut]) + apart.feed(stream[cut:]) == EventReader().feed(stream)
