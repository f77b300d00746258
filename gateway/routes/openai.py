"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.chat_format import Answer, Prompt
from adapters.openai.answers import Envelope, Head, Wanted, chat_completion, completion
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.chunks import ChatChunks, CompletionChunks
from adapters.openai.completion_request import CompletionRequest
from adapters.text_reader import SilentReader
from engine.base import ChatMessage, GenerationRequest, ModelCard, Usage
from gateway.deadline import deadline_seconds
from gateway.generation import Generation
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompt_answer import Query
from gateway.prompting import (
    chat_prompt,
    check,
    check_model,
    completion_prompt,
    token_budget,
)
from gateway.routes.body import read
from gateway.sse import EventStream, timing_headers
from gateway.stored_turns import stored_turns
from persistence.message_row import MessageRow

router = APIRouter(prefix="/v1", tags=["OpenAI"])

# What service_tier is answered with: there is one.
TIER = "default"


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers of one route look."""

    id_prefix: str
    chunks: type[ChatChunks] | type[CompletionChunks]
    whole: Callable[[Envelope, Wanted, Sequence[Head], Sequence[Answer], Usage], bytes]
    param: str


CHAT = Form("chatcmpl-", ChatChunks, chat_completion, "messages")
COMPLETION = Form("cmpl-", CompletionChunks, completion, "prompt")


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of a request: what the engine is given, what the client wants repeated, and its row."""

    prompt: Prompt
    messages: Sequence[ChatMessage]
    echo: str
    row: MessageRow


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
    body = await read(request, ChatCompletionRequest, lifecycle.settings.max_body_bytes)
    check(body, lifecycle.engine.card)
    last_query = next((message.text for message in reversed(body.messages) if message.role == "user"), "")
    row = new_row(request, lifecycle, body, last_query, "llm_chat")
    row.meta_data = asked_fields(body)
    if len(body.messages) > 1 or body.messages[0].role != "user":
        row.messages = [message.stored_fields() for message in body.messages]
    row.details = body.history_fields() | body.tool_fields()
    turns = await stored_turns(lifecycle, body, row.chat_type)
    made = await chat_prompt(
        lifecycle.chat_format, lifecycle.engine.card, body, lifecycle.prompt_templates, turns
    )
    row.meta_data |= turns_field(body, made.turns)
    asked = Asked(made.prompt, made.messages, body.echoed, row)
    return await answered(request, lifecycle, body, [asked], CHAT)


@router.post("/completions", summary="Completion")
async def completions(request: Request) -> Response:
    """The continuation of a text, or of several, whole or as server-sent events."""
    lifecycle = lifecycle_of(request)
    body = await read(request, CompletionRequest, lifecycle.settings.max_body_bytes)
    check(body, lifecycle.engine.card)
    shared = asked_fields(body)
    turns = await stored_turns(lifecycle, body, "completion")
    chat_format, card, templates = lifecycle.chat_format, lifecycle.engine.card, lifecycle.prompt_templates
    asked: list[Asked] = []
    for place, given in enumerate(body.prompts):
        made = await completion_prompt(chat_format, card, body, templates, given, turns)
        prompt, text = made.prompt, made.text
        row = new_row(request, lifecycle, body, given if isinstance(given, str) else text, "completion")
        row.meta_data, row.details = shared | turns_field(body, made.turns), body.history_fields()
        if not isinstance(given, str):
            row.details["prompt_token_ids"] = given
        if len(body.prompts) > 1:
            row.meta_data["answer"] = {"id": (asked[0].row if asked else row).id.hex, "prompt": place}
        if body.only_prompt:
            prompt = replace(prompt, new_reader=SilentReader)
        asked.append(Asked(prompt, (ChatMessage("user", text),), text if body.echo else "", row))
    return await answered(request, lifecycle, body, asked, COMPLETION)


def new_row(request: Request, lifecycle: Lifecycle, body: Body, query: str, chat_type: str) -> MessageRow:
    """The row of a prompt that is about to run."""
    return MessageRow(
        endpoint=request.url.path,
        model=lifecycle.engine.card.name,
        request_id=request.state.request_id,
        query=query,
        chat_type=chat_type,
        conversation_id=body.conversation_id,
    )


def asked_fields(body: Body) -> dict[str, Any]:
    """What was asked for beside all text, for the row's meta_data."""
    return {"stream": bool(body.stream), "sampling": body.sampling_fields()} | body.label_fields()


def turns_field(body: Body, turns: int) -> dict[str, Any]:
    """How many stored turns came before, where they were asked for, for the row's meta_data."""
    return {"turns": turns} if body.stored_turns else {}


async def answered(
    request: Request, lifecycle: Lifecycle, body: Body, asked: Sequence[Asked], form: Form
) -> Response:
    """The answer as the client wants it: whole or streamed. Raises GatewayError."""
    card, settings = lifecycle.engine.card, lifecycle.settings
    generation = lifecycle.generations.open(
        [query_of(body, one, card, form) for one in asked],
        request.receive,
        deadline_seconds(request.headers, settings.request_timeout_seconds),
    )
    heads = [Head(one.prompt.token_ids, one.echo) for one in asked for _ in range(body.choice_count)]
    wanted = replace(body.wanted, bytes_of=lifecycle.chat_format.token_bytes)
    envelope = Envelope(
        form.id_prefix + asked[0].row.id.hex,
        card.name,
        int(time.time()),
        card.fingerprint,
        TIER if body.names_tier else None,
    )
    if body.stream:
        chunks = form.chunks(envelope, wanted, heads)
        response: Response = EventStream(generation, chunks, settings.sse_keep_alive_seconds)
    else:
        response = await whole(generation, partial(form.whole, envelope, wanted, heads))
    return with_ignored(response, body, lifecycle)


def query_of(body: Body, asked: Asked, card: ModelCard, form: Form) -> Query:
    """The engine's requests for one prompt: one for each choice. Raises InvalidRequest."""
    prompt = asked.prompt
    budget = token_budget(prompt.token_ids, body.token_limit, card, form.param)
    requests = [
        GenerationRequest(
            request_id=asked.row.id.hex + (f"-{choice}" if choice else ""),
            prompt_token_ids=prompt.token_ids,
            messages=tuple(asked.messages),
            sampling=body.sampling(budget, prompt, choice),
            stream=bool(body.stream) or prompt.ends_early,
            detokenize=not prompt.reads_ids,
            priority=body.priority or 0,
            cache_salt=body.cache_salt,
        )
        for choice in range(body.choice_count)
    ]
    return Query(asked.row, requests, prompt.new_reader, body.field_names)


async def whole(generation: Generation, encode: Callable[[Sequence[Answer], Usage], bytes]) -> Response:
    """An answer in one piece, given after its rows' commit."""
    async with generation:
        while not generation.ended:
            await generation.next()
        await generation.settle()
        if generation.failure is not None:
            raise generation.failure
        if generation.status == "cancelled":
            # Nobody is there to read an answer.
            return Response(status_code=499)
        content = encode(generation.answers, generation.usage)
        return Response(content, media_type="application/json", headers=timing_headers(generation))


def with_ignored(response: Response, body: Body, lifecycle: Lifecycle) -> Response:
    """Name the fields that were sent and change nothing here."""
    if ignored := {*body.ignored_fields(), *body.unknown_variables(lifecycle.chat_format.template_variables)}:
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
