"""What vLLM gives, as ours; its objects by hand. The real ones: test_vllm_engine.py."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from engine.base import (
    LEAST_LOGPROB,
    EngineDead,
    EngineError,
    GenerationFailed,
    GenerationRequest,
    Sampling,
    TokenLogprob,
)
from engine.vllm_stream import VllmStream, keep_untold


def logprob(value: float, rank: int) -> Any:
    return SimpleNamespace(logprob=value, rank=rank)


class Collector:
    """Has one output, or raises."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def get_nowait(self) -> Any:
        if isinstance(self._output, Exception):
            raise self._output
        return self._output


def output(
    ids: list[int], *, logprobs: Any = None, prompt_logprobs: Any = None, finish_reason: str | None = None
) -> Any:
    completion = SimpleNamespace(text="", token_ids=ids, logprobs=logprobs, finish_reason=finish_reason)
    return SimpleNamespace(
        outputs=[completion],
        finished=finish_reason is not None,
        prompt_token_ids=[7, 8],
        prompt_logprobs=prompt_logprobs,
        num_cached_tokens=1,
        metrics=SimpleNamespace(queued_ts=10.0, scheduled_ts=10.5),
    )


def stream(given: Any, *, errored: bool = False, **fields: Any) -> VllmStream:
    request = GenerationRequest("r", [7, 8], (), Sampling(4, **fields), stream=True)
    return VllmStream(SimpleNamespace(errored=errored), request, Collector(given))


async def test_logprobs_are_numbers_that_json_has() -> None:
    likely = {
        5: logprob(-math.inf, 9),
        6: logprob(-0.5, 1),
        4: logprob(math.nan, 2),
        3: logprob(-math.inf, 3),
    }
    delta = await stream(output([5], logprobs=[likely]), logprobs=3).next()
    top = [(6, -0.5), (4, LEAST_LOGPROB), (3, LEAST_LOGPROB)]
    assert delta.logprobs == [TokenLogprob(5, LEAST_LOGPROB, top, 9)]
    json.dumps([one.top for one in delta.logprobs], allow_nan=False)


@pytest.mark.parametrize(("asked", "likeliest"), [(0, 0), (1, 1), (2, 2), (-1, 3)])
async def test_as_many_of_the_likeliest_are_told_as_were_asked_for(asked: int, likeliest: int) -> None:
    likely = {5: logprob(-2.0, 3), 6: logprob(-0.5, 1), 4: logprob(-1.0, 2)}
    if asked >= 0:
        # vLLM gives no more than that, and the token itself.
        likely = {id_: one for id_, one in likely.items() if id_ == 5 or one.rank <= asked}
    delta = await stream(output([5], logprobs=[likely]), logprobs=asked).next()
    assert delta.logprobs == [TokenLogprob(5, -2.0, [(6, -0.5), (4, -1.0), (5, -2.0)][:likeliest], 3)]


async def test_what_is_known_of_the_prompt_is_on_every_delta() -> None:
    running = stream(output([1]))
    for delta in (await running.next(), await running.next()):
        assert (delta.prompt_tokens, delta.cached_tokens, delta.queue_seconds) == (2, 1, 0.5)


async def test_a_request_that_never_ran_has_no_time_in_the_queue() -> None:
    given = output([], finish_reason="abort")
    given.metrics.scheduled_ts = 0.0
    assert (await stream(given).next()).queue_seconds is None
    given.metrics = None
    assert (await stream(given).next()).queue_seconds is None


async def test_the_prompts_logprobs_are_told_only_whole() -> None:
    of_second = {8: logprob(-3.0, 4), 9: logprob(-0.25, 1)}
    whole = output([1], prompt_logprobs=[None, of_second])
    assert (await stream(whole, prompt_logprobs=1).next()).prompt_logprobs == [
        None,
        TokenLogprob(8, -3.0, [(9, -0.25)], 4),
    ]
    assert (await stream(whole).next()).prompt_logprobs == ()
    # As vLLM has them after the first output, and after an abort before it.
    for given in ([], [None]):
        rest = output([1], prompt_logprobs=given)
        assert (await stream(rest, prompt_logprobs=1).next()).prompt_logprobs == ()


@pytest.mark.parametrize(("errored", "ours"), [(True, EngineDead), (False, GenerationFailed)])
@pytest.mark.parametrize("error", [ValueError("no"), TypeError("no"), RuntimeError()])
async def test_what_breaks_after_a_request_was_taken_is_never_its_fault(
    error: Exception, errored: bool, ours: type[EngineError]
) -> None:
    with pytest.raises(ours):
        await stream(error, errored=errored).next()


class Queue:
    """vLLM's RequestOutputCollector, as far as it matters here."""

    aggregate = True

    def __init__(self) -> None:
        self.output: Any = None

    def put(self, given: Any) -> None:
        if self.output is None or isinstance(given, Exception):
            self.output = given

    def get_nowait(self) -> Any:
        given, self.output = self.output, None
        if isinstance(given, Exception):
            raise given
        return given


class Output:
    """vLLM's RequestOutput, as far as it can be added to."""

    def __init__(self, ids: list[int], text: str, finished: bool = False) -> None:
        fields = {"text": text, "token_ids": ids, "logprobs": None, "finish_reason": None}
        self.outputs = [SimpleNamespace(**fields)]
        self.finished = finished
        self.prompt_token_ids, self.prompt_logprobs = [7, 8], None
        self.num_cached_tokens, self.metrics = 1, None

    def add(self, other: Output, aggregate: bool) -> None:
        assert aggregate
        self.outputs[0].text += other.outputs[0].text
        self.outputs[0].token_ids += other.outputs[0].token_ids
        self.finished |= other.finished


class Dying:
    """An AsyncLLM whose one request has been given ``waiting`` and not taken it, and is given ``rest`` where
    it is aborted."""

    def __init__(self, waiting: Output | None, rest: Output | None) -> None:
        self.errored = False
        self.queue = Queue()
        self._waiting, self._rest = waiting, rest
        self.request_states = {"r": SimpleNamespace(queue=self.queue)}
        keep_untold(self)

    def propagate_error(self, error: Exception) -> None:
        for state in self.request_states.values():
            state.queue.put(error)

    def die(self) -> None:
        self.queue.put(self._waiting)
        self.errored = True
        self.propagate_error(RuntimeError("dead"))

    async def abort(self, request_id: str) -> None:
        if self.request_states.pop(request_id, None) is not None:
            self.queue.put(self._rest)

    @property
    def stream(self) -> VllmStream:
        return VllmStream(self, GenerationRequest("r", [7, 8], (), Sampling(4), True), self.queue)


UNTOLD = [
    (None, None, ([], "")),
    (Output([1], "a"), None, ([1], "a")),
    # A whole answer's tokens, or text that a stop string held back.
    (None, Output([1, 2], "ab", finished=True), ([1, 2], "ab")),
    (Output([1], "a"), Output([], "b", finished=True), ([1], "ab")),
]


@pytest.mark.parametrize(("waiting", "rest", "untold"), UNTOLD)
@pytest.mark.parametrize("began", [True, False])
async def test_what_a_dead_engine_had_generated_is_told_before_its_death(
    waiting: Output | None, rest: Output | None, untold: tuple[list[int], str], began: bool
) -> None:
    llm = Dying(copy.deepcopy(waiting), copy.deepcopy(rest))
    running = llm.stream
    if began:
        llm.queue.put(Output([9], "z"))
        assert (await running.next()).text == "z"
    llm.die()
    if began and untold != ([], ""):
        delta = await running.next()
        assert (list(delta.token_ids), delta.text, delta.finish_reason) == (*untold, None)
    # Before a first token it is the failure's, so that another may answer.
    with pytest.raises(EngineDead) as death:
        await running.next()
    if began or untold == ([], ""):
        assert death.value.untold is None
    else:
        assert death.value.untold is not None
        assert (list(death.value.untold.token_ids), death.value.untold.text) == untold
