from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.code_points import CodePointFormat
from engine.base import EngineError, GenerationRequest
from engine.simulated import SimulatedEngine, SimulatedStream
from gateway.lifecycle import self_check


class Knowing(SimulatedEngine):
    """Knows the one answer."""

    async def submit(self, request: GenerationRequest) -> SimulatedStream:
        answer = replace(request.messages[-1], content="It is Paris.")
        return await super().submit(replace(request, messages=(answer,)))


async def test_a_model_that_answers_the_known_question_is_served() -> None:
    await self_check(Knowing(), CodePointFormat())


async def test_a_model_that_answers_nonsense_is_refused_and_its_answer_shown() -> None:
    with pytest.raises(EngineError, match="self-check failed") as refused:
        await self_check(SimulatedEngine(), CodePointFormat())
    assert "What is the capital of F" in str(refused.value)
