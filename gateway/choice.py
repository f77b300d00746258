"""One choice of an answer: an engine request, and what has been read of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from adapters.chat_format import Answer, ContentLogprob, EndReason, Piece, Reader
from adapters.guard import OutputGuard
from adapters.told_reader import told_in_place_of
from engine.base import (
    Delta,
    DeltaStream,
    Engine,
    EngineDead,
    EngineError,
    FinishReason,
    GenerationRequest,
    Instead,
    RequestRefused,
    TokenLogprob,
    ToolCall,
)
from gateway.errors import InvalidRequest, from_engine


class Choice:
    """``next`` until it has ``ended``.

    ``finished`` is set when it has come to its end by itself, neither aborted nor broken; ``answer`` may be
    asked for then. ``field_names``: what the client calls fields that the engine knows by another name.
    ``text`` and ``tool_calls`` are what has come so far and was let through by the ``guard``, the counts are
    the engine's own. ``told``: the answer was not read from ids; ``counted``: all its tokens have been
    counted; ``instead`` says whose answer it is where it is not the engine's.
    """

    def __init__(
        self,
        request: GenerationRequest,
        reader: Reader,
        field_names: Mapping[str, str] | None = None,
        guard: OutputGuard | None = None,
    ) -> None:
        self._request = request
        self._reader = reader
        self._field_names = field_names or {}
        self.guard = guard
        self._stream: DeltaStream | None = None
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []
        self._calls: list[tuple[str, list[str]]] = []
        self._token_ids: list[int] = []
        self._prompt_logprobs: list[TokenLogprob | None] = []
        self._aborted = False
        self.ended = False
        self.end_reason: EndReason | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.queue_seconds: float | None = None
        self.told = False
        self.counted = True
        self.repetition = False
        self.instead: Instead | None = None

    @property
    def submitted(self) -> bool:
        """Whether the engine has it."""
        return self._stream is not None

    @property
    def finished(self) -> bool:
        """Whether it has come to its own end."""
        return self.end_reason is not None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls so far."""
        return [ToolCall(name, "".join(arguments)) for name, arguments in self._calls]

    @property
    def answer(self) -> Answer:
        """The whole of it; valid when it is ``finished``."""
        assert self.end_reason is not None
        return Answer(
            self.text,
            self.end_reason,
            self.tool_calls,
            self._logprobs,
            self._token_ids,
            self._prompt_logprobs,
        )

    async def submit(self, engine: Engine) -> None:
        """Hand it to the engine. Raises EngineError; a refusal names the client's field."""
        try:
            self._stream = await engine.submit(self._request)
        except RequestRefused as error:
            error.param = self._field_names.get(error.param or "", error.param)
            raise
        if self._aborted:
            # It was to end while it was being submitted.
            await self._abort_in_engine()

    async def next(self) -> Piece:
        """What the engine's next Delta adds. Raises GatewayError, and has ended then."""
        delta = await self._next_delta()
        piece = self._reader.read(delta)
        if self.guard is not None:
            piece = self.guard.read(piece, last=piece.ended or delta.finish_reason is not None)
        piece.token_ids, piece.prompt_logprobs = delta.token_ids, delta.prompt_logprobs
        self._keep(piece)
        if delta.finish_reason in ("stop", "length", "content_filter"):
            self.end_reason = self._end_reason(delta.finish_reason)
        elif piece.ended and delta.finish_reason is None:
            await self._end_in_engine()
        return piece

    def _end_reason(self, finish_reason: FinishReason) -> EndReason:
        if self.guard is not None and self.guard.blocked:
            return "content_filter"
        return self._reader.end_reason(finish_reason)

    async def _next_delta(self) -> Delta:
        assert self._stream is not None
        try:
            delta = await self._stream.next()
        except EngineError as error:
            self.ended = True
            if isinstance(error, EngineDead) and error.untold is not None:
                self._keep_untold(error.untold)
            raise from_engine(error) from error
        if delta.told is not None or delta.instead is not None:
            self._take_told(delta)
        self.completion_tokens += len(delta.token_ids)
        if delta.queue_seconds is not None:
            self.queue_seconds = delta.queue_seconds
        if delta.finish_reason is not None:
            self.ended, self.repetition = True, delta.repetition
            self.prompt_tokens, self.cached_tokens = delta.prompt_tokens, delta.cached_tokens
        constrained = self._request.sampling.structured is not None
        if delta.finish_reason == "error" and constrained and self.completion_tokens <= 1:
            # A grammar may be in order and yet let no token begin; the one that it rejected counts.
            param = self._field_names.get("structured", "structured")
            raise InvalidRequest("No answer fits what is asked of it.", param)
        return delta

    def _take_told(self, delta: Delta) -> None:
        """What others answer in the engine's place is text too, whatever form the model has."""
        self.instead = delta.instead or self.instead
        if not self.told:
            self.told, self._reader = True, told_in_place_of(self._reader)
        if delta.told is not None:
            self.completion_tokens += delta.told.completion_tokens
            self.counted = delta.told.counted

    def _keep_untold(self, delta: Delta) -> None:
        """What a dead engine had generated belongs to the row; no client has seen it, or will."""
        self.completion_tokens += len(delta.token_ids)
        self.prompt_tokens, self.cached_tokens = delta.prompt_tokens, delta.cached_tokens
        piece = self._reader.read(delta)
        self._keep(piece if self.guard is None else self.guard.read(piece, last=True))

    def _keep(self, piece: Piece) -> None:
        if piece.text:
            self._texts.append(piece.text)
        if piece.logprobs:
            self._logprobs += piece.logprobs
        if piece.prompt_logprobs:
            self._prompt_logprobs += piece.prompt_logprobs
        self._token_ids += piece.token_ids
        for call in piece.tool_calls:
            if call.name is not None:
                self._calls.append((call.name, []))
            self._calls[call.index][1].append(call.arguments)

    async def _end_in_engine(self) -> None:
        """The reader or the guard ends the answer: end the request, and count what it generated beyond."""
        if not self._aborted:
            self.end_reason = self._end_reason("stop")
        await self._abort_in_engine()
        while not self.ended:
            await self._next_delta()

    async def abort(self) -> None:
        """End it in the engine; ``next`` still gives what was generated so far."""
        if not self.ended and not self._aborted:
            self._aborted = True
            await self._abort_in_engine()

    async def _abort_in_engine(self) -> None:
        # An engine that can't be told any more fails the request by itself.
        with contextlib.suppress(EngineError):
            if self._stream is not None:
                await self._stream.abort()
