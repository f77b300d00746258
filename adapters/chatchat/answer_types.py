"""The forms of the answers of Chatchat's own routes, as /openapi.json tells them: what a client may rely on,
and nothing beside it.

Source: Langchain-Chatchat 0.2.10 and 0.3.1 (BaseResponse, the events of server/chat).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from adapters.openai.answer_types import ChatCompletion, ChatCompletionChunk, closed

MessageId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="The row's id, which feedback names.")]
Code = Annotated[int, Field(ge=400, le=599, description="The HTTP status.")]
Text = Annotated[str, Field(description="What went wrong, for people.")]


@closed
class ChatPiece(TypedDict):
    """More of an answer, or all of it."""

    text: str
    message_id: MessageId


@closed
class ChatFailure(TypedDict):
    """A failure after the first piece: the last event."""

    code: Literal[500]
    msg: Text
    text: Literal[""]
    message_id: MessageId


@closed
class ChatCompletionOf03(ChatCompletion):
    """OpenAI's chat completion with the fields of Chatchat 0.3."""

    message_id: MessageId
    status: None


@closed
class ChatCompletionChunkOf03(ChatCompletionChunk):
    """OpenAI's chunk with the fields of Chatchat 0.3."""

    message_id: MessageId
    status: None


@closed
class BaseResponse(TypedDict):
    """What became of a request, with HTTP status 200 in any case."""

    code: Annotated[int, Field(description="200 where all went well, else what the status would be.")]
    msg: str
    data: None


@closed
class InvalidField(TypedDict):
    """A field of a body that did not pass, as FastAPI tells it."""

    type: str
    loc: list[str | int]
    msg: str


@closed
class NativeError(TypedDict):
    """A refusal: BaseResponse beside FastAPI's detail."""

    code: Code
    msg: Text
    data: None
    detail: Annotated[str | list[InvalidField], Field(description="The fields, where a body did not pass.")]


@closed
class FufanError(NativeError):
    """A refusal under /api, where status and message are looked at."""

    status: Code
    message: Text


@closed
class FufanErrorEvent(FufanError):
    """A refusal of a chat under /api, as an event."""

    text: Text
    message_id: Literal[""]
