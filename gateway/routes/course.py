"""The plain wrapper around ChatGLM that courses teach: a prompt and a history in, an answer and the longer
history out."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request, Response
from pydantic import Field

from adapters.chatchat.course import CourseRequest, answer, listed
from adapters.chatchat.native_body import NativeBody
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.asking import chat_asked, opened
from gateway.latest_messages import latest
from gateway.lifecycle import lifecycle_of
from gateway.routes.body import checked, read
from gateway.whole_answer import whole

router = APIRouter(tags=["Course"])


class Limits(NativeBody):
    """The query of GET /chat/get/messages/."""

    limit: int = Field(20, ge=1, le=100)


@router.post("/chat/new/message/", summary="Ask, with the history at hand")
@router.post("/chat/new/message", include_in_schema=False)
async def new_message(request: Request) -> Response:
    """The answer, and the history with this turn added, in the form it came in."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, CourseRequest, lifecycle.settings.max_body_bytes)
    chat = body.as_openai
    asked = await chat_asked(request, lifecycle, caller, chat)
    generation = opened(request, lifecycle, caller, chat, [asked], "prompt")
    return await whole(generation, lambda answers, _: answer(body, answers[0].text, datetime.now()))


@router.get("/chat/get/messages/", summary="The caller's latest messages")
@router.get("/chat/get/messages", include_in_schema=False)
async def get_messages(request: Request) -> Response:
    """Newest first, `limit` of them (20; at most 100)."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.READ)
    limit = checked(Limits, dict(request.query_params)).limit
    messages = [
        {
            "id": one.id.hex,
            "query": one.query,
            "response": one.response,
            "create_time": one.create_time,
            "conversation_id": one.conversation_id,
            "feedback_score": one.feedback_score,
            "status": one.status,
        }
        for one in await latest(request, lifecycle, caller, limit)
    ]
    return Response(listed(messages, datetime.now()), media_type="application/json")
