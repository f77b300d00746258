"""A request inside vLLM, and what vLLM gives of it as ours."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine.base import (
    LEAST_LOGPROB,
    Delta,
    EngineDead,
    EngineError,
    FinishReason,
    GenerationFailed,
    GenerationRequest,
    TokenLogprob,
)

# vLLM's runaway detection. An answer that it cut is not whole, and says so as any client knows it.
REPETITION = "repetition"
# finish_reason of vLLM -> ours.
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    REPETITION: "length",
}


class VllmStream:
    """One request inside vLLM; a DeltaStream."""

    __slots__ = (
        "_cached_tokens",
        "_collector",
        "_llm",
        "_logprobs",
        "_prompt_logprobs",
        "_prompt_tokens",
        "_queue_seconds",
        "_request_id",
    )

    def __init__(self, llm: Any, request: GenerationRequest, collector: Any) -> None:
        self._llm = llm
        self._request_id = request.request_id
        self._logprobs = how_many(request.sampling.logprobs)
        self._prompt_logprobs = how_many(request.sampling.prompt_logprobs)
        self._collector = collector
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._queue_seconds: float | None = None

    async def next(self) -> Delta:
        """Raises EngineDead or GenerationFailed."""
        try:
            # Without a switch of tasks where an output is there already.
            output = self._collector.get_nowait() or await self._collector.get()
        except Exception as error:
            return await self._last(error)
        return self._delta(output)

    def _delta(self, output: Any) -> Delta:
        if not self._prompt_tokens:
            self._begin(output)
        completion = output.outputs[0]
        delta = Delta(
            completion.text,
            completion.token_ids,
            FINISH_REASONS.get(completion.finish_reason, "error") if output.finished else None,
            self._prompt_tokens,
            self._cached_tokens,
            self._queue_seconds,
        )
        delta.repetition = completion.finish_reason == REPETITION
        if self._logprobs is not None and completion.token_ids:
            delta.logprobs = [
                told_logprob(token_id, likely, self._logprobs)
                for token_id, likely in zip(completion.token_ids, completion.logprobs, strict=True)
            ]
        if self._prompt_logprobs is not None:
            delta.prompt_logprobs = told_prompt_logprobs(output, self._prompt_logprobs)
        return delta

    async def _last(self, error: Exception) -> Delta:
        """What a dead engine had generated and not told, where it has told something before; the failure
        comes after it. Raises EngineDead or GenerationFailed."""
        failed = failure(error, self._llm)
        if not isinstance(failed, EngineDead) or (output := await self._untold()) is None:
            raise failed from error
        if not self._prompt_tokens:
            failed.untold = self._delta(output)
            raise failed from error
        self._collector.put(error)
        return self._delta(output)

    async def _untold(self) -> Any:
        """vLLM's RequestOutput of all that its ``next`` would have given, None where there is nothing."""
        output, self._collector.untold = getattr(self._collector, "untold", None), None
        rest = None
        # An aborted request is given what is left of it; the engine's processes need not live for that.
        with contextlib.suppress(Exception):
            await self._llm.abort(self._request_id)
            rest = self._collector.get_nowait()
        if output is None:
            output = rest
        elif rest is not None:
            output.add(rest, aggregate=self._collector.aggregate)
        if output is None or not (output.outputs[0].token_ids or output.outputs[0].text):
            return None
        output.finished = False
        return output

    def _begin(self, output: Any) -> None:
        """What is known with the first output and stays."""
        self._prompt_tokens = len(output.prompt_token_ids)
        self._cached_tokens = output.num_cached_tokens or 0
        metrics = output.metrics
        # Not scheduled yet where the request was aborted while it waited.
        if metrics is not None and metrics.scheduled_ts:
            self._queue_seconds = metrics.scheduled_ts - metrics.queued_ts

    async def abort(self) -> None:
        """Ends in the engine at once; tokens already generated still come from ``next``."""
        try:
            await self._llm.abort(self._request_id)
        except Exception as error:
            raise failure(error, self._llm) from error


def how_many(logprobs: int | None) -> int | None:
    """-1 asks vLLM for all."""
    return sys.maxsize if logprobs == -1 else logprobs


def told_logprob(token_id: int, likely: Mapping[int, Any], most: int) -> TokenLogprob:
    """From vLLM's mapping of ids to Logprob(logprob, rank), which has the token itself beside the ``most``
    likeliest that were asked for."""
    own = likely[token_id]
    ranked = sorted((one.rank, id_, finite(one.logprob)) for id_, one in likely.items() if one.rank <= most)
    return TokenLogprob(token_id, finite(own.logprob), [(id_, value) for _, id_, value in ranked], own.rank)


def told_prompt_logprobs(output: Any, most: int) -> Sequence[TokenLogprob | None]:
    """vLLM gives them with the first output of a stream and empties its list; a request that was aborted
    before its prompt was read has only the None that stands for the first token."""
    told, ids = output.prompt_logprobs or (), output.prompt_token_ids
    if len(told) != len(ids):
        return ()
    return [
        None if likely is None else told_logprob(token_id, likely, most)
        for token_id, likely in zip(ids, told, strict=True)
    ]


def finite(logprob: float) -> float:
    """Minus infinity and NaN are no JSON."""
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB


def keep_untold(output_processor: Any) -> None:
    """Let vLLM's OutputProcessor keep what nobody has taken yet when it tells requests of their engine's
    death: it would put the one in the place of the other, and its counters have counted both."""
    propagate = output_processor.propagate_error

    def propagate_error(error: Exception) -> None:
        for state in output_processor.request_states.values():
            if state.queue.output is not None and not isinstance(state.queue.output, Exception):
                state.queue.untold = state.queue.output
        propagate(error)

    output_processor.propagate_error = propagate_error


def failure(error: Exception, llm: Any) -> EngineError:
    """What went wrong inside vLLM, as ours."""
    if llm.errored:
        return EngineDead("The engine's processes have ended.")
    return GenerationFailed(reason(error))


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
