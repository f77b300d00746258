"""What somebody says of an answer: Chatchat's route, and one for OpenAI's clients."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from adapters.chatchat.base_response import base_response
from adapters.chatchat.feedback import ChatFeedback
from adapters.openai.feedback import FeedbackRequest, feedback_object
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.errors import GatewayError
from gateway.feedback import give
from gateway.lifecycle import lifecycle_of
from gateway.routes.body import read
from gateway.tracing import trace_of
from persistence.feedback import Feedback

router = APIRouter()


@router.post("/chat/feedback", tags=["Chatchat"], summary="Rate an answer")
async def chat_feedback(request: Request) -> dict[str, Any]:
    """Chatchat's: HTTP 200 whatever becomes of it, the `code` says what did."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.FEEDBACK)
    body = await read(request, ChatFeedback, lifecycle.settings.max_body_bytes)
    try:
        note(request, await give(lifecycle, caller, body.message_id, body.score, body.reason))
    except GatewayError as error:
        request.state.error = error
        return base_response(msg=error.message, code=error.status)
    return base_response(msg=f"已反馈聊天记录 {body.message_id}")


@router.post("/v1/feedback", tags=["OpenAI"], summary="Rate an answer")
async def v1_feedback(request: Request) -> dict[str, Any]:
    """Also while the answer is still being streamed; the latest score stands in the message's row. Sent again
    with the same `id`, it is the same feedback."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.FEEDBACK)
    body = await read(request, FeedbackRequest, lifecycle.settings.max_body_bytes)
    given = await give(
        lifecycle, caller, body.message, body.points, body.reason or "", body.correction, body.id
    )
    note(request, given)
    assert given.create_time is not None
    return feedback_object(
        given.id, given.message_id.hex, given.score, given.reason, given.correction, given.create_time
    )


def note(request: Request, given: Feedback) -> None:
    """Tell the trace of the answer, while tracing is on; once for each feedback."""
    trace = trace_of(request)
    if trace is not None and given.is_new:
        trace.rated(given)
