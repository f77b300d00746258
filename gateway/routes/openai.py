"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.chat_format import Answer
from adapters.openai.answers import Envelope, Head, Wanted, chat_completion, completion
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.chunks import ChatChunks, CompletionChunks
from adapters.openai.completion_request import CompletionRequest
from engine.base import ModelCard, Usage
from gateway.access.caller import Caller, Scope
from gateway.access.identification import caller_of
from gateway.asking import Asked, chat_asked, completion_asked, opened
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import check_model
from gateway.routes.body import read
from gateway.sse import EventStream
from gateway.whole_answer import whole

router = APIRouter(prefix="/v1", tags=["OpenAI"])

# What service_tier is answered with: there is one.
TIER = "default"


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers of one route look. ``tells_row``: they tell the row's id, as Chatchat 0.3 does."""

    id_prefix: str
    chunks: type[ChatChunks] | type[CompletionChunks]
    whole: Callable[[Envelope, Wanted, Sequence[Head], Sequence[Answer], Usage], bytes]
    param: str
    tells_row: bool = False


CHAT = Form("chatcmpl-", ChatChunks, chat_completion, "messages")
COMPLETION = Form("cmpl-", CompletionChunks, completion, "prompt")


@router.get("/models", summary="The served model")
async def models(request: Request) -> dict[str, Any]:
    """What a client may name as ``model``."""
    await caller_of(request, Scope.INFERENCE)
    return {"object": "list", "data": [model_object(lifecycle_of(request).engine.card)]}


@router.get("/models/{model:path}", summary="One model")
async def one_model(request: Request, model: str) -> dict[str, Any]:
    """The model's context and sampling defaults stand beside OpenAI's fields."""
    await caller_of(request, Scope.INFERENCE)
    card = lifecycle_of(request).engine.card
    check_model(model, card)
    return model_object(card)


@router.post("/chat/completions", summary="Chat")
async def chat_completions(request: Request) -> Response:
    """The next turn of a conversation, whole or as server-sent events."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, ChatCompletionRequest, lifecycle.settings.max_body_bytes)
    asked = await chat_asked(request, lifecycle, caller, body)
    return await answered(request, lifecycle, caller, body, [asked], CHAT)


@router.post("/completions", summary="Completion")
async def completions(request: Request) -> Response:
    """The continuation of a text, or of several, whole or as server-sent events."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, CompletionRequest, lifecycle.settings.max_body_bytes)
    asked = await completion_asked(request, lifecycle, caller, body)
    return await answered(request, lifecycle, caller, body, asked, COMPLETION)


async def answered(
    request: Request, lifecycle: Lifecycle, caller: Caller, body: Body, asked: Sequence[Asked], form: Form
) -> Response:
    """The answer as the client wants it: whole or streamed. Raises GatewayError."""
    card, settings = lifecycle.engine.card, lifecycle.settings
    generation = opened(request, lifecycle, caller, body, asked, form.param)
    heads = [Head(one.prompt.token_ids, one.echo) for one in asked for _ in range(body.choice_count)]
    wanted = replace(body.wanted, bytes_of=lifecycle.chat_format.token_bytes)
    row_id = asked[0].row.id.hex
    envelope = Envelope(
        form.id_prefix + row_id,
        card.name,
        int(time.time()),
        card.fingerprint,
        TIER if body.names_tier else None,
        {"message_id": row_id, "status": None} if form.tells_row else {},
    )
    if body.stream:
        chunks = form.chunks(envelope, wanted, heads)
        response: Response = EventStream(generation, chunks, settings.sse_keep_alive_seconds)
    else:
        response = await whole(generation, partial(form.whole, envelope, wanted, heads))
    return with_ignored(response, body, lifecycle)


def with_ignored(response: Response, body: Body, lifecycle: Lifecycle) -> Response:
    """Name the fields that were sent and change nothing here."""
    if ignored := {*body.ignored_fields(), *body.unknown_variables(lifecycle.chat_format.template_variables)}:
        names = ",".join(sorted(ignored)).encode("ascii", "replace").decode()
        response.headers["x-gateway-ignored-fields"] = "".join(filter(str.isprintable, names))[:1000]
    return response


def model_object(card: ModelCard) -> dict[str, Any]:
    """OpenAI's model object, and what a client should know beside it. ``root`` and ``parent`` are what
    routers and vLLM's benchmark read to tell a model from its adapters; vLLM's root is a path, which is
    nobody's business."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "chatglm-gateway",
        "root": card.name,
        "parent": None,
        "engine": card.engine,
        "max_model_len": card.max_model_len,
        "sampling_defaults": dict(card.sampling_defaults),
    }
