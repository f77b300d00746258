"""The messages of OpenAI's chat completions.

Source: OpenAI's published specification (ChatCompletionRequestMessage).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from adapters.openai.tools import FunctionName
from engine.base import ChatMessage, ToolCall

# Only a function's message is told apart by its name.
ROLES_WITH_NAME = ("tool", "function")
ROLES_WITH_CONTENT = ("system", "developer", "user", "tool", "function")


class TextPart(BaseModel):
    """A piece of a message's text."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(strict=True)

    name: FunctionName
    arguments: str = Field("", description="JSON text.")


class MessageToolCall(BaseModel):
    """A tool call in an assistant's message."""

    model_config = ConfigDict(strict=True)

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = Field(
        None,
        validate_default=True,
        description="Text, or a list of text parts; null only where the role is assistant.",
    )
    name: str | None = Field(None, description="With the role function: the function that was called.")
    tool_calls: Annotated[list[MessageToolCall], Field(fail_fast=True)] | None = Field(
        None, description="With the role assistant."
    )
    function_call: CalledFunction | None = Field(None, description="The older form of tool_calls.")
    tool_call_id: str | None = Field(None, description="With the role tool: the call that this answers.")

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        for part in value if isinstance(value, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise ValueError(
                    f"content parts of type '{kind}' are not supported by this model, only 'text'"
                )
        return value

    @field_validator("content")
    @classmethod
    def _has_content(cls, value: str | list[TextPart] | None, info: ValidationInfo) -> object:
        if value is None and info.data.get("role") in ROLES_WITH_CONTENT:
            raise ValueError(f"required for the role '{info.data['role']}'")
        return value

    @field_validator("tool_calls", "function_call")
    @classmethod
    def _of_assistant(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("role") != "assistant":
            raise ValueError("only allowed where the role is 'assistant'")
        return value

    @property
    def text(self) -> str:
        """The content as one string; parts are joined by a newline, as vLLM's server joins them."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def ignored_fields(self) -> Iterator[str]:
        """Fields that were sent and change nothing here."""
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                yield name
        if self.name is not None and self.role not in ROLES_WITH_NAME:
            yield "name"

    def stored_fields(self) -> dict[str, Any]:
        """What was given of the fields that are known, for the row."""
        return self.model_dump(include=set(Message.model_fields), exclude_none=True)

    @property
    def as_turn(self) -> ChatMessage:
        """For the model."""
        calls = [ToolCall(one.function.name, one.function.arguments, one.id) for one in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append(ToolCall(self.function_call.name, self.function_call.arguments))
        return ChatMessage(self.role, self.text, tuple(calls), self.tool_call_id, self.name)
