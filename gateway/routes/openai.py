"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.openai.answers import ChatChunks, CompletionChunks, Envelope, chat_completion, completion
from adapters.openai.requests import Body, ChatCompletionRequest, CompletionRequest
from engine.base import ChatMessage, GenerationRequest, ModelCard, Usage
from gateway.errors import InvalidRequest
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import check_model, rendered, token_budget
from gateway.routes.body import read
from gateway.sse import EventStream
from persistence.recorder import MessageRow

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers of one route look."""

    id_prefix: str
    chunks: type[ChatChunks] | type[CompletionChunks]
    whole: Callable[[Envelope, str, str, Usage], bytes]


CHAT = Form("chatcmpl-", ChatChunks, chat_completion)
COMPLETION = Form("cmpl-", CompletionChunks, completion)


@router.get("/models", summary="The served model")
async def models(request: Request) -> dict[str, Any]:
    """What a client may name as ``model``."""
    return {"object": "list", "data": [model_object(lifecycle_of(request).engine.card)]}


@router.get("/models/{model:path}", summary="One model")
async def one_model(request: Request, model: str) -> dict[str, Any]:
    """The model's context and sampling defaults stand beside OpenAI's fields."""
    card = lifecycle_of(request).engine.card
    check_model(model, card)
    return model_object(card)


@router.post("/chat/completions", summary="Chat")
async def chat_completions(request: Request) -> Response:
    """The next turn of a conversation, whole or as server-sent events."""
    lifecycle = lifecycle_of(request)
    asked = await read(request, ChatCompletionRequest, lifecycle.settings.max_body_bytes)
    check(asked, lifecycle.engine.card)
    messages = tuple(ChatMessage(message.role, message.text) for message in asked.messages)
    last_query = next((message.content for message in reversed(messages) if message.role == "user"), "")
    row = new_row(request, lifecycle, asked, last_query, "llm_chat")
    if len(messages) > 1 or messages[0].role != "user":
        row.meta_data["messages"] = [
            {"role": message.role, "content": message.content} for message in messages
        ]
    return await answered(request, lifecycle, asked, messages, row, CHAT)


@router.post("/completions", summary="Completion")
async def completions(request: Request) -> Response:
    """The continuation of a text, whole or as server-sent events."""
    lifecycle = lifecycle_of(request)
    asked = await read(request, CompletionRequest, lifecycle.settings.max_body_bytes)
    check(asked, lifecycle.engine.card)
    row = new_row(request, lifecycle, asked, asked.text, "completion")
    return await answered(request, lifecycle, asked, (ChatMessage("user", asked.text),), row, COMPLETION)


def check(asked: Body, card: ModelCard) -> None:
    """Raises GatewayError for what can be seen in the body alone."""
    check_model(asked.model, card)
    if (name := asked.refused_field()) is not None:
        raise InvalidRequest(f"'{name}' is not supported with this value.", name, "unsupported_parameter")


def new_row(request: Request, lifecycle: Lifecycle, asked: Body, query: str, chat_type: str) -> MessageRow:
    """The row of a request that is about to run."""
    return MessageRow(
        endpoint=request.url.path,
        model=lifecycle.engine.card.name,
        request_id=request.state.request_id,
        query=query,
        chat_type=chat_type,
        meta_data={"stream": bool(asked.stream), "sampling": asked.sampling_fields()},
    )


async def prepared(
    lifecycle: Lifecycle, asked: Body, messages: tuple[ChatMessage, ...], row: MessageRow
) -> GenerationRequest:
    """What the engine is asked. Raises InvalidRequest."""
    chat_format = lifecycle.chat_format
    chat = isinstance(asked, ChatCompletionRequest)
    param = "messages" if chat else "prompt"
    prompt = await rendered(
        lambda: chat_format.render(messages) if chat else chat_format.encode(messages[0].content),
        sum(len(message.content) for message in messages),
        param,
    )
    budget = token_budget(len(prompt.token_ids), asked.token_limit, lifecycle.engine.card, param)
    return GenerationRequest(
        request_id=row.id.hex,
        prompt_token_ids=prompt.token_ids,
        messages=messages,
        sampling=asked.sampling(budget, prompt.stop_token_ids),
        stream=bool(asked.stream),
    )


async def answered(
    request: Request,
    lifecycle: Lifecycle,
    asked: Body,
    messages: tuple[ChatMessage, ...],
    row: MessageRow,
    form: Form,
) -> Response:
    """The answer as the client wants it: whole or streamed."""
    generation_request = await prepared(lifecycle, asked, messages, row)
    card = lifecycle.engine.card
    envelope = Envelope(form.id_prefix + row.id.hex, card.name, int(time.time()), card.fingerprint)
    if asked.stream:
        chunks = form.chunks(envelope, asked.include_usage)
        response: Response = EventStream(lifecycle.generations, generation_request, row, chunks)
    else:
        response = await whole(request, lifecycle, generation_request, row, partial(form.whole, envelope))
    return with_ignored(response, asked)


async def whole(
    request: Request,
    lifecycle: Lifecycle,
    generation_request: GenerationRequest,
    row: MessageRow,
    encode: Callable[[str, str, Usage], bytes],
) -> Response:
    """An answer in one piece, given after its row's commit."""
    async with lifecycle.generations.open(generation_request, row, request.receive) as generation:
        while (await generation.next()).finish_reason is None:
            pass
        await generation.settle()
        if generation.failure is not None:
            raise generation.failure
        if generation.status == "cancelled":
            # Nobody is there to read an answer.
            return Response(status_code=499)
        assert generation.finish_reason is not None
        content = encode(generation.text, generation.finish_reason, generation.usage)
        return Response(content, media_type="application/json")


def with_ignored(response: Response, asked: Body) -> Response:
    """Name the fields that were sent and mean nothing here."""
    if ignored := asked.ignored_fields():
        names = ",".join(sorted(ignored)).encode("ascii", "replace").decode()
        response.headers["x-gateway-ignored-fields"] = "".join(filter(str.isprintable, names))[:1000]
    return response


def model_object(card: ModelCard) -> dict[str, Any]:
    """OpenAI's model object, and what a client should know beside it."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "chatglm-gateway",
        "engine": card.engine,
        "max_model_len": card.max_model_len,
        "sampling_defaults": dict(card.sampling_defaults),
    }
