"""The vocabulary of the house: what is asked of an engine, and what comes back.

An engine turns prompt ids into output tokens. It knows nothing of HTTP, of a client's dialect or of
the database. Implementing one takes five methods::

    class Echo:
        card = ModelCard(name="echo", engine="echo", max_model_len=4096, chat_format="code_points")
        tokenizer = None

        async def start(self) -> None: ...

        async def submit(self, request: GenerationRequest) -> DeltaStream:
            return EchoStream(request)

        async def check(self) -> None: ...

        def tool_parser(self, name: str) -> ToolParser:
            raise EngineError("This engine has no parsers of tool calls.")

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

ChatFormatName = Literal["chat_template", "chatglm3", "code_points", "messages"]
"""How a model is spoken to; ``adapters`` has one implementation for each name."""

FinishReason = Literal["stop", "length", "content_filter", "abort", "error"]
"""Why an engine ended a request. ``abort``: it was told to; ``content_filter``: it will not tell the rest."""

InsteadReason = Literal["engine_dead", "engine_failed", "overloaded"]
"""Why another answers: the engine is gone, it failed on this request, or it has no place for it."""


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
    """The engine's processes are gone; every request fails until it is built anew.

    ``untold`` is all that it had generated of this request, where it had told nothing of it.
    """

    def __init__(self, message: str = "", untold: Delta | None = None) -> None:
        super().__init__(message)
        self.untold = untold


class Tokenizer(Protocol):
    """What the chat formats need of a Hugging Face fast tokenizer."""

    @property
    def backend_tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` behind it."""

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        """A template, or several by name."""

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """The tokens that templates know by names, as ``bos_token``."""

    def get_chat_template(
        self, chat_template: str | None = None, tools: list[dict[str, Any]] | None = None
    ) -> str:
        """The template for a conversation with ``tools``, or without. Raises ValueError."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tokenize: bool,
        **variables: Any,
    ) -> Any: ...


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


class ToolParser(Protocol):
    """Reads the tool calls out of whole answers of one family of models.

    With ``skip_special_tokens`` off, it has to be given text that special tokens are part of.
    """

    @property
    def skip_special_tokens(self) -> bool: ...

    def __call__(self, text: str, tools: Sequence[Tool]) -> tuple[str, Sequence[ToolCall]]:
        """The text of an answer that may call ``tools`` beside its calls, and these."""


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
    vLLM's grammar backend takes. ``name`` and ``strict`` are what a client said of a JSON schema beside it.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar"]
    value: Any = None
    name: str = field(default="answer", compare=False)
    strict: bool | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RepetitionStop:
    """Ends an answer whose last tokens are the same sequence again and again: one of ``min_pattern_size`` to
    ``max_pattern_size`` tokens, ``min_count`` times. Names and meaning are those of vLLM's
    RepetitionDetectionParams; a ``max_pattern_size`` of 0 ends nothing."""

    max_pattern_size: int
    min_count: int
    min_pattern_size: int = 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to end; names, ranges and meaning are those of vLLM's SamplingParams.

    ``max_tokens`` is always a number here: "as many as fit" was settled when the prompt's length was
    known. ``stop`` strings end the text before them, or after them with ``include_stop_str_in_output``;
    before ``min_tokens`` tokens nothing ends it. ``logprobs`` is how many of the likeliest tokens are told
    beside each chosen one, ``prompt_logprobs`` the same for the prompt's tokens; None tells nothing.
    ``logit_bias`` is added to the logits of tokens, ``allowed_token_ids`` are the only ones that may be
    chosen, ``bad_words`` are texts that may not come. ``skip_special_tokens`` leaves special tokens out of
    the text. ``repetition`` ends runaway answers. A field that is None takes the model's default.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured: StructuredOutput | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition: RepetitionStop | None = None


AROUND_MESSAGE_TOKENS = 16
"""What a chat template may put around a message, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsAsked:
    """What a client asked beside messages and sampling, before it became ids and constraints of one model.

    ``completion`` is the text to continue, None for a chat; with ``is_ids`` it was given as token ids.
    ``max_tokens`` is None where the client named none. ``stop``, ``stop_token_ids``, ``logit_bias``,
    ``structured``, ``skip_special_tokens`` and ``repetition`` are the client's own, without what the model's
    chat format or the operator adds. ``tools`` are the functions that the model is told of, ``may_call``
    those of them that the answer may call; with ``must_call`` it has to call one of these. ``token_ids``:
    the client wants to be told the ids. The rest is what a chat template, or what begins a text, is told.
    """

    completion: str | None = None
    is_ids: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    structured: StructuredOutput | None = None
    skip_special_tokens: bool = True
    repetition: RepetitionStop | None = None
    tools: tuple[Tool, ...] = ()
    may_call: tuple[Tool, ...] = ()
    must_call: bool = False
    parallel_tool_calls: bool = True
    token_ids: bool = False
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request to an engine.

    ``messages``, and what was ``asked`` beside them, travel beside the ids for engines that are spoken to in
    text; without ``asked``, ``messages`` and ``sampling`` say all. ``stream`` says whether
    the caller wants deltas as they come; otherwise an engine may answer with one Delta at the end.
    Where ``detokenize`` is false the caller reads the ids itself: an engine may leave the text out.
    A lower ``priority`` runs earlier, where the engine schedules by it; prompts share cached computation
    only with those that have the same ``cache_salt``. Related requests may have the same ``session_id``,
    which is for whoever spreads requests over engines; printable ASCII. ``trace_headers`` name the span that
    the engine's own are below, as W3C Trace Context has it; None where nothing is traced.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    stream: bool
    detokenize: bool = True
    priority: int = 0
    cache_salt: str | None = None
    session_id: str | None = None
    asked: AsAsked | None = None
    trace_headers: Mapping[str, str] | None = None

    @property
    def most_prompt_tokens(self) -> int:
        """How many tokens the prompt has; where its ids are not known, how many it can have: none is shorter
        than a byte."""
        if self.prompt_token_ids or self.asked is None:
            return len(self.prompt_token_ids)
        texts = [message.content for message in self.messages]
        texts += [call.arguments for message in self.messages for call in message.tool_calls]
        texts += [str(tool.definition) for tool in self.asked.tools]
        return sum(len(text.encode(errors="surrogatepass")) + AROUND_MESSAGE_TOKENS for text in texts)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural log-probability, the likeliest tokens at its place with theirs, the likeliest
    first, and its ``rank`` among all tokens, 1 for the likeliest. No logprob is below LEAST_LOGPROB."""

    token_id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    rank: int = 1


LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have; as OpenAI has it."""


@dataclass(frozen=True, slots=True)
class Instead:
    """Who answered in the engine's place, and why the engine did not."""

    by: str
    reason: InsteadReason


@dataclass(frozen=True, slots=True)
class ToldCall:
    """What is new of the ``index``-th tool call, counted from 0 in the order in which they begin: its
    ``name`` with the first, and more of its ``arguments``."""

    index: int
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ToldLogprob:
    """A token's bytes, its natural log-probability, and the likeliest tokens at its place with theirs."""

    token: bytes
    logprob: float
    top: Sequence[tuple[bytes, float]] = ()


@dataclass(slots=True)
class Told:
    """What stands in a Delta whose text needs no reading, because whoever answered has told text and calls
    apart.

    ``completion_tokens`` is how many tokens were generated since the last Delta, as far as it is told;
    ``counted``: with this Delta, which is the last, all tokens of prompt and answer have been told.
    """

    tool_calls: Sequence[ToldCall] = ()
    logprobs: Sequence[ToldLogprob] = ()
    completion_tokens: int = 0
    counted: bool = False


@dataclass(slots=True)
class Delta:
    """What is new since the last one: text, and the ids it was read from.

    Concatenating ``text`` over a stream gives the answer. Ids may run ahead of the text (a code point
    split over tokens, a stop string in the making), never behind it. ``finish_reason`` is set on the
    last Delta of a stream and on no other; ``prompt_tokens`` is the engine's own count of the prompt,
    ``cached_tokens`` how many of them came from the prefix cache. ``queue_seconds`` is the time the
    request waited before it was first scheduled, on the first Delta and on all where the engine knows it.
    ``logprobs`` has one entry for each id where they were asked for; ``prompt_logprobs`` one for each token
    of the prompt, None for its first, and is given once, with the first Delta.

    ``repetition`` is set beside the finish_reason ``length`` where the answer was cut because it went on
    saying the same.

    ``told`` is set on every Delta of an answer that was not read from ids, and on none of any other: it has
    no ``token_ids``. ``instead`` is set on the first Delta of an answer that is not the engine's own.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float | None = None
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob | None] = ()
    told: Told | None = None
    instead: Instead | None = None
    repetition: bool = False


@dataclass(slots=True)
class Usage:
    """Tokens, counted by the engine. ``untold``: there are more, nobody knows how many."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    untold: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What an engine serves.

    ``max_model_len`` is the context in tokens, prompt and answer together; ``vocabulary_size`` bounds the
    ids that a prompt may have; ``sampling_defaults`` are the values taken for fields a client leaves out.
    ``max_running`` is how many requests it runs at once, None where it does not say.
    """

    name: str
    engine: str
    max_model_len: int
    chat_format: ChatFormatName
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    vocabulary_size: int = 2**31
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    max_running: int | None = None


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

    def tool_parser(self, name: str) -> ToolParser:
        """The engine's own parser of tool calls with this name. Raises EngineError where it has none."""

    async def shutdown(self) -> None:
        """End the engine and every process of it. Safe to call twice, and after a failed ``start``."""
