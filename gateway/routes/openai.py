"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.chat_format import Answer, Prompt
from adapters.openai.answers import (
    ChatChunks,
    CompletionChunks,
    Envelope,
    Wanted,
    chat_completion,
    completion,
)
from adapters.openai.requests import Body, ChatCompletionRequest, CompletionRequest
from engine.base import ChatMessage, GenerationRequest, ModelCard, Usage
from gateway.errors import InvalidRequest
from gateway.generation import Generation
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import THREAD_CHARACTERS, chat_prompt, check_model, rendered, token_budget
from gateway.routes.body import read
from gateway.sse import EventStream
from persistence.recorder import MessageRow

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers of one route look."""

    id_prefix: str
    chunks: type[ChatChunks] | type[CompletionChunks]
    whole: Callable[[Envelope, Wanted, Answer, Usage], bytes]
    param: str


CHAT = Form("chatcmpl-", ChatChunks, chat_completion, "messages")
COMPLETION = Form("cmpl-", CompletionChunks, completion, "prompt")


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
    conversation = asked.conversation
    messages = conversation.messages
    last_query = next((message.content for message in reversed(messages) if message.role == "user"), "")
    row = new_row(request, lifecycle, asked, last_query, "llm_chat")
    if len(messages) > 1 or messages[0].role != "user":
        row.meta_data["messages"] = [message.stored_fields() for message in asked.messages]
    row.meta_data |= asked.tool_fields()
    prompt = await chat_prompt(lifecycle.chat_format, conversation)
    return await answered(request, lifecycle, asked, messages, prompt, row, CHAT)


@router.post("/completions", summary="Completion")
async def completions(request: Request) -> Response:
    """The continuation of a text, whole or as server-sent events."""
    lifecycle = lifecycle_of(request)
    asked = await read(request, CompletionRequest, lifecycle.settings.max_body_bytes)
    check(asked, lifecycle.engine.card)
    row = new_row(request, lifecycle, asked, asked.text, "completion")
    prompt = await rendered(
        lambda: lifecycle.chat_format.encode(asked.text, asked.rules),
        heavy=len(asked.text) > THREAD_CHARACTERS,
        param="prompt",
    )
    messages = (ChatMessage("user", asked.text),)
    return await answered(request, lifecycle, asked, messages, prompt, row, COMPLETION)


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


async def answered(
    request: Request,
    lifecycle: Lifecycle,
    asked: Body,
    messages: Sequence[ChatMessage],
    prompt: Prompt,
    row: MessageRow,
    form: Form,
) -> Response:
    """The answer as the client wants it: whole or streamed. Raises GatewayError."""
    card = lifecycle.engine.card
    budget = token_budget(len(prompt.token_ids), asked.token_limit, card, form.param)
    generation_request = GenerationRequest(
        request_id=row.id.hex,
        prompt_token_ids=prompt.token_ids,
        messages=tuple(messages),
        sampling=asked.sampling(budget, prompt),
        stream=bool(asked.stream) or prompt.ends_early,
        detokenize=not prompt.reads_ids,
    )
    envelope = Envelope(form.id_prefix + row.id.hex, card.name, int(time.time()), card.fingerprint)
    reader = prompt.new_reader()
    if asked.stream:
        chunks = form.chunks(envelope, asked.wanted)
        response: Response = EventStream(lifecycle.generations, generation_request, reader, row, chunks)
    else:
        generation = lifecycle.generations.open(generation_request, reader, row, request.receive)
        response = await whole(generation, partial(form.whole, envelope, asked.wanted))
    return with_ignored(response, asked)


async def whole(generation: Generation, encode: Callable[[Answer, Usage], bytes]) -> Response:
    """An answer in one piece, given after its row's commit."""
    async with generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
        if generation.failure is not None:
            raise generation.failure
        if generation.status == "cancelled":
            # Nobody is there to read an answer.
            return Response(status_code=499)
        content = encode(generation.answer, generation.usage)
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
