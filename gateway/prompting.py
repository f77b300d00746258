"""From messages to a prompt that fits the model's context; the same for every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from adapters.chat_format import ChatFormat, Conversation, Prompt, TextRules, UnrenderablePrompt
from adapters.openai.requests import Body
from engine.base import ModelCard
from gateway.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound

# Longer prompts are encoded in a thread: 10,000 characters take a few milliseconds, and every stream
# would wait for them.
THREAD_CHARACTERS = 8_000

MOST_ANSWERS = 1024


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


async def completion_prompt(
    chat_format: ChatFormat, given: str | list[int], rules: TextRules, *, special_tokens: bool = True
) -> tuple[Prompt, str]:
    """The prompt that asks for a continuation of a text or of ids, and its text. Raises InvalidRequest."""
    text = given if isinstance(given, str) else await decoded(chat_format, given)

    def render() -> Prompt:
        if isinstance(given, str) and not special_tokens:
            return chat_format.encode(chat_format.plain_ids(given), rules)
        return chat_format.encode(given, rules)

    heavy = isinstance(given, str) and len(given) > THREAD_CHARACTERS
    return await rendered(render, heavy=heavy, param="prompt"), text


async def decoded(chat_format: ChatFormat, token_ids: Sequence[int]) -> str:
    """The text of ids, off the event loop where there are many."""
    if len(token_ids) > THREAD_CHARACTERS:
        return await asyncio.to_thread(chat_format.decode, token_ids)
    return chat_format.decode(token_ids)


def token_budget(prompt_token_ids: Sequence[int], asked: int | None, card: ModelCard, param: str) -> int:
    """``max_tokens`` for the engine: what was asked for, at most all that is left of the context.

    Raises ContextLengthExceeded, naming ``param``, when the prompt leaves room for no token, and
    InvalidRequest for ids that the model does not have.
    """
    prompt_tokens = len(prompt_token_ids)
    room = card.max_model_len - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"The prompt has {prompt_tokens} tokens; this model's context is {card.max_model_len} tokens, "
            "and the answer needs at least one of them.",
            param,
        )
    if max(prompt_token_ids, default=0) >= card.vocabulary_size:
        raise InvalidRequest(
            f"The prompt has the token id {max(prompt_token_ids)}; this model's ids are below "
            f"{card.vocabulary_size}.",
            param,
        )
    return min(asked, room) if asked else room


def check(body: Body, card: ModelCard) -> None:
    """Raises GatewayError for what can be seen in the body alone."""
    check_model(body.model, card)
    if (refused := body.refused_field()) is not None:
        name, refusal = refused
        message = f"'{name}' is not supported with this value. {refusal.why}"
        raise InvalidRequest(message, name, "unsupported_parameter")
    if body.choice_count > 1 and body.is_greedy(card):
        raise InvalidRequest(
            f"'n' is {body.choice_count}, but with temperature 0 all choices would be the same: set n to 1, "
            "or a temperature above 0.",
            "n",
            "invalid_value",
        )
    if body.answer_count > MOST_ANSWERS:
        raise InvalidRequest(
            f"The request asks for {body.answer_count} choices, n for each prompt; at most {MOST_ANSWERS} "
            "are answered at once.",
            "n",
            "invalid_value",
        )


def check_model(name: str | None, card: ModelCard) -> None:
    """Raises ModelNotFound, naming what is served. A client that names no model gets the served one."""
    if name is not None and name != card.name:
        raise ModelNotFound(f"The model '{name[:100]}' is not served here; '{card.name}' is.", "model")
