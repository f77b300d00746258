"""The forms of all answers, as /openapi.json tells them: what a client may rely on, and nothing beside it.

Source: OpenAI's published specification (CreateChatCompletionResponse, CreateChatCompletionStreamResponse,
CreateCompletionResponse, Model), and vLLM's server 0.32 for what its fields add. A field that is not
required is there only where it was asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import Field, with_config
from typing_extensions import TypedDict

closed = with_config(extra="forbid")

Count = Annotated[int, Field(ge=0)]
Logprob = Annotated[float, Field(le=0, description="Natural; -9999 stands for minus infinity.")]
Created = Annotated[int, Field(description="Unix time in seconds.")]
Fingerprint = Annotated[str, Field(description="Names the engine and its configuration.")]
PromptTokenIds = Annotated[list[Count], Field(description="Asked for with return_token_ids. (vLLM)")]
TokenIds = PromptTokenIds


@closed
class PromptTokensDetails(TypedDict):
    """What is known of the prompt's tokens."""

    cached_tokens: Annotated[Count, Field(description="Those that came from the prefix cache.")]


@closed
class Usage(TypedDict):
    """The engine's own counts, of all prompts and choices together."""

    prompt_tokens: Annotated[Count, Field(description="Each prompt counts once, whatever n is.")]
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


@closed
class PromptLogprob(TypedDict):
    """A token of the vocabulary at one place of the prompt. (vLLM)"""

    logprob: Logprob
    rank: Annotated[int, Field(ge=1, description="Among all tokens; 1 is the likeliest.")]
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, PromptLogprob] | None],
    Field(
        description="For each token of the prompt the likeliest ones and itself, by their ids; null for its "
        "first. Asked for with prompt_logprobs. (vLLM)"
    ),
]


@closed
class LikelyToken(TypedDict):
    """A token and how likely it was."""

    token: str
    logprob: Logprob
    bytes: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]],
        Field(description="The token's UTF-8; several tokens may be needed for one character."),
    ]


@closed
class ContentToken(LikelyToken):
    """A token of the content."""

    top_logprobs: Annotated[list[LikelyToken], Field(description="The likeliest ones at its place.")]


@closed
class ChatLogprobs(TypedDict):
    """Log-probabilities of the content's tokens."""

    content: list[ContentToken]
    refusal: None


@closed
class Function(TypedDict):
    """A called function."""

    name: str
    arguments: Annotated[str, Field(description="JSON text.")]


@closed
class ToolCall(TypedDict):
    """A call of a tool."""

    id: Annotated[str, Field(description="What the tool's message refers to.")]
    type: Literal["function"]
    function: Function


@closed
class AssistantMessage(TypedDict):
    """The answer's message."""

    role: Literal["assistant"]
    content: Annotated[str | None, Field(description="Null where there is nothing but calls.")]
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[
        Annotated[Function, Field(description="Instead of tool_calls where functions were offered.")]
    ]


ChatFinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


@closed
class ChatChoice(TypedDict):
    """One of n answers."""

    index: Count
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    token_ids: NotRequired[TokenIds]


@closed
class ChatCompletion(TypedDict):
    """A chat answer in one piece."""

    id: str
    object: Literal["chat.completion"]
    created: Created
    model: str
    service_tier: NotRequired[Literal["default"]]
    system_fingerprint: Fingerprint
    choices: list[ChatChoice]
    usage: NotRequired[
        Annotated[Usage, Field(description="Left out where who answered in the engine's place tells none.")]
    ]
    prompt_logprobs: NotRequired[PromptLogprobs]
    prompt_token_ids: NotRequired[PromptTokenIds]


@closed
class FunctionDelta(TypedDict):
    """More of a called function; the name comes with its first piece only."""

    name: NotRequired[str]
    arguments: Annotated[str, Field(description="More JSON text.")]


@closed
class ToolCallDelta(TypedDict):
    """More of the call with this index; id and type come with its first piece only."""

    index: Count
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


@closed
class MessageDelta(TypedDict):
    """What is new of a choice's message; the role comes with its first piece only."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]
    function_call: NotRequired[FunctionDelta]


@closed
class ChatChunkChoice(TypedDict):
    """What is new of one choice."""

    index: Count
    delta: MessageDelta
    logprobs: NotRequired[ChatLogprobs]
    finish_reason: Annotated[ChatFinishReason | None, Field(description="Null until the choice has ended.")]
    token_ids: NotRequired[TokenIds]


ChunkUsage = Annotated[
    Usage | None,
    Field(
        description="With stream_options.include_usage: null, and the usage in the last chunk, which has no "
        "choices; with continuous_usage_stats that so far in each."
    ),
]


@closed
class ChatCompletionChunk(TypedDict):
    """One event of a streamed chat answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: Created
    model: str
    service_tier: NotRequired[Literal["default"]]
    system_fingerprint: Fingerprint
    choices: list[ChatChunkChoice]
    usage: NotRequired[ChunkUsage]
    prompt_token_ids: NotRequired[PromptTokenIds]


@closed
class CompletionLogprobs(TypedDict):
    """Log-probabilities of a text's tokens: four lists of one length."""

    tokens: list[str]
    token_logprobs: Annotated[
        list[Logprob | None], Field(description="Null for the first token of an echoed prompt.")
    ]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: Annotated[list[Count], Field(description="Characters from the text's beginning.")]


@closed
class CompletionChoice(TypedDict):
    """One of n answers to one of the prompts: those of the first prompt come first."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]
    prompt_logprobs: NotRequired[PromptLogprobs]
    prompt_token_ids: NotRequired[PromptTokenIds]
    token_ids: NotRequired[TokenIds]


@closed
class Completion(TypedDict):
    """A completion in one piece."""

    id: str
    object: Literal["text_completion"]
    created: Created
    model: str
    system_fingerprint: Fingerprint
    choices: list[CompletionChoice]
    usage: NotRequired[
        Annotated[Usage, Field(description="Left out where who answered in the engine's place tells none.")]
    ]


@closed
class CompletionChunkChoice(TypedDict):
    """What is new of one choice."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Annotated[
        Literal["stop", "length"] | None, Field(description="Null until the choice has ended.")
    ]
    prompt_token_ids: NotRequired[PromptTokenIds]
    token_ids: NotRequired[TokenIds]


@closed
class CompletionChunk(TypedDict):
    """One event of a streamed completion."""

    id: str
    object: Literal["text_completion"]
    created: Created
    model: str
    system_fingerprint: Fingerprint
    choices: list[CompletionChunkChoice]
    usage: NotRequired[ChunkUsage]


@closed
class Model(TypedDict):
    """A served model."""

    id: str
    object: Literal["model"]
    created: Created
    owned_by: str
    root: Annotated[str, Field(description="The model itself, as it is no adapter. (vLLM)")]
    parent: Annotated[None, Field(description="What it is an adapter of. (vLLM)")]
    engine: str
    max_model_len: Annotated[Count, Field(description="The context in tokens, prompt and answer together.")]
    sampling_defaults: Annotated[
        dict[str, float], Field(description="What is taken for fields that a request leaves out.")
    ]


@closed
class ModelList(TypedDict):
    """The served models."""

    object: Literal["list"]
    data: list[Model]


@closed
class Tokens(TypedDict):
    """The tokens of a text or a conversation. (vLLM)"""

    count: Count
    max_model_len: Count
    tokens: list[Count]
    token_strs: Annotated[list[str] | None, Field(description="Asked for with return_token_strs.")]


@closed
class DetokenizedText(TypedDict):
    """The text of ids. (vLLM)"""

    prompt: str


@closed
class FeedbackObject(TypedDict):
    """What was said of an answer, as it is stored. (This gateway's own)"""

    object: Literal["feedback"]
    id: str
    message_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    score: Annotated[int, Field(ge=0, le=100, description="Higher is better.")]
    reason: str
    correction: str | None
    created: Created
