"""From a checked body to what the engine is given, and its row; the same for every dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import Request

from adapters.chat_format import Prompt
from adapters.openai.body import SESSION_ID, Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.text_reader import SilentReader
from engine.base import ChatMessage, GenerationRequest
from gateway.access.caller import Caller
from gateway.access.ownership import check_conversation
from gateway.deadline import deadline_seconds
from gateway.generation import Generation
from gateway.guarding import guarded
from gateway.lifecycle import Lifecycle
from gateway.prompt_answer import Query
from gateway.prompting import chat_prompt, check, completion_prompt, token_budget
from gateway.stored_turns import stored_turns
from gateway.tracing import trace_of
from persistence.message_row import MessageRow

if TYPE_CHECKING:
    from gateway.tracing.generation_trace import GenerationTrace

_SESSION_ID = re.compile(SESSION_ID)


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of a request: what the engine is given, what the client wants repeated, and its row.

    ``completion`` is the text to continue, None for a chat; with ``is_ids`` it was given as token ids.
    """

    prompt: Prompt
    messages: Sequence[ChatMessage]
    echo: str
    row: MessageRow
    completion: str | None = None
    is_ids: bool = False


async def chat_asked(
    request: Request,
    lifecycle: Lifecycle,
    caller: Caller,
    body: ChatCompletionRequest,
    chat_type: str = "llm_chat",
) -> Asked:
    """The next turn of a conversation; stored turns are those of ``chat_type``. Raises GatewayError."""
    check(body, lifecycle.engine.card)
    await check_conversation(lifecycle, caller, body.conversation_id)
    found = await guarded(lifecycle.guard, lifecycle.chat_format, body, request.state.request_id)
    last_query = next((message.text for message in reversed(body.messages) if message.role == "user"), "")
    row = new_row(request, lifecycle, caller, body, last_query, chat_type)
    row.meta_data = asked_fields(body, caller) | session_field(request, body) | found
    if len(body.messages) > 1 or body.messages[0].role != "user":
        row.messages = [message.stored_fields() for message in body.messages]
    row.details = body.history_fields() | body.tool_fields()
    turns = await stored_turns(lifecycle, caller, body, chat_type)
    made = await chat_prompt(
        lifecycle.chat_format, lifecycle.engine.card, body, lifecycle.prompt_templates, turns
    )
    row.meta_data |= turns_field(body, made.turns)
    return Asked(made.prompt, made.messages, body.echoed, row)


async def completion_asked(
    request: Request, lifecycle: Lifecycle, caller: Caller, body: CompletionRequest
) -> list[Asked]:
    """The continuation of each of ``body``'s prompts. Raises GatewayError."""
    check(body, lifecycle.engine.card)
    await check_conversation(lifecycle, caller, body.conversation_id)
    found = await guarded(lifecycle.guard, lifecycle.chat_format, body, request.state.request_id)
    shared = asked_fields(body, caller) | session_field(request, body) | found
    turns = await stored_turns(lifecycle, caller, body, "completion")
    chat_format, card, templates = lifecycle.chat_format, lifecycle.engine.card, lifecycle.prompt_templates
    asked: list[Asked] = []
    for place, given in enumerate(body.prompts):
        made = await completion_prompt(chat_format, card, body, templates, given, turns)
        prompt, text = made.prompt, made.text
        query = given if isinstance(given, str) else text
        row = new_row(request, lifecycle, caller, body, query, "completion")
        row.meta_data, row.details = shared | turns_field(body, made.turns), body.history_fields()
        if not isinstance(given, str):
            row.details["prompt_token_ids"] = given
        if len(body.prompts) > 1:
            row.meta_data["answer"] = {"id": (asked[0].row if asked else row).id.hex, "prompt": place}
        if body.only_prompt:
            prompt = replace(prompt, new_reader=SilentReader)
        echo, is_ids = text if body.echo else "", not isinstance(given, str)
        asked.append(Asked(prompt, (ChatMessage("user", text),), echo, row, text, is_ids))
    return asked


def new_row(
    request: Request, lifecycle: Lifecycle, caller: Caller, body: Body, query: str, chat_type: str
) -> MessageRow:
    """The row of a prompt that is about to run."""
    return MessageRow(
        endpoint=request.url.path,
        model=lifecycle.engine.card.name,
        request_id=request.state.request_id,
        query=query,
        chat_type=chat_type,
        conversation_id=body.conversation_id,
        user_id=caller.user_id,
    )


def asked_fields(body: Body, caller: Caller) -> dict[str, Any]:
    """What was asked for beside all text, and with which key, for the row's meta_data."""
    key = {} if caller.key_id is None else {"key": caller.key_id.hex}
    return {"stream": bool(body.stream), "sampling": body.sampling_fields()} | body.label_fields() | key


def session_field(request: Request, body: Body) -> dict[str, Any]:
    """The client's name for what its related requests belong to, as vLLM reads it: the body's, else that of
    the header x-session-id, which counts for nothing where it is not sane. It opens nothing: no stored turns,
    no cache."""
    given = body.session_id or request.headers.get("x-session-id")
    return {"session_id": given} if given and _SESSION_ID.fullmatch(given) else {}


def turns_field(body: Body, turns: int) -> dict[str, Any]:
    """How many stored turns came before, where they were asked for, for the row's meta_data."""
    return {"turns": turns} if body.stored_turns else {}


def opened(
    request: Request, lifecycle: Lifecycle, caller: Caller, body: Body, asked: Sequence[Asked], param: str
) -> Generation:
    """The way of a request through the gateway. ``param``: the field that a prompt comes from, for errors.
    Raises InvalidRequest."""
    most_tokens = body.token_limit
    if most_tokens is None:
        prompt_tokens = sum(len(one.prompt.token_ids) for one in asked)
        limiter = lifecycle.generations.limiter
        most_tokens = limiter.answer_tokens(caller, prompt_tokens, body.answer_count)
        if most_tokens is not None:
            # The engine refuses less than min_tokens.
            most_tokens = max(most_tokens, body.min_tokens or 0)
    trace = traced(request, asked)
    headers = trace.headers if trace is not None else None
    generation = lifecycle.generations.open(
        [query_of(lifecycle, body, one, param, most_tokens, headers) for one in asked],
        request.receive,
        deadline_seconds(request.headers, lifecycle.settings.request_timeout_seconds),
        caller,
        trace,
    )
    # For the request's log line and its span.
    request.state.generation = generation
    return generation


def traced(request: Request, asked: Sequence[Asked]) -> GenerationTrace | None:
    """What is told of the way in the request's trace, which the rows name; None while tracing is off."""
    of_request = trace_of(request)
    if of_request is None:
        return None
    trace = of_request.generation()
    for one in asked:
        one.row.meta_data |= trace.row_fields
    return trace


def query_of(
    lifecycle: Lifecycle,
    body: Body,
    asked: Asked,
    param: str,
    most_tokens: int | None,
    trace_headers: Mapping[str, str] | None = None,
) -> Query:
    """The engine's requests for one prompt: one for each choice, of at most ``most_tokens``. Raises
    InvalidRequest."""
    prompt, card, repetition = asked.prompt, lifecycle.engine.card, lifecycle.settings.repetition
    budget = token_budget(prompt.token_ids, most_tokens, card, body.field_names.get("prompt", param))
    as_asked = replace(body.as_asked, completion=asked.completion, is_ids=asked.is_ids)
    requests = [
        GenerationRequest(
            request_id=asked.row.id.hex + (f"-{choice}" if choice else ""),
            prompt_token_ids=prompt.token_ids,
            messages=tuple(asked.messages),
            sampling=body.sampling(budget, prompt, choice, repetition),
            stream=bool(body.stream) or prompt.ends_early,
            detokenize=not prompt.reads_ids,
            priority=body.priority or 0,
            cache_salt=body.cache_salt,
            session_id=asked.row.meta_data.get("session_id"),
            asked=as_asked,
            trace_headers=trace_headers,
        )
        for choice in range(body.choice_count)
    ]
    return Query(asked.row, requests, prompt.new_reader, body.field_names, lifecycle.guard)
