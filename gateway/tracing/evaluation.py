"""Feedback as OpenTelemetry's GenAI conventions have it: the event gen_ai.evaluation.result.

The conventions make it a log record. It is an event of a span here, so that it goes the way of all spans: a
second signal would need a second endpoint, and a place where logs are looked at beside the traces.
"""

from __future__ import annotations

import re

from opentelemetry.util.types import AttributeValue

from gateway.tracing.text import MOST_CONTENT_CHARACTERS, plain
from persistence.feedback import Feedback

EVENT = "gen_ai.evaluation.result"
NAME = "user_feedback"

# From here on a score of 0 to 100 is a good one.
GOOD = 50

_TRACE_ID, _SPAN_ID = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")


def is_span(trace_id: str, span_id: str) -> bool:
    """Whether these can be the ids of a span. A row may have been written by anybody."""
    ids = _TRACE_ID.fullmatch(trace_id) and _SPAN_ID.fullmatch(span_id)
    return bool(ids) and int(trace_id, 16) != 0 != int(span_id, 16)


def evaluation(given: Feedback, content: bool) -> dict[str, AttributeValue]:
    """The event's attributes. What somebody wrote is told only with ``content``; a feedback that takes back
    what was said before has no score."""
    label = "withdrawn" if given.score < 0 else "good" if given.score >= GOOD else "bad"
    attributes: dict[str, AttributeValue] = {
        "gen_ai.evaluation.name": NAME,
        "gen_ai.evaluation.score.label": label,
        "gen_ai.response.id": given.message_id.hex,
    }
    if given.score >= 0:
        attributes["gen_ai.evaluation.score.value"] = float(given.score)
    if content and given.reason:
        attributes["gen_ai.evaluation.explanation"] = plain(given.reason, MOST_CONTENT_CHARACTERS)
    return attributes
