from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import Conversation
from adapters.code_points import CodePointFormat
from engine.base import ChatMessage
from tests.strategies import texts


@given(st.lists(texts))
def test_the_prompt_is_all_messages_texts_one_token_per_code_point(contents: list[str]) -> None:
    prompt = CodePointFormat().render(Conversation([ChatMessage("user", content) for content in contents]))
    assert "".join(map(chr, prompt.token_ids)) == "".join(contents)
    assert prompt.stop_token_ids == ()


@given(texts)
def test_a_text_to_continue_is_its_code_points(text: str) -> None:
    assert "".join(map(chr, CodePointFormat().encode(text).token_ids)) == text
