"""Langchain-Chatchat's own chat routes (0.2.9 and later), and the one of 0.3 that speaks as OpenAI's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from adapters.chatchat.chat_request import ChatRequest, TextRequest
from adapters.chatchat.events import ChatEvents, TextEvents, one_line, text_event, whole_answer, whole_event
from adapters.openai.chat_request import ChatCompletionRequest
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.asking import chat_asked, completion_asked, opened
from gateway.error_shapes import EVENT_STREAM
from gateway.errors import UnknownUrl
from gateway.lifecycle import lifecycle_of
from gateway.native_answer import (
    JSON,
    NativeStream,
    OneEvent,
    in_one_piece,
    named_as_sent,
    style_of,
    wants_json,
)
from gateway.routes import openai
from gateway.routes.body import read

router = APIRouter(tags=["Chatchat"])

CHAT_OF_03 = replace(openai.CHAT, tells_row=True)

# What a gateway for one model has not got, by path.
NOT_HERE = {
    "/chat/knowledge_base_chat": "a knowledge base",
    "/chat/kb_chat": "a knowledge base",
    "/chat/file_chat": "a knowledge base of files",
    "/chat/search_engine_chat": "a search engine",
    "/chat/agent_chat": "an agent with tools of the server's own",
}


@router.post("/chat/chat", summary="Chat (Chatchat 0.2)")
async def chat(request: Request) -> Response:
    """The next turn of a conversation, as server-sent events; without ``stream`` one event, or JSON for a
    client that accepts nothing else."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, ChatRequest, lifecycle.settings.max_body_bytes)
    with named_as_sent(body.sent_names):
        asked_for = body.as_openai
        asked = await chat_asked(request, lifecycle, caller, asked_for)
        generation = opened(request, lifecycle, caller, asked_for, [asked], "messages")
        message_id = asked.row.id.hex
        if body.streams:
            events = ChatEvents(message_id, style_of(body, lifecycle))
            return NativeStream(generation, events, message_id, body.sent_names)
        if wants_json(request):
            return await in_one_piece(generation, lambda text: one_line(whole_answer(text, message_id)), JSON)
        return await in_one_piece(
            generation, lambda text: whole_event(text, message_id), EVENT_STREAM, OneEvent
        )


@router.post("/other/completion", summary="Completion (Chatchat 0.2)")
async def completion(request: Request) -> Response:
    """The continuation of a text, as events of raw text; without ``stream`` one event, or JSON for a client
    that accepts nothing else."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, TextRequest, lifecycle.settings.max_body_bytes)
    with named_as_sent(body.sent_names):
        asked_for = body.as_openai
        [asked] = await completion_asked(request, lifecycle, caller, asked_for)
        generation = opened(request, lifecycle, caller, asked_for, [asked], "prompt")
        message_id, echo = asked.row.id.hex, asked.echo
        if body.stream:
            events = TextEvents(echo, style_of(body, lifecycle))
            return NativeStream(generation, events, message_id, body.sent_names, events.opening)
        encode: Callable[[str], bytes] = text_event
        media_type = EVENT_STREAM
        if wants_json(request):
            media_type, encode = JSON, lambda text: one_line(whole_answer(text, message_id))
        return await in_one_piece(generation, lambda text: encode(echo + text), media_type)


@router.post("/chat/chat/completions", summary="Chat (Chatchat 0.3)")
async def chat_completions(request: Request) -> Response:
    """/v1/chat/completions, whose answers also tell the row's id as ``message_id``."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, ChatCompletionRequest, lifecycle.settings.max_body_bytes)
    asked = await chat_asked(request, lifecycle, caller, body)
    return await openai.answered(request, lifecycle, caller, body, [asked], CHAT_OF_03)


async def not_here(request: Request) -> Response:
    """Always refused."""
    path = request.url.path
    raise UnknownUrl(f"{path} needs {NOT_HERE[path]}, which this gateway does not have; use /chat/chat.")


for path in NOT_HERE:
    router.add_api_route(path, not_here, methods=["POST"], include_in_schema=False)
