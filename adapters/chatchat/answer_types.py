"""The forms of the answers of Chatchat's own routes, as /openapi.json tells them: what a client may rely on,
and nothing beside it.

Source: Langchain-Chatchat 0.2.10 and 0.3.1 (BaseResponse, the events of server/chat).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from adapters.openai.answer_types import ChatCompletion, ChatCompletionChunk, closed

MessageId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="The row's id, which feedback names.")]
Code = Annotated[int, Field(ge=400, le=599, description="The HTTP status.")]
Time = Annotated[str, Field(description="YYYY-MM-DD HH:MM:SS, as the gateway's clock shows it.")]
Score = Annotated[int, Field(ge=-1, le=100, description="-1: none yet.")]
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
    """A refusal under /api and of the plain wrapper, whose clients look at status and message."""

    status: Code
    message: Text


@closed
class FufanErrorEvent(FufanError):
    """A refusal of a chat under /api, as an event."""

    text: Text
    message_id: Literal[""]


@closed
class CourseAnswer(TypedDict):
    """An answer of the plain wrapper."""

    response: str
    history: Annotated[list[Any], Field(description="With this turn added, in the form it came in.")]
    status: Literal[200]
    time: Time


@closed
class LatestMessage(TypedDict):
    """One of a caller's messages."""

    id: MessageId
    query: str
    response: str
    create_time: Time
    conversation_id: str | None
    feedback_score: Score
    status: Annotated[str, Field(description="running, completed or how else it ended.")]


@closed
class LatestMessages(TypedDict):
    """A caller's latest messages, newest first."""

    messages: list[LatestMessage]
    status: Literal[200]
    time: Time


@closed
class ModelConfig(TypedDict):
    """What an interface may know of a model."""

    online_api: Literal[False]
    model_path_exists: Literal[True]
    engine: str
    max_model_len: int
    sampling_defaults: dict[str, float]


@closed
class RunningModels(TypedDict):
    """The running models, by name."""

    code: Literal[200]
    msg: str
    data: dict[str, ModelConfig]


@closed
class ConfiguredModels(TypedDict):
    """The models by kind and name."""

    code: Literal[200]
    msg: str
    data: dict[str, dict[str, ModelConfig]]


@closed
class NamedModelConfig(TypedDict):
    """A model's settings; none and a code of 404 where it is not served."""

    code: Literal[200, 404]
    msg: str
    data: ModelConfig | Annotated[dict[str, Any], Field(max_length=0)]


@closed
class SearchEngines(TypedDict):
    """There are none."""

    code: Literal[200]
    msg: str
    data: Annotated[list[str], Field(max_length=0)]


@closed
class NotHere(TypedDict):
    """Something that a gateway for one model does not do."""

    code: Literal[500]
    msg: Text
    data: None


@closed
class ServerConfigs(TypedDict):
    """What an interface reads of the settings."""

    LLM_MODELS: list[str]
    HISTORY_LEN: int
    TEMPERATURE: float
    MAX_TOKENS: int | None
    PROMPT_TEMPLATES: dict[str, dict[str, str]]
    max_model_len: int
    api_address: str
    openai_api_address: str
