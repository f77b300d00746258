"""From messages to a prompt that fits the model's context; the same for every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.chat_format import ChatFormat, Conversation, Prompt, UnrenderablePrompt
from engine.base import ModelCard
from gateway.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound

# Longer prompts are encoded in a thread: 10,000 characters take a few milliseconds, and every stream
# would wait for them.
THREAD_CHARACTERS = 8_000


async def rendered(render: Callable[[], Prompt], *, heavy: bool, param: str) -> Prompt:
    """The prompt's ids, off the event loop where they are ``heavy`` to make.

    Raises InvalidRequest, naming ``param``, when the model's format has no place for the messages.
    """
    try:
        return await asyncio.to_thread(render) if heavy else render()
    except UnrenderablePrompt as error:
        raise InvalidRequest(str(error), error.param or param) from error


async def chat_prompt(chat_format: ChatFormat, conversation: Conversation) -> Prompt:
    """The prompt that asks for the next turn. Raises InvalidRequest."""
    characters = sum(len(message.content) for message in conversation.messages)
    heavy = characters > THREAD_CHARACTERS or bool(conversation.tools)
    return await rendered(lambda: chat_format.render(conversation), heavy=heavy, param="messages")


def token_budget(prompt_tokens: int, asked: int | None, card: ModelCard, param: str) -> int:
    """``max_tokens`` for the engine: what was asked for, at most all that is left of the context.

    Raises ContextLengthExceeded, naming ``param``, when the prompt leaves room for no token.
    """
    room = card.max_model_len - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"The prompt has {prompt_tokens} tokens; this model's context is {card.max_model_len} tokens, "
            "and the answer needs at least one of them.",
            param,
        )
    return min(asked, room) if asked else room


def check_model(name: str | None, card: ModelCard) -> None:
    """Raises ModelNotFound, naming what is served. A client that names no model gets the served one."""
    if name is not None and name != card.name:
        raise ModelNotFound(f"The model '{name[:100]}' is not served here; '{card.name}' is.", "model")
