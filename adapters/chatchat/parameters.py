"""Langchain-Chatchat's parameters of a chat, on whatever route they come, and what they mean.

Source: server/chat/chat.py, server/chat/utils.py and server/memory of Langchain-Chatchat 0.2.8 to 0.2.10
(github.com/chatchat-space/Langchain-Chatchat). What a history is taken from, first match first::

    history, a list that is not empty              its items, as they are
    conversation_id, and history_len above 0       the last turns that are stored, so many
    otherwise                                      nothing

A history becomes turns of the conversation. Chatchat wrote a stored one into the text of one message; here
that is done only where the chat's template has a place for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator

from adapters.field_origin import chatchat
from adapters.prompt_templates import (
    COMPLETION,
    DEFAULT,
    HISTORY,
    INPUT,
    LLM_CHAT,
    WITH_HISTORY,
    PromptTemplates,
    UnfitTemplate,
)
from engine.base import ChatMessage

MOST_ITEMS = 1000
MOST_ID_CHARACTERS = 255
INT64 = 2**63

INSTRUCTIONS = ("system", "developer")

# As LangChain's get_buffer_string names them; other roles are named as they are.
SPEAKERS = {"user": "Human", "assistant": "AI", "developer": "System"}

Role = Literal["system", "user", "assistant", "human", "ai"]
ROLES = {"human": "user", "ai": "assistant"}


class HistoryItem(BaseModel):
    """One message of a history."""

    model_config = ConfigDict(strict=True)

    role: Role = Field(description="human means user, ai means assistant.")
    content: str

    @property
    def message(self) -> ChatMessage:
        """For the model."""
        return ChatMessage(ROLES.get(self.role, self.role), self.content)


def _as_object(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"role": value[0], "content": value[1]}
    if not isinstance(value, dict | HistoryItem):
        raise ValueError("must be {role, content} or [role, content]")
    return value


def _kind(value: object) -> str | None:
    if isinstance(value, list):
        return "list"
    return "int" if isinstance(value, int) and not isinstance(value, bool) else None


Turns = Annotated[int, Field(ge=-INT64, lt=INT64)]
Item = Annotated[
    HistoryItem, BeforeValidator(_as_object, json_schema_input_type=HistoryItem | tuple[Role, str])
]
Items = Annotated[list[Item], Field(max_length=MOST_ITEMS)]
History = Annotated[
    Annotated[Turns, Tag("int")] | Annotated[Items, Tag("list")],
    Discriminator(
        _kind,
        custom_error_type="history",
        custom_error_message="must be an integer or a list of {role, content}",
    ),
]


class ChatchatFields(BaseModel):
    """What Chatchat's clients send beside the rest; null is as good as absent."""

    model_config = ConfigDict(strict=True)

    history: History | None = chatchat(
        "What was said before, as a list of up to 1000 {role, content} or "
        "[role, content], with the roles system, user (or human) and assistant (or ai). It stands after the "
        "leading system messages; in a completion it is put into the prompt by its template. An integer N "
        "above 0 means history_len N, and wins over it. Default: none.",
    )
    history_len: Turns | None = chatchat(
        "How many of the last stored turns (a question and its whole answer, of the same route) of "
        "conversation_id come before, up to 1000; 0 and below: none. Where they do not leave room for the "
        "answer the oldest are left out. Not used with a list as history. Default: -1.",
    )
    conversation_id: str | None = chatchat(
        "The conversation that this request belongs to, up to 255 characters; an empty one is none. "
        "Default: none.",
        max_length=MOST_ID_CHARACTERS,
    )
    prompt_name: str | None = chatchat(
        "The prompt template that the last user message (of the type llm_chat), or "
        "the prompt (completion), is put into. Default: 'default'.",
    )

    @field_validator("conversation_id")
    @classmethod
    def _none_where_empty(cls, value: str | None) -> str | None:
        return value or None

    @property
    def template_name(self) -> str:
        """What ``prompt_name`` names."""
        return DEFAULT if self.prompt_name is None else self.prompt_name

    @property
    def past(self) -> tuple[ChatMessage, ...]:
        """The messages of a history that is a list."""
        return tuple(item.message for item in self.history) if isinstance(self.history, list) else ()

    @property
    def stored_turns(self) -> int:
        """How many stored turns of ``conversation_id`` are asked for."""
        if self.conversation_id is None or (isinstance(self.history, list) and self.history):
            return 0
        of_history = self.history if isinstance(self.history, int) else 0
        return max(of_history if of_history > 0 else self.history_len or 0, 0)

    @property
    def turns_field(self) -> str:
        """The field that ``stored_turns`` come from."""
        return "history" if isinstance(self.history, int) and self.history > 0 else "history_len"


def transcript(messages: Sequence[ChatMessage]) -> str:
    """``Human: …`` and ``AI: …``, one below the other, as LangChain's get_buffer_string writes them."""
    return "\n".join(
        f"{SPEAKERS.get(message.role, message.role.capitalize())}: {message.content}" for message in messages
    )


def with_history(messages: Sequence[ChatMessage], past: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """``past`` after the leading instructions of ``messages`` and before the rest."""
    start = instructions(messages)
    return (*messages[:start], *past, *messages[start:])


def with_template(
    messages: Sequence[ChatMessage], templates: PromptTemplates, name: str
) -> tuple[ChatMessage, ...]:
    """The last user message put into the template ``name`` of the type llm_chat; nothing else changes.

    Only where the template has a place for the history, what stands between the leading instructions and
    that message is moved into it as text. Raises TemplateRefused.
    """
    takes_history = HISTORY in templates.variables(LLM_CHAT, name)
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None:
        if name != DEFAULT:
            raise UnfitTemplate(f"The prompt template '{name}' is for a user message, and there is none.")
        return tuple(messages)
    start = instructions(messages) if takes_history else last
    moved = messages[start:last]
    if any(message.tool_calls for message in moved):
        raise UnfitTemplate(f"The prompt template '{name}' has the history as text, without tool calls.")
    values = {INPUT: messages[last].content, HISTORY: transcript(moved)}
    message = replace(messages[last], content=templates.render(LLM_CHAT, name, values))
    return (*messages[:start], message, *messages[last + 1 :])


def completion_prompt(text: str, templates: PromptTemplates, name: str, history_text: str) -> str:
    """The prompt of a completion: ``text`` put into the template ``name`` of the type completion.

    Where there is a history it is ``history_template`` of that name. Raises TemplateRefused.
    """
    if history_text:
        name = history_template(templates, name)
    return templates.render(COMPLETION, name, {INPUT: text, HISTORY: history_text})


def history_template(templates: PromptTemplates, name: str) -> str:
    """The template of the type completion that a history is put into where ``name`` is asked for: where
    ``default`` has no place for it, ``with_history`` stands in for it.

    Raises TemplateRefused: another template without that place is refused.
    """
    if HISTORY in templates.variables(COMPLETION, name):
        return name
    if name != DEFAULT:
        raise UnfitTemplate(f"The prompt template '{name}' has no place for the history.")
    return WITH_HISTORY


def instructions(messages: Sequence[ChatMessage]) -> int:
    """How many system and developer messages stand at the beginning."""
    return len(list(takewhile(lambda message: message.role in INSTRUCTIONS, messages)))
