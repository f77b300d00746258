"""From messages to a prompt that fits the model's context; the same for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import replace

from adapters.chat_format import ChatFormat, Conversation, Prompt, UnrenderablePrompt
from adapters.chatchat.parameters import completion_prompt as completion_text
from adapters.chatchat.parameters import instructions, with_history, with_template
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.prompt_templates import DEFAULT, PromptTemplates, TemplateRefused
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


def conversation_of(body: ChatCompletionRequest, templates: PromptTemplates) -> Conversation:
    """What is asked of the model, with the history that came along and the last question in its template.

    Raises InvalidRequest.
    """
    no_stored_turns(body)
    conversation = body.conversation
    with refused_by_template():
        messages = with_history(conversation.messages, body.past)
        return replace(conversation, messages=with_template(messages, templates, body.template_name))


async def chat_prompt(chat_format: ChatFormat, body: ChatCompletionRequest, asked: Conversation) -> Prompt:
    """The prompt that asks for the next turn of ``body``'s conversation. Raises InvalidRequest."""
    characters = sum(len(message.content) for message in asked.messages)
    heavy = characters > THREAD_CHARACTERS or bool(asked.tools)
    try:
        return await rendered(lambda: chat_format.render(asked), heavy=heavy, param="messages")
    except InvalidRequest as error:
        error.param = as_sent(error.param, instructions(body.conversation.messages), len(body.past))
        raise


def as_sent(param: str | None, start: int, count: int) -> str | None:
    """A message's place as the client knows it: ``count`` items of a history stand from ``start`` on."""
    if count == 0 or param is None or (match := re.fullmatch(r"messages\.(\d+)(.*)", param)) is None:
        return param
    place, rest = int(match[1]), match[2]
    if place < start:
        return param
    return f"history.{place - start}{rest}" if place < start + count else f"messages.{place - count}{rest}"


async def completion_prompt(
    chat_format: ChatFormat,
    body: CompletionRequest,
    templates: PromptTemplates,
    given: str | list[int],
) -> tuple[Prompt, str]:
    """The prompt that asks for a continuation of a text or of ids, and its text. Raises InvalidRequest."""
    no_stored_turns(body)
    if isinstance(given, str):
        with refused_by_template():
            text = completion_text(given, templates, body.template_name, body.history_text)
        heavy = is_heavy(text, body)
    elif body.past or body.template_name != DEFAULT:
        raise InvalidRequest("A prompt of token ids takes no history and no prompt template.", "prompt")
    else:
        heavy = is_heavy(given, body)
        text = await asyncio.to_thread(chat_format.decode, given) if heavy else chat_format.decode(given)

    def render() -> Prompt:
        if not isinstance(given, str):
            return chat_format.encode(given, body.rules)
        begun = body.add_special_tokens is not False
        return chat_format.encode(text if begun else chat_format.plain_ids(text), body.rules)

    return await rendered(render, heavy=heavy, param="prompt"), text


def is_heavy(prompt: Sized, body: CompletionRequest) -> bool:
    """Whether it takes long to make, with all others of its request: each may be short."""
    return len(prompt) * len(body.prompts) > THREAD_CHARACTERS


def no_stored_turns(body: Body) -> None:
    """Raises InvalidRequest for a history that is to be read from the rows."""
    if body.stored_turns:
        param = "history" if isinstance(body.history, int) else "history_len"
        raise InvalidRequest(
            f"'{param}' asks for stored turns of the conversation, which can't be read yet: send them as a "
            "list in 'history'.",
            param,
            "unsupported_parameter",
        )


@contextlib.contextmanager
def refused_by_template() -> Iterator[None]:
    """A template that does not fit is the request's fault."""
    try:
        yield
    except TemplateRefused as error:
        raise InvalidRequest(str(error), "prompt_name", "invalid_value") from error


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
