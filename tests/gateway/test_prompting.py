from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, UnrenderablePrompt
from adapters.code_points import CodePointFormat, new_reader
from adapters.openai.completion_request import CompletionRequest
from engine.base import ChatMessage, ModelCard, Tool
from gateway.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from gateway.prompt_templates import read_templates
from gateway.prompting import (
    THREAD_CHARACTERS,
    as_sent,
    bracketed,
    check_model,
    completion_prompt,
    conversation_prompt,
    name_question,
    rendered,
    token_budget,
)

CARD = ModelCard("m", "simulated", max_model_len=100, chat_format="code_points")


@given(st.integers(0, 99), st.none() | st.integers(1, 10**30))
def test_an_answer_has_what_was_asked_for_or_the_rest_of_the_context(
    prompt_tokens: int, asked: int | None
) -> None:
    budget = token_budget([0] * prompt_tokens, asked, CARD, "messages")
    assert 1 <= budget <= 100 - prompt_tokens
    assert budget in (asked, 100 - prompt_tokens)
    assert asked is None or budget <= asked


@given(st.integers(100, 10**4), st.none() | st.integers(1, 10))
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(
    prompt_tokens: int, asked: int | None
) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"{prompt_tokens} tokens.* 100 tokens") as refused:
        token_budget([0] * prompt_tokens, asked, CARD, "messages")
    assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")


def test_the_served_model_may_be_named_or_left_out() -> None:
    check_model("m", CARD)
    check_model(None, CARD)


@pytest.mark.parametrize("name", ["", "M", "gpt-4", "m" * 10_000])
def test_another_model_is_not_found_and_the_served_one_is_named(name: str) -> None:
    with pytest.raises(ModelNotFound, match="'m' is") as refused:
        check_model(name, CARD)
    assert refused.value.param == "model"
    assert len(refused.value.message) < 200


class ThreadFormat(CodePointFormat):
    """Its prompts say which thread made them."""

    def render(self, conversation: Conversation) -> Prompt:
        return Prompt([threading.get_ident()], new_reader)

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        return Prompt([threading.get_ident()], new_reader)


TOOL = Tool("f", {"name": "f"})


@pytest.mark.parametrize(
    ("characters", "tools", "same"),
    [(0, (), True), (THREAD_CHARACTERS + 1, (), False), (0, (TOOL,), False)],
)
async def test_what_takes_long_is_rendered_off_the_event_loop(
    characters: int, tools: tuple[Tool, ...], same: bool
) -> None:
    conversation = Conversation([ChatMessage("user", "x" * characters)], tools)
    prompt = await conversation_prompt(ThreadFormat(), conversation)
    assert (prompt.token_ids == [threading.get_ident()]) == same


@pytest.mark.parametrize(
    ("prompts", "same"),
    [
        (["x"], True),
        ([[120] * 5], True),
        (["x" * (THREAD_CHARACTERS + 1)], False),
        (["x" * 100] * 100, False),
        ([[120] * 100] * 100, False),
    ],
)
@pytest.mark.parametrize("add_special_tokens", [True, False])
async def test_many_short_prompts_are_as_long_as_one(
    prompts: list[str | list[int]], same: bool, add_special_tokens: bool
) -> None:
    body = CompletionRequest.model_validate({"prompt": prompts, "add_special_tokens": add_special_tokens})
    made = await completion_prompt(ThreadFormat(), CARD, body, read_templates(None), prompts[0])
    assert (made.prompt.token_ids == [threading.get_ident()]) == same
    assert made.text == "x" * len(prompts[0])


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("named", "param"), [(None, "messages"), ("tools", "tools")])
async def test_a_prompt_that_has_no_place_is_the_clients_fault(
    heavy: bool, named: str | None, param: str
) -> None:
    def refuse() -> Prompt:
        raise UnrenderablePrompt("roles must alternate", named)

    with pytest.raises(InvalidRequest, match="roles must alternate") as refused:
        await rendered(refuse, heavy=heavy, param="messages")
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("field", "param", "named"),
    [
        ("prompt", "messages.0.content", "prompt"),
        ("query", "messages", "query"),
        ("messages", "messages.0.content", "messages.0.content"),
        ("prompt", "history.0.content", "history.0.content"),
        ("prompt", None, None),
    ],
)
def test_a_question_is_named_by_its_field(field: str, param: str | None, named: str | None) -> None:
    error = InvalidRequest(f"Invalid '{bracketed(param or 'prompt_name')}'.", param)
    name_question(error, field)
    assert error.param == named
    assert error.message == f"Invalid '{bracketed(named or 'prompt_name')}'."


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages.0.content", "messages.0.content"),
        ("messages.1", "history.0"),
        ("messages.2.content", "history.1.content"),
        ("messages.3.tool_calls", "messages.1.tool_calls"),
        ("tools", "tools"),
        (None, None),
    ],
)
def test_a_message_is_named_by_its_place_in_what_the_client_sent(
    param: str | None, expected: str | None
) -> None:
    assert as_sent(param, 1, 2) == expected
    assert as_sent(param, 1, 0) == param
    of_history = expected is not None and expected.startswith("history")
    assert as_sent(param, 1, 2, "history_len") == ("history_len" if of_history else expected)
