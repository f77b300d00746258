"""An engine without a model, for tests and load.

It answers with the last message's text, exactly, one Unicode code point per token, so that every
byte and every count of an answer is known beforehand. It never poses as a model: its name is
``simulated`` wherever a model's name stands.
"""

from __future__ import annotations

import asyncio
import contextlib

from engine.base import (
    Delta,
    EngineError,
    FinishReason,
    GenerationRequest,
    ModelCard,
    RequestRefused,
    Sampling,
    TokenLogprob,
    ToolParser,
)

MAX_MODEL_LEN = 1_048_576

# A stream without pauses gives the event loop back this often.
TOKENS_PER_TURN = 16


class SimulatedEngine:
    """Echoes.

    ``ttft_ms`` is the pause before the first token in milliseconds; ``tokens_per_second`` paces the
    rest of one request. Both default to no pause.
    """

    tokenizer = None

    def __init__(self, ttft_ms: float = 0.0, tokens_per_second: float | None = None) -> None:
        self.card = ModelCard(
            name="simulated",
            engine="simulated",
            max_model_len=MAX_MODEL_LEN,
            chat_format="code_points",
            fingerprint="simulated",
        )
        self._ttft = ttft_ms / 1000
        self._interval = 1 / tokens_per_second if tokens_per_second else 0.0

    async def start(self) -> None:
        """Nothing to load."""

    async def submit(self, request: GenerationRequest) -> SimulatedStream:
        """Raises RequestRefused when prompt and answer do not fit the context, or the answer has to fit
        something."""
        if request.sampling.structured is not None:
            raise RequestRefused("The simulated engine only echoes: it has no structured output.")
        if len(request.prompt_token_ids) + request.sampling.max_tokens > MAX_MODEL_LEN:
            raise RequestRefused("The prompt and max_tokens do not fit the context.", "max_tokens")
        return SimulatedStream(request, self._ttft, self._interval)

    async def check(self) -> None:
        """Always well."""

    def tool_parser(self, name: str) -> ToolParser:
        """Raises EngineError: there are none."""
        raise EngineError("The simulated engine only echoes: it has no parsers of tool calls.")

    async def shutdown(self) -> None:
        """Nothing to end."""


class SimulatedStream:
    """The echo of one request; a DeltaStream."""

    def __init__(self, request: GenerationRequest, ttft: float, interval: float) -> None:
        self._source = request.messages[-1].content if request.messages else ""
        self._answer, self._token_count, self._finish_reason = cut(self._source, request.sampling)
        self._prompt_tokens = len(request.prompt_token_ids)
        self._stream = request.stream
        self._logprobs = request.sampling.logprobs
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._first_due = self._loop.time() + ttft
        # Text that could still become a stop string is held back, as the real engine does.
        self._held_back = max((len(stop) for stop in request.sampling.stop), default=1) - 1
        self._tokens = 0
        self._reported = 0
        self._sent = 0
        self._aborted = asyncio.Event()

    async def next(self) -> Delta:
        """The next token, or the whole answer where the request does not stream."""
        target = self._tokens + 1 if self._stream else self._token_count
        await self._until(self._first_due + self._interval * (target - 1))
        self._tokens = self._generated(target)
        return self._take()

    async def abort(self) -> None:
        """End after what has been generated so far."""
        self._aborted.set()

    async def _until(self, due: float) -> None:
        pause = due - self._loop.time()
        if pause > 0 and not self._aborted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._aborted.wait()
        elif self._tokens % TOKENS_PER_TURN == 0:
            await asyncio.sleep(0)

    def _generated(self, target: int) -> int:
        """How many tokens there are by now; at least ``target`` unless aborted before its time."""
        elapsed = self._loop.time() - self._first_due
        by_clock = int(elapsed / self._interval) + 1 if self._interval and elapsed >= 0 else 0
        wanted = by_clock if self._aborted.is_set() else max(target, by_clock)
        return min(max(self._tokens, wanted), self._token_count)

    def _take(self) -> Delta:
        """All that is new, up to the tokens generated so far."""
        finish_reason: FinishReason | None = None
        if self._tokens >= self._token_count:
            finish_reason, end = self._finish_reason, len(self._answer)
        elif self._aborted.is_set():
            finish_reason, end = "abort", min(self._tokens, len(self._answer))
        else:
            end = max(min(self._tokens - self._held_back, len(self._answer)), self._sent)
        text = self._answer[self._sent : end]
        ids = [ord(character) for character in self._source[self._reported : self._tokens]]
        self._sent, self._reported = end, self._tokens
        delta = Delta(text, ids, finish_reason, self._prompt_tokens)
        if self._logprobs is not None:
            # An echo is certain.
            delta.logprobs = [TokenLogprob(id_, 0.0, [(id_, 0.0)][: self._logprobs]) for id_ in ids]
        return delta


def cut(text: str, sampling: Sampling) -> tuple[str, int, FinishReason]:
    """The answer to ``text``, the number of tokens it takes, and why it ends.

    As in vLLM: the first token that completes a stop string ends the answer before that string (the
    first one of the list where several end there), and the tokens of the stop string count.
    """
    limit = min(len(text), sampling.max_tokens)
    ends = [
        (text.index(stop) + len(stop), order, stop)
        for order, stop in enumerate(sampling.stop)
        if 0 <= text.find(stop) <= limit - len(stop)
    ]
    if ends:
        end, _, stop = min(ends)
        return text[: end - len(stop)], end, "stop"
    if len(text) > sampling.max_tokens:
        return text[:limit], limit, "length"
    return text, len(text), "stop"
