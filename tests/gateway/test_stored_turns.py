from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.chat_format import Conversation, Prompt, UnrenderablePrompt
from adapters.code_points import CodePointFormat
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from engine.base import ModelCard
from engine.ladder import Ladder
from engine.simulated import SimulatedEngine
from gateway.access.caller import ANONYMOUS, Caller
from gateway.errors import ContextLengthExceeded, InvalidRequest, Unavailable
from gateway.lifecycle import Lifecycle
from gateway.prompt_templates import read_templates
from gateway.prompting import chat_prompt, completion_prompt, token_budget
from gateway.settings import load
from gateway.stored_turns import ANSWER_SHARE, ANSWER_TOKENS, stored_turns
from persistence.conversations import Turn
from persistence.database import DatabaseUnavailable

CARD = ModelCard("m", "simulated", max_model_len=100, chat_format="code_points")
SHIPPED = read_templates(None)
FIELDS = {"conversation_id": "c", "history_len": 5}

TURNS = [Turn("1", "one"), Turn("2", "two"), Turn("3", "three")]

turn_lists = st.lists(st.builds(Turn, st.text(max_size=20), st.text(min_size=1, max_size=20)), max_size=40)


class Counting(CodePointFormat):
    """Knows how many prompts it has made."""

    def __init__(self) -> None:
        self.made = 0

    def render(self, conversation: Conversation) -> Prompt:
        self.made += 1
        return super().render(conversation)


def chat_body(text: str = "Q", **fields: Any) -> ChatCompletionRequest:
    asked = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": text}]}
    return ChatCompletionRequest.model_validate(asked | FIELDS | fields)


def completion_body(text: str = "Q", **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": text} | FIELDS | fields)


def texts_of(turns: Sequence[Turn]) -> list[str]:
    return [text for turn in turns for text in (turn.query, turn.response)]


async def test_turns_are_messages_after_the_instructions_and_before_the_rest() -> None:
    made = await chat_prompt(CodePointFormat(), CARD, chat_body(), SHIPPED, TURNS)
    assert [(message.role, message.content) for message in made.messages] == [
        ("system", "S"),
        ("user", "1"),
        ("assistant", "one"),
        ("user", "2"),
        ("assistant", "two"),
        ("user", "3"),
        ("assistant", "three"),
        ("user", "Q"),
    ]
    assert made.turns == 3


async def test_turns_are_text_of_a_completions_prompt() -> None:
    made = await completion_prompt(CodePointFormat(), CARD, completion_body(), SHIPPED, "Q", TURNS[:2])
    assert made.text == "Human: 1\nAI: one\nHuman: 2\nAI: two\nHuman: Q\nAI:"
    assert (CodePointFormat().decode(made.prompt.token_ids), made.turns) == (made.text, 2)


@given(turn_lists, st.integers(0, 300), st.none() | st.integers(1, 400), st.integers(1, 400))
async def test_the_most_turns_are_put_before_that_leave_room_for_the_answer(
    turns: list[Turn], characters: int, limit: int | None, context: int
) -> None:
    card, chat_format = replace(CARD, max_model_len=context), Counting()
    body = chat_body("Q" * characters, max_tokens=limit)
    made = await chat_prompt(chat_format, card, body, SHIPPED, turns)

    def left(count: int) -> int:
        """What is left of the context by the last ``count`` turns."""
        texts = texts_of(turns[len(turns) - count :])
        return context - len("S") - characters - sum(map(len, texts))

    room = min(context // ANSWER_SHARE, ANSWER_TOKENS)
    if limit is not None and (limit < room or limit <= left(0)):
        room = limit
    most = max((count for count in range(len(turns) + 1) if left(count) >= room), default=0)
    assert made.turns == most
    assert len(made.prompt.token_ids) == context - left(most)
    contents = [message.content for message in made.messages]
    assert contents == ["S", *texts_of(turns[len(turns) - most :]), "Q" * characters]
    assert chat_format.made <= 3 + math.ceil(math.log2(len(turns) + 1))


@given(turn_lists, st.integers(0, 100), st.integers(1, 100))
async def test_a_completions_turns_are_budgeted_too(turns: list[Turn], characters: int, limit: int) -> None:
    body = completion_body("Q" * characters, max_tokens=limit)
    made = await completion_prompt(CodePointFormat(), CARD, body, SHIPPED, body.prompts[0], turns)

    def text(count: int) -> str:
        """The prompt with the last ``count`` turns."""
        past = [f"Human: {turn.query}\nAI: {turn.response}\n" for turn in turns[len(turns) - count :]]
        return f"{''.join(past)}Human: {'Q' * characters}\nAI:" if past else "Q" * characters

    room = limit if limit <= max(25, 100 - characters) else 25
    most = max((count for count in range(len(turns) + 1) if len(text(count)) + room <= 100), default=0)
    assert (made.turns, made.text) == (most, text(most))


async def test_turns_that_fit_are_rendered_once() -> None:
    chat_format = Counting()
    await chat_prompt(chat_format, CARD, chat_body(), SHIPPED, TURNS)
    assert chat_format.made == 1


async def test_what_the_client_sent_itself_is_never_dropped() -> None:
    history = [["user", "h" * 50], ["assistant", "h" * 40]]
    made = await chat_prompt(CodePointFormat(), CARD, chat_body(history=history), SHIPPED, [])
    assert (len(made.messages), made.turns) == (4, 0)
    made = await chat_prompt(CodePointFormat(), CARD, chat_body("Q" * 150), SHIPPED, TURNS)
    assert (len(made.messages), made.turns) == (2, 0)
    with pytest.raises(ContextLengthExceeded):
        token_budget(made.prompt.token_ids, None, CARD, "messages")


async def test_a_template_takes_the_turns_as_text() -> None:
    body = chat_body(prompt_name="with_history")
    made = await chat_prompt(CodePointFormat(), replace(CARD, max_model_len=1000), body, SHIPPED, TURNS[1:])
    assert [message.role for message in made.messages] == ["system", "user"]
    assert "Human: 2\nAI: two\nHuman: 3\nAI: three" in made.messages[1].content
    assert made.turns == 2


class Refusing(CodePointFormat):
    """Refuses one message, as ChatGLM3's format does."""

    def __init__(self, place: int) -> None:
        self._place = place

    def render(self, conversation: Conversation) -> Prompt:
        raise UnrenderablePrompt(f"Invalid 'messages[{self._place}]': no.", f"messages.{self._place}")


@pytest.mark.parametrize(
    ("place", "param", "named"),
    [
        (0, "messages.0", "messages[0]"),
        (1, "history_len", "history_len"),
        (6, "history_len", "history_len"),
        (7, "messages.1", "messages[1]"),
    ],
)
async def test_a_refused_message_is_named_by_its_place_in_what_the_client_sent(
    place: int, param: str, named: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await chat_prompt(Refusing(place), CARD, chat_body(), SHIPPED, TURNS)
    assert (refused.value.param, refused.value.message) == (param, f"Invalid '{named}': no.")


async def test_an_item_of_a_list_is_named_in_the_text_too() -> None:
    body = chat_body(history=[["user", "x"], ["user", "y"]])
    with pytest.raises(InvalidRequest) as refused:
        await chat_prompt(Refusing(2), CARD, body, SHIPPED)
    assert (refused.value.param, refused.value.message) == ("history.1", "Invalid 'history[1]': no.")


async def test_a_template_without_a_place_is_refused_before_there_are_turns() -> None:
    templates = type(SHIPPED).from_yaml('completion: {plain: "# {input}"}')
    with pytest.raises(InvalidRequest, match="no place for the history") as refused:
        body = completion_body(prompt_name="plain")
        await completion_prompt(CodePointFormat(), CARD, body, templates, "Q", [])
    assert refused.value.param == "prompt_name"
    with pytest.raises(InvalidRequest, match="token ids takes no history"):
        await completion_prompt(CodePointFormat(), CARD, completion_body(), SHIPPED, [65], [])


def lifecycle(tmp_path: Path, **settings: Any) -> Lifecycle:
    return Lifecycle(load({"engine": "simulated", "data_dir": tmp_path} | settings))


@pytest.mark.parametrize(
    "fields", [{"history_len": 0}, {"conversation_id": ""}, {"history": [["user", "x"]]}], ids=str
)
async def test_a_request_that_asks_for_no_turns_needs_no_database(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    assert await stored_turns(lifecycle(tmp_path), ANONYMOUS, chat_body(**fields), "llm_chat") == []


@pytest.mark.parametrize(("fields", "param"), [({}, "history_len"), ({"history": 3}, "history")])
async def test_where_no_text_is_stored_turns_are_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest, match="stores no text") as refused:
        await stored_turns(
            lifecycle(tmp_path, store_content="none"), ANONYMOUS, chat_body(**fields), "llm_chat"
        )
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize("caught_up", [True, False])
@pytest.mark.parametrize(("fields", "param"), [({}, "history_len"), ({"history": 3}, "history")])
async def test_turns_that_can_not_be_read_now_are_a_503_that_names_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caught_up: bool, fields: dict[str, Any], param: str
) -> None:
    house = lifecycle(tmp_path)
    house._engine = Ladder(SimulatedEngine(), [])

    async def answer(timeout_seconds: float) -> bool:
        assert timeout_seconds == house.settings.database_timeout_seconds
        return caught_up

    async def gone(*given: object, **named: object) -> list[Turn]:
        assert caught_up
        raise DatabaseUnavailable("PostgreSQL: gone")

    monkeypatch.setattr(house.recorder, "caught_up", answer)
    monkeypatch.setattr("gateway.stored_turns.last_turns", gone)
    with pytest.raises(Unavailable) as refused:
        await stored_turns(house, ANONYMOUS, chat_body(**fields), "llm_chat")
    error = refused.value
    assert (error.status, error.param, error.code) == (503, param, "database_unavailable")
    assert int(error.headers["retry-after"]) > 0
    # The client is told less than the operator.
    assert "gone" not in error.message


@pytest.mark.parametrize("authentication", [True, False])
async def test_with_authentication_the_turns_are_the_callers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authentication: bool
) -> None:
    house = lifecycle(tmp_path, authentication=authentication)
    house._engine = Ladder(SimulatedEngine(), [])
    asked: list[object] = []

    async def caught_up(timeout_seconds: float) -> bool:
        return True

    async def turns(*given: object, owner: object, **named: object) -> list[Turn]:
        asked.append(owner)
        return TURNS

    monkeypatch.setattr(house.recorder, "caught_up", caught_up)
    monkeypatch.setattr("gateway.stored_turns.last_turns", turns)
    user = uuid4()
    assert await stored_turns(house, Caller(user), chat_body(), "llm_chat") == TURNS
    assert asked == [user if authentication else None]
