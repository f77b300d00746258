from __future__ import annotations

import pytest

from adapters.chat_format import ContentLogprob, ToolCallDelta, UnrenderablePrompt
from adapters.messages_format import MessagesFormat
from adapters.text_reader import SilentReader
from adapters.told_reader import ToldReader, told_in_place_of
from engine.base import Delta, Told, ToldCall, ToldLogprob


def test_text_calls_and_logprobs_are_given_on() -> None:
    reader = ToldReader()
    piece = reader.read(Delta("a", (), told=Told(logprobs=[ToldLogprob(b"a", -1.0, [(b"b", -2.0)])])))
    assert (piece.text, piece.logprobs) == ("a", [ContentLogprob(b"a", -1.0, [(b"b", -2.0)])])
    assert reader.end_reason("stop") == "stop"
    piece = reader.read(Delta("", (), told=Told([ToldCall(0, "f", ""), ToldCall(0, None, "{}")])))
    assert piece.tool_calls == [ToolCallDelta(0, "f", ""), ToolCallDelta(0, None, "{}")]
    assert reader.end_reason("stop") == "tool_calls"
    assert reader.end_reason("length") == "length"
    assert reader.end_reason("content_filter") == "content_filter"


def test_what_is_not_to_be_told_is_not_told() -> None:
    silent = SilentReader()
    assert told_in_place_of(silent) is silent


def test_ids_are_known_to_no_one() -> None:
    messages = MessagesFormat()
    assert list(messages.encode("a").token_ids) == []
    assert "whatever" in messages.template_variables
    for refused in (messages.plain_ids, messages.encode, messages.decode, messages.token_strings):
        with pytest.raises(UnrenderablePrompt):
            refused([1] if refused != messages.plain_ids else "a")  # type: ignore[arg-type]
