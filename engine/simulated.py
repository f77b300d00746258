"""An engine without a model, for tests and load.

It answers with the last message's text, exactly, one Unicode code point per token, so that every
byte and every count of an answer is known beforehand. It never poses as a model: its name is
``simulated`` wherever a model's name stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from engine.base import (
    Delta,
    EngineError,
    FinishReason,
    GenerationRequest,
    ModelCard,
    RepetitionStop,
    RequestRefused,
    Sampling,
    TokenLogprob,
    ToolParser,
)
from engine.refusals import check_ids, check_sampling

MAX_MODEL_LEN = 1_048_576

# A stream without pauses gives the event loop back this often.
TOKENS_PER_TURN = 16


class TokenCounts(Collector):
    """The tokens of all answers, also those that no one took, and of the prompts whose first token is there.

    Plain numbers, since a Counter would take longer than a token does.
    """

    def __init__(self) -> None:
        self.prompt = 0
        self.generation = 0

    def collect(self) -> Iterable[CounterMetricFamily]:
        """As vLLM names them."""
        yield CounterMetricFamily("simulated:prompt_tokens", "Prompt tokens.", value=self.prompt)
        yield CounterMetricFamily("simulated:generation_tokens", "Generated tokens.", value=self.generation)


COUNTS = TokenCounts()
REGISTRY.register(COUNTS)


class SimulatedEngine:
    """Echoes. What would make another answer of it is refused; what only moves probabilities is taken, and
    changes nothing, since an echo is certain.

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
            vocabulary_size=sys.maxunicode + 1,
            fingerprint="simulated",
        )
        self._ttft = ttft_ms / 1000
        self._interval = 1 / tokens_per_second if tokens_per_second else 0.0

    async def start(self) -> None:
        """Nothing to load."""

    async def submit(self, request: GenerationRequest) -> SimulatedStream:
        """Raises RequestRefused when prompt and answer do not fit the context, when ids are no code points,
        or when the answer could not be the echo."""
        check_sampling(request.sampling, self.card.vocabulary_size)
        if request.prompt_token_ids:
            check_ids(request.prompt_token_ids, self.card.vocabulary_size, "prompt")
        if request.priority:
            raise RequestRefused("priority must be 0: the simulated engine has no queue.", "priority")
        if len(request.prompt_token_ids) + request.sampling.max_tokens > MAX_MODEL_LEN:
            raise RequestRefused("The prompt and max_tokens do not fit the context.", "max_tokens")
        source = request.messages[-1].content if request.messages else ""
        echo = cut(source, request.sampling)
        check_echo(source[: echo.tokens], request.sampling)
        return SimulatedStream(request, source, echo, self._ttft, self._interval)

    async def check(self) -> None:
        """Always well."""

    def tool_parser(self, name: str) -> ToolParser:
        """Raises EngineError: there are none."""
        raise EngineError("The simulated engine only echoes: it has no parsers of tool calls.")

    async def shutdown(self) -> None:
        """Nothing to end."""


class Echo(NamedTuple):
    """The answer's text, how many tokens it took, why it ended, and if it was cut for saying the same."""

    text: str
    tokens: int
    finish_reason: FinishReason
    repetition: bool = False


class SimulatedStream:
    """The echo of one request; a DeltaStream."""

    def __init__(
        self, request: GenerationRequest, source: str, echo: Echo, ttft: float, interval: float
    ) -> None:
        sampling = request.sampling
        self._source = source
        self._echo = echo
        self._prompt_token_ids = request.prompt_token_ids
        self._stream = request.stream
        self._logprobs = sampling.logprobs
        self._prompt_logprobs = sampling.prompt_logprobs
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._first_due = self._loop.time() + ttft
        # Text that could still become a stop string is held back where none is to be seen, as the real
        # engine does.
        cut_off = () if sampling.include_stop_str_in_output else sampling.stop
        self._held_back = max((len(stop) for stop in cut_off), default=1) - 1
        self._tokens = 0
        self._reported = 0
        self._sent = 0
        self._aborted = asyncio.Event()

    async def next(self) -> Delta:
        """The next token, or the whole answer where the request does not stream."""
        target = self._tokens + 1 if self._stream else self._echo.tokens
        await self._until(self._first_due + self._interval * (target - 1))
        if not self._aborted.is_set():
            self._generate(target)
        return self._take()

    async def abort(self) -> None:
        """End after what has been generated so far."""
        if not self._aborted.is_set():
            self._generate(0)
            self._aborted.set()

    async def _until(self, due: float) -> None:
        pause = due - self._loop.time()
        if pause > 0 and not self._aborted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._aborted.wait()
        elif self._tokens % TOKENS_PER_TURN == 0:
            await asyncio.sleep(0)

    def _generate(self, least: int) -> None:
        """What is due by now, and at ``least`` so many tokens."""
        elapsed = self._loop.time() - self._first_due
        by_clock = int(elapsed / self._interval) + 1 if self._interval and elapsed >= 0 else 0
        tokens = min(max(self._tokens, by_clock, least), self._echo.tokens)
        COUNTS.generation += tokens - self._tokens
        COUNTS.prompt += len(self._prompt_token_ids) if tokens > 0 == self._tokens else 0
        self._tokens = tokens

    def _take(self) -> Delta:
        """All that is new, up to the tokens generated so far."""
        answer = self._echo.text
        finish_reason: FinishReason | None = None
        if self._tokens >= self._echo.tokens:
            finish_reason, end = self._echo.finish_reason, len(answer)
        elif self._aborted.is_set():
            finish_reason, end = "abort", min(self._tokens, len(answer))
        else:
            end = max(min(self._tokens - self._held_back, len(answer)), self._sent)
        text = answer[self._sent : end]
        ids = [ord(character) for character in self._source[self._reported : self._tokens]]
        self._sent, self._reported = end, self._tokens
        delta = Delta(text, ids, finish_reason, len(self._prompt_token_ids))
        delta.repetition = self._echo.repetition and finish_reason == "length"
        if self._logprobs is not None:
            delta.logprobs = certain(ids, self._logprobs)
        if self._prompt_logprobs is not None and self._prompt_token_ids:
            rest = self._prompt_token_ids[1:]
            delta.prompt_logprobs = [None, *certain(rest, self._prompt_logprobs)]
            self._prompt_logprobs = None
        return delta


def certain(token_ids: Iterable[int], most: int) -> list[TokenLogprob]:
    """The logprobs of an echo: it could not have been otherwise."""
    return [TokenLogprob(id_, 0.0, ((id_, 0.0),) if most else ()) for id_ in token_ids]


def cut(text: str, sampling: Sampling) -> Echo:
    """The answer to ``text``.

    As in vLLM (v1/engine/detokenizer.py, v1/core/sched/utils.py): nothing ends it within the first
    ``min_tokens`` tokens. After them the first token that completes a stop string, begun where it may, or
    that is itself a stop token, ends it; where both do, the stop token; of stop strings that end together
    the first of the list. The stop is counted, and is in the text only if asked for. An echo shorter than
    ``min_tokens`` is over all the same. A sequence that stands there too often ends it, where nothing else
    does at the same token.
    """
    limit = min(len(text), sampling.max_tokens)
    least = sampling.min_tokens
    repeated = None if sampling.repetition is None else repeated_at(text, least, sampling.repetition)
    cut_short = repeated is not None and repeated < limit
    limit = repeated if repeated is not None and cut_short else limit
    ends = []
    for order, stop in enumerate(sampling.stop):
        start = text.find(stop, max(least + 1 - len(stop), 0), limit)
        if start >= 0:
            ends.append((start + len(stop), order, start))
    stop_tokens = {chr(id_) for id_ in sampling.stop_token_ids}
    at = next((at for at in range(least, limit) if text[at] in stop_tokens), None) if stop_tokens else None
    if at is not None:
        ends.append((at + 1, -1, at))
    if ends:
        end, _, start = min(ends)
        return Echo(text[: end if sampling.include_stop_str_in_output else start], end, "stop")
    finish_reason: FinishReason = "length" if limit < len(text) else "stop"
    return Echo(text[:limit], limit, finish_reason, cut_short)


def repeated_at(text: str, least: int, stop: RepetitionStop) -> int | None:
    """After how many tokens, ``least`` or more, the last ones are one sequence too often."""
    found = None
    for size in range(stop.min_pattern_size, stop.max_pattern_size + 1):
        same = 0
        for at in range(size, len(text) if found is None else found - 1):
            same = same + 1 if text[at] == text[at - size] else 0
            if same >= size * (stop.min_count - 1) and at + 1 >= least:
                found = at + 1
                break
    return found


def check_echo(echo: str, sampling: Sampling) -> None:
    """Raises RequestRefused where the answer has to be, or may not be, what the echo is."""
    if sampling.structured is not None:
        raise RequestRefused(
            "The simulated engine only echoes: it has no structured output.",
            "structured",
        )
    for word in sampling.bad_words:
        # vLLM forbids a word with and without a space before it.
        if word.lstrip() in echo:
            raise RequestRefused(
                "The simulated engine only echoes: it can't leave out one of the bad_words.", "bad_words"
            )
    if sampling.allowed_token_ids is not None and not set(map(ord, echo)) <= set(sampling.allowed_token_ids):
        raise RequestRefused(
            "The simulated engine only echoes: it can't keep to allowed_token_ids, which lacks tokens of "
            "the message.",
            "allowed_token_ids",
        )
