"""Feedback in traces."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tracing.evaluation import EVENT, evaluation, is_span
from gateway.tracing.request_trace import RequestTrace
from persistence.feedback import Feedback
from tests.gateway.traced import Kept, tracing_to
from tests.otlp_receiver import Received
from tests.strategies import texts

ANSWER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
SCOPE = {"type": "http", "method": "POST", "path": "/v1/feedback", "headers": []}


def rated(span: tuple[str, str] | None, content: bool = False) -> list[Received]:
    """The spans of a request that rates an answer made by ``span``."""
    kept = Kept()
    tracing = tracing_to(kept, trace_content=content)
    trace = RequestTrace(tracing, SCOPE)
    trace.rated(Feedback(UUID(int=1), "id", 100, "so good", span=span))
    trace.end(SCOPE, None)
    tracing.flush()
    return kept.spans


def test_a_feedback_is_a_child_of_what_made_the_answer() -> None:
    event, server = rated(ANSWER)
    assert (event.trace_id, event.parent_id) == ANSWER
    assert event.links == [(server.trace_id, server.span_id)]
    assert server.links == [ANSWER]
    assert event.attributes["gen_ai.evaluation.score.label"] == "good"


@pytest.mark.parametrize("span", [None, ("x", "y"), ("0" * 32, "0" * 16), (ANSWER[0] * 2, ANSWER[1])])
def test_without_a_trace_of_the_answer_it_is_an_event_of_its_own_request(
    span: tuple[str, str] | None,
) -> None:
    (server,) = rated(span)
    ((name, _, attributes),) = server.events
    assert name == EVENT
    assert attributes["gen_ai.response.id"] == UUID(int=1).hex


@pytest.mark.parametrize("content", [False, True])
def test_what_somebody_wrote_is_told_only_where_it_may_be(content: bool) -> None:
    assert ("so good" in repr(rated(ANSWER, content))) == content


@given(st.integers(-1, 100), texts)
def test_a_score_has_a_label(score: int, reason: str) -> None:
    told = evaluation(Feedback(UUID(int=1), "id", score, reason), content=True)
    assert told["gen_ai.evaluation.score.label"] in ("good", "bad", "withdrawn")
    assert ("gen_ai.evaluation.score.value" in told) == (score >= 0)


@given(texts, texts)
def test_whatever_a_row_has_for_ids_is_looked_at(trace_id: str, span_id: str) -> None:
    assert not is_span(trace_id, span_id)
