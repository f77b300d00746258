"""The forms of the answers of fufan's routes, as /openapi.json tells them.

Source: fufan-chat-api and its front end; ``has_more`` and a message's ``status`` are this gateway's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from adapters.chatchat.answer_types import MessageId
from adapters.openai.answer_types import closed

UserId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Time = Annotated[str, Field(description="ISO 8601, with milliseconds and the offset from UTC.")]
Ok = Literal[200]
HasMore = Annotated[bool, Field(description="Whether there are more; `before` asks for them.")]


@closed
class Registered(TypedDict):
    """A new user."""

    status: Ok
    id: UserId
    username: str


@closed
class LoggedIn(Registered):
    """A user who has logged in."""

    message: Literal["Login successful"]


@closed
class LoginRefused(TypedDict):
    """The same for a wrong password and for a name that is not known."""

    status: Literal[401]
    message: str


@closed
class Done(TypedDict):
    """What was asked for is done."""

    status: Ok
    message: str


@closed
class NewConversationId(TypedDict):
    """A new conversation."""

    status: Ok
    id: str


@closed
class ListedConversation(TypedDict):
    """One of a user's conversations."""

    id: str
    name: str
    chat_type: str
    create_time: Time


@closed
class ListedConversations(TypedDict):
    """A user's conversations, newest first."""

    status: Ok
    msg: Literal["success"]
    data: list[ListedConversation]
    has_more: HasMore


@closed
class ListedMessage(TypedDict):
    """One question of a conversation and what came of it."""

    id: MessageId
    conversation_id: str
    chat_type: str
    query: str
    response: str
    meta_data: dict[str, Any]
    status: Annotated[str, Field(description="running, completed or how else it ended.")]
    create_time: Time


@closed
class ListedMessages(TypedDict):
    """A conversation's messages, oldest first."""

    status: Ok
    msg: Literal["success"]
    data: list[ListedMessage]
    has_more: HasMore


@closed
class Names(TypedDict):
    """The running models."""

    models: list[str]


@closed
class ModelNames(TypedDict):
    """The running models' names."""

    status: Ok
    msg: Literal["success"]
    data: Names
