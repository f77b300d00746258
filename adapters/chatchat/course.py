"""The body and the answers of the plain wrapper around ChatGLM that courses teach, POST /chat/new/message/.

Its server hands ``prompt`` and ``history`` to the model's ``chat`` and answers with what comes back; api.py
of ChatGLM-6B (github.com/zai-org/ChatGLM-6B) does the same, with ``max_length``. A history has the form of
its model's: ChatGLM-6B's pairs of a question and its answer, or ChatGLM3's items with a role.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

from pydantic import Field, field_validator
from pydantic_core import to_json

from adapters.chatchat.native_body import NativeBody
from adapters.chatchat.parameters import MOST_ITEMS, Role
from adapters.openai.chat_request import ChatCompletionRequest

ROLES = get_args(Role)
TIME = "%Y-%m-%d %H:%M:%S"


class CourseRequest(NativeBody):
    """A question, and what was said before."""

    prompt: str = Field(description="The question.")
    history: list[Any] = Field(
        [],
        max_length=MOST_ITEMS,
        description="What was said before, up to 1000 messages: [question, answer], {role, content} or "
        "[role, content], with the roles system, user (or human) and assistant (or ai). Default: none.",
    )
    max_tokens: int | None = Field(
        None,
        description="Most tokens of the answer; 0 and below are as good as null. "
        "Default: the rest of the context.",
    )
    max_length: int | None = Field(None, description="The same as max_tokens, which wins over it.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Sampling temperature; 0 is greedy. Default: the model's, else 1."
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Nucleus sampling; 0 is as good as null. Default: the model's, else 1.",
    )

    @field_validator("history")
    @classmethod
    def _known_form(cls, value: list[Any]) -> list[Any]:
        if len(messages_of(value)) > MOST_ITEMS:
            raise ValueError(f"must have at most {MOST_ITEMS} messages")
        return value

    @property
    def as_openai(self) -> ChatCompletionRequest:
        """The same as a body of /v1/chat/completions."""
        return ChatCompletionRequest.model_validate(
            {
                "prompt": self.prompt,
                "history": [{"role": role, "content": text} for role, text in messages_of(self.history)],
                "max_tokens": self.max_tokens if self.max_tokens is not None else self.max_length,
                "temperature": self.temperature,
                "top_p": self.top_p or None,
            }
        )

    def history_with(self, response: str) -> list[Any]:
        """The history with this turn added, in the form that its last item has."""
        if self.history and isinstance(self.history[-1], list) and are_pairs(self.history):
            return [*self.history, [self.prompt, response]]
        roles = {role for role, _ in messages_of(self.history)}
        names = ("human", "ai") if roles & {"human", "ai"} else ("user", "assistant")
        turn = list(zip(names, (self.prompt, response), strict=True))
        if self.history and isinstance(self.history[-1], list):
            return [*self.history, *map(list, turn)]
        return [*self.history, *({"role": role, "content": text} for role, text in turn)]


def are_pairs(history: Sequence[Any]) -> bool:
    """Whether the lists in it are questions with their answers: one of them does not begin with a role."""
    return any(isinstance(item, list) and item[:1] and item[0] not in ROLES for item in history)


def messages_of(history: Sequence[Any]) -> list[tuple[str, str]]:
    """Role and text of each message. Raises ValueError, naming the item that is neither of the forms."""
    pairs = are_pairs(history)
    found: list[tuple[str, str]] = []
    for index, item in enumerate(history):
        match item:
            case [str(question), str(answer)] if pairs:
                found += [("user", question), ("assistant", answer)]
            case [str(role), str(text)] | {"role": str(role), "content": str(text)} if role in ROLES:
                found.append((role, text))
            case _:
                raise ValueError(
                    f"item {index} must be [question, answer], {{role, content}} or [role, content], "
                    f"with one of the roles {', '.join(ROLES)}"
                )
    return found


def answer(body: CourseRequest, response: str, now: datetime) -> bytes:
    """What POST /chat/new/message/ answers."""
    fields = {"response": response, "history": body.history_with(response)}
    return _json(fields | {"status": 200, "time": now.strftime(TIME)})


def listed(messages: Sequence[dict[str, Any]], now: datetime) -> bytes:
    """What GET /chat/get/messages/ answers; a message's create_time is a datetime."""
    shown = [one | {"create_time": one["create_time"].astimezone().strftime(TIME)} for one in messages]
    return _json({"messages": shown, "status": 200, "time": now.strftime(TIME)})


def _json(fields: dict[str, Any]) -> bytes:
    # What a client put into its history may be no number.
    return to_json(fields, inf_nan_mode="null")
