"""The chat route of fufan-chat-api's front end; its users and conversations have a file of their own."""

from __future__ import annotations

import logging
from uuid import UUID

from fastapi import APIRouter, Request, Response

from adapters.chatchat.chat_request import FufanChatRequest
from adapters.chatchat.events import ChatEvents, one_line, whole_answer
from adapters.chatchat.fufan import uuid_of
from adapters.prompt_templates import LLM_CHAT
from gateway.access.caller import Caller, Scope
from gateway.access.identification import caller_of
from gateway.access.ownership import owner_of
from gateway.asking import chat_asked, opened
from gateway.error_shapes import EVENT_STREAM, response_to
from gateway.errors import NotFound, PermissionDenied, UnknownUrl
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.native_answer import JSON, NativeStream, in_one_piece, named_as_sent, style_of
from gateway.prompting import refused_by_template
from gateway.routes.body import read
from persistence.conversation_of_chat import UnknownUser, open_conversation
from persistence.database import DatabaseUnavailable

log = logging.getLogger("gateway.routes")

router = APIRouter(tags=["fufan"])


@router.post("/api/chat", summary="Chat (fufan-chat-api)")
@router.post("/api/api/chat", include_in_schema=False)
async def chat(request: Request) -> Response:
    """The next turn of a conversation, as server-sent events; with ``stream`` false as JSON."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, FufanChatRequest, lifecycle.settings.max_body_bytes)
    with named_as_sent(body.sent_names):
        user_id = user_of(body, caller, lifecycle)
        with refused_by_template():
            # Stored turns are looked up by its name.
            lifecycle.prompt_templates.variables(LLM_CHAT, body.template_name)
        asked_for = body.as_openai
        if not body.asks_for_history and lifecycle.settings.store_content == "none":
            asked_for.history_len = None
        asked = await chat_asked(request, lifecycle, caller, asked_for, body.template_name)
        generation = opened(request, lifecycle, caller, asked_for, [asked], "messages")
        asked.row.user_id = await opened_for(lifecycle, caller, body, user_id)
        message_id = asked.row.id.hex
        if body.streams:
            events = ChatEvents(message_id, style_of(body, lifecycle))
            return NativeStream(generation, events, message_id, body.sent_names)
        return await in_one_piece(generation, lambda text: one_line(whole_answer(text, message_id)), JSON)


@router.post("/api/chat/{kind:path}", include_in_schema=False)
@router.post("/api/api/chat/{kind:path}", include_in_schema=False)
async def not_here(request: Request, kind: str) -> Response:
    """Always refused, in an event: chats with retrieval, a search engine, recommendations."""
    error = UnknownUrl(f"This gateway has no chat of the kind '{kind[:100]}', only the plain one, /api/chat.")
    return response_to(error, request.url.path, EVENT_STREAM)


def user_of(body: FufanChatRequest, caller: Caller, lifecycle: Lifecycle) -> UUID | None:
    """Whose request it is: with authentication the caller's, else of whoever the body names, and so for an
    admin. Raises PermissionDenied, and NotFound for what is no id."""
    if not body.user_id:
        return caller.user_id
    user_id = uuid_of(body.user_id)
    if user_id is None:
        raise unknown_user()
    if owner_of(lifecycle, caller) not in (None, user_id):
        raise PermissionDenied("'user_id' is not the caller's.", "user_id")
    return user_id


async def opened_for(
    lifecycle: Lifecycle, caller: Caller, body: FufanChatRequest, user_id: UUID | None
) -> UUID | None:
    """The user, who is there, and so is the conversation now. Without PostgreSQL the chat goes on without
    both, but for the caller himself: he is known already. Raises NotFound."""
    if user_id is None and body.conversation_id is None:
        return None
    try:
        if lifecycle.recorder.away is not None:
            raise DatabaseUnavailable(lifecycle.recorder.away)
        await open_conversation(
            lifecycle.database,
            body.conversation_id,
            user_id,
            body.conversation_name or "",
            body.template_name,
            body.query,
            lifecycle.settings.database_timeout_seconds,
        )
    except UnknownUser:
        raise unknown_user() from None
    except DatabaseUnavailable as error:
        log.warning("a chat goes on without its user and conversation: %s", error)
        return user_id if user_id == caller.user_id else None
    return user_id


def unknown_user() -> NotFound:
    """For an id that is nobody's."""
    return NotFound("'user_id': there is no such user.", "user_id", "user_not_found")
