"""The vocabulary of the house: what is asked of an engine, and what comes back.

An engine turns prompt ids into output tokens. It knows nothing of HTTP, of a client's dialect or of
the database. Implementing one takes four methods::

    class Echo:
        card = ModelCard(name="echo", engine="echo", max_model_len=4096, chat_format="code_points")
        tokenizer = None

        async def start(self) -> None: ...

        async def submit(self, request: GenerationRequest) -> DeltaStream:
            return EchoStream(request)

        async def check(self) -> None: ...

        async def shutdown(self) -> None: ...

Exceptions::

    EngineError
     |- RequestRefused      this request can't be run as asked (the caller's fault)
     |- EngineOverloaded    not now: the engine's own queue is full
     |- GenerationFailed    this request broke; others go on
     '- EngineDead          the engine is gone; nothing goes on
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ChatFormatName = Literal["chat_template", "chatglm3", "code_points"]
"""How a model is spoken to; ``adapters`` has one implementation for each name."""

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why an engine ended a request. ``abort``: it was told to."""


class EngineError(Exception):
    """Base of all that an engine raises on purpose."""


class RequestRefused(EngineError):
    """The engine can't run this request as asked.

    ``param`` names the field at fault as the engine knows it, where it does.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class EngineOverloaded(EngineError):
    """The engine's own queue is full."""


class GenerationFailed(EngineError):
    """This request broke inside the engine; others go on."""


class EngineDead(EngineError):
    """The engine's processes are gone; every request fails until it is built anew."""


class Tokenizer(Protocol):
    """What the chat formats need of a Hugging Face fast tokenizer."""

    @property
    def backend_tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` behind it."""

    @property
    def chat_template(self) -> str | None: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...

    def get_added_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    ``definition`` is what the model is shown: an object with ``name``, and mostly ``description`` and
    ``parameters``, a JSON schema.
    """

    name: str
    definition: Mapping[str, Any]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments; empty where the tool takes none."""
        return self.definition.get("parameters") or {}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool: ``arguments`` is JSON text as a model wrote it, ``id`` what its result refers to."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation, its text joined to one string.

    ``tool_calls`` only where the role is assistant; ``tool_call_id`` names the call that a tool's
    message is the result of, ``name`` the function where the role is function.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What the answer's text has to be.

    ``value`` is a JSON schema (an object, or its text) for ``json``, None for ``json_object``, a regular
    expression for ``regex``, a list of texts for ``choice``, a grammar for ``grammar``: in the EBNF that
    vLLM's grammar backend takes.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar"]
    value: Any = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to end.

    ``max_tokens`` is always a number here: "as many as fit" was settled when the prompt's length was
    known. ``stop`` strings end the text before them. ``logprobs`` is how many of the likeliest tokens are
    told beside each chosen one; None tells nothing. ``logit_bias`` is added to the logits of tokens. A
    field that is None takes the model's default.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    structured: StructuredOutput | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request to an engine.

    ``messages`` travel beside the ids for engines that are spoken to in text. ``stream`` says whether
    the caller wants deltas as they come; otherwise an engine may answer with one Delta at the end.
    Where ``detokenize`` is false the caller reads the ids itself: an engine may leave the text out.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    stream: bool
    detokenize: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token, its natural log-probability, and the likeliest tokens at its place with theirs,
    the likeliest first."""

    token_id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)
class Delta:
    """What is new since the last one: text, and the ids it was read from.

    Concatenating ``text`` over a stream gives the answer. Ids may run ahead of the text (a code point
    split over tokens, a stop string in the making), never behind it. ``finish_reason`` is set on the
    last Delta of a stream and on no other; ``prompt_tokens`` is the engine's own count of the prompt,
    ``cached_tokens`` how many of them came from the prefix cache, and ``queue_seconds`` the time the
    request waited before it was first scheduled, where the engine knows. ``logprobs`` has one entry for
    each id where they were asked for.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float | None = None
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(slots=True)
class Usage:
    """Tokens, counted by the engine."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What an engine serves.

    ``max_model_len`` is the context in tokens, prompt and answer together; ``sampling_defaults`` are
    the values taken for fields a client leaves out.
    """

    name: str
    engine: str
    max_model_len: int
    chat_format: ChatFormatName
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))


class DeltaStream(Protocol):
    """A request that the engine has accepted."""

    async def next(self) -> Delta:
        """Wait for the next Delta. Not to be called again after one with a ``finish_reason``.

        Deltas that the caller was too slow for may come merged into one.
        Raises EngineError.
        """

    async def abort(self) -> None:
        """End the request now: ``next`` then gives a last Delta with all that was generated so far
        and ``finish_reason="abort"``. Does nothing to a request that has ended. Raises EngineError."""


class Engine(Protocol):
    """Something that turns token ids into tokens.

    ``card`` and ``tokenizer`` are valid after ``start``; ``tokenizer`` is None for engines that are
    spoken to without one.
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    async def start(self) -> None:
        """Load the model; may take minutes. Raises EngineError."""

    async def submit(self, request: GenerationRequest) -> DeltaStream:
        """Hand a request over. Raises RequestRefused, EngineOverloaded or EngineDead."""

    async def check(self) -> None:
        """Return if the engine can take requests, raise EngineDead if it can't."""

    async def shutdown(self) -> None:
        """End the engine and every process of it. Safe to call twice, and after a failed ``start``."""
