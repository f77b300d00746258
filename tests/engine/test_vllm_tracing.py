"""What vLLM is told of traces; it needs none of vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.base import GenerationRequest, Sampling, StructuredOutput
from engine.vllm_engine import VllmEngine

HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Told(VllmEngine):
    """An engine whose vLLM only remembers what it is told of traces."""

    def __init__(self, makes_spans: bool) -> None:
        self.told: list[Any] = []
        self._makes_spans = makes_spans
        self._llm = SimpleNamespace(
            add_request=self._add_request,
            get_supported_tasks=self._tasks,
            input_processor=SimpleNamespace(process_inputs=self._process),
            errored=False,
        )

    async def _add_request(self, *_: object, trace_headers: object, **others: object) -> None:
        self.told.append(trace_headers)

    def _process(self, *_: object, trace_headers: object, **others: object) -> None:
        self.told.append(trace_headers)

    async def _tasks(self) -> list[str]:
        return ["generate"]

    def _check(self, request: GenerationRequest) -> None:
        pass

    def _parameters(self, request: GenerationRequest) -> Any:
        return None

    def _prompt(self, request: GenerationRequest) -> Any:
        return None


@pytest.mark.parametrize("makes_spans", [False, True])
@pytest.mark.parametrize("structured", [None, StructuredOutput("choice", ["a"])])
async def test_vllm_is_told_the_span_that_its_own_are_below_where_it_makes_any(
    makes_spans: bool, structured: StructuredOutput | None
) -> None:
    engine = Told(makes_spans)
    sampling = Sampling(1, structured=structured)
    await engine.submit(GenerationRequest("r", [1], (), sampling, True, trace_headers=HEADERS))
    # With a constraint vLLM takes them with the processed request.
    assert set(map(str, engine.told)) == {str(HEADERS if makes_spans else None)}
