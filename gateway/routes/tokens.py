"""Text to tokens and back, as vLLM's server has it; the engine is not asked."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from adapters.openai.tokens import DetokenizeRequest, TokenizeChat, TokenizePrompt, TokenizeRequest
from gateway.access.caller import Caller, Scope
from gateway.access.identification import caller_of
from gateway.access.ownership import check_conversation
from gateway.errors import InvalidRequest
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import THREAD_CHARACTERS, chat_prompt, check_model, rendered
from gateway.routes.body import read
from gateway.stored_turns import stored_turns

router = APIRouter(tags=["Tokens"])


@router.post("/tokenize", summary="Count and list tokens")
async def tokenize(request: Request) -> dict[str, Any]:
    """The ids of a text or a conversation; their count is what usage calls prompt_tokens."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    asked = (await read(request, TokenizeRequest, lifecycle.settings.max_body_bytes)).root
    check_model(asked.model, lifecycle.engine.card)
    check_ids_are_known(lifecycle)
    if isinstance(asked, TokenizeChat):
        ids = await chat_ids(lifecycle, caller, asked)
    else:
        ids = await prompt_ids(lifecycle, asked)
    return {
        "count": len(ids),
        "max_model_len": lifecycle.engine.card.max_model_len,
        "tokens": list(ids),
        "token_strs": lifecycle.chat_format.token_strings(ids) if asked.return_token_strs else None,
    }


def check_ids_are_known(lifecycle: Lifecycle) -> None:
    """Raises InvalidRequest where another server has the model."""
    if lifecycle.engine.card.chat_format == "messages":
        raise InvalidRequest(
            "Another server answers here, which is handed text: its model's token ids are not known."
        )


async def chat_ids(lifecycle: Lifecycle, caller: Caller, asked: TokenizeChat) -> Any:
    """The ids that a conversation would be answered from. Raises GatewayError."""
    await check_conversation(lifecycle, caller, asked.conversation_id)
    turns = await stored_turns(lifecycle, caller, asked, "llm_chat")
    card, templates = lifecycle.engine.card, lifecycle.prompt_templates
    return (await chat_prompt(lifecycle.chat_format, card, asked, templates, turns)).prompt.token_ids


async def prompt_ids(lifecycle: Lifecycle, asked: TokenizePrompt) -> Any:
    """The ids of a text. Raises InvalidRequest."""
    chat_format, heavy = lifecycle.chat_format, len(asked.prompt) > THREAD_CHARACTERS
    if asked.add_special_tokens:
        prompt = await rendered(lambda: chat_format.encode(asked.prompt), heavy=heavy, param="prompt")
        return prompt.token_ids
    if heavy:
        return await asyncio.to_thread(chat_format.plain_ids, asked.prompt)
    return chat_format.plain_ids(asked.prompt)


@router.post("/detokenize", summary="Tokens to text")
async def detokenize(request: Request) -> dict[str, str]:
    """The text of ids, control tokens included."""
    lifecycle, _ = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    asked = await read(request, DetokenizeRequest, lifecycle.settings.max_body_bytes)
    check_model(asked.model, lifecycle.engine.card)
    check_ids_are_known(lifecycle)
    return {"prompt": await asyncio.to_thread(lifecycle.chat_format.decode, asked.tokens)}
