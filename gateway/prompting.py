"""From messages to a prompt that fits the model's context; the same for every dialect."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace

from adapters.chat_format import ChatFormat, Conversation, Prompt, UnrenderablePrompt
from adapters.chatchat.parameters import completion_prompt as completion_text
from adapters.chatchat.parameters import (
    history_template,
    instructions,
    transcript,
    with_history,
    with_template,
)
from adapters.openai.body import Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.prompt_templates import DEFAULT, PromptTemplates, TemplateRefused
from engine.base import ChatMessage, ModelCard
from gateway.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from gateway.stored_turns import last, messages_of, with_most_turns
from persistence.conversations import Turn

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


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What asks for the next turn of a conversation, as ids and as messages; ``turns`` stored ones come
    before."""

    prompt: Prompt
    messages: Sequence[ChatMessage]
    turns: int


@dataclass(frozen=True, slots=True)
class CompletionPrompt:
    """What asks for a continuation, as ids and as text; ``turns`` stored ones come before."""

    prompt: Prompt
    text: str
    turns: int


async def chat_prompt(
    chat_format: ChatFormat,
    card: ModelCard,
    body: ChatCompletionRequest,
    templates: PromptTemplates,
    turns: Sequence[Turn] = (),
) -> ChatPrompt:
    """What asks for the next turn of ``body``'s conversation: with the history that came along, or as many of
    the stored ``turns`` as fit, and the last question in its template. Raises InvalidRequest.
    """
    conversation = body.conversation

    async def render(count: int) -> ChatPrompt:
        past = body.past or messages_of(last(turns, count))
        with refused_by_template():
            messages = with_history(conversation.messages, past)
            messages = with_template(messages, templates, body.template_name)
        try:
            prompt = await conversation_prompt(chat_format, replace(conversation, messages=messages))
        except InvalidRequest as error:
            start, turns_field = instructions(conversation.messages), body.turns_field if count else None
            name_as_sent(error, start, len(past), turns_field)
            name_question(error, body.messages_field)
            raise
        return ChatPrompt(prompt, messages, count)

    return await with_most_turns(render, len(turns), body.token_limit, card)


async def conversation_prompt(chat_format: ChatFormat, asked: Conversation) -> Prompt:
    """The prompt of a conversation as it is. Raises InvalidRequest."""
    characters = sum(len(message.content) for message in asked.messages)
    heavy = characters > THREAD_CHARACTERS or bool(asked.tools)
    return await rendered(lambda: chat_format.render(asked), heavy=heavy, param="messages")


def name_as_sent(error: InvalidRequest, start: int, count: int, turns_field: str | None) -> None:
    """Let ``error`` name what the client sent, in its param and in its text."""
    param, error.param = error.param, as_sent(error.param, start, count, turns_field)
    if param is not None and error.param is not None:
        error.message = error.message.replace(bracketed(param), bracketed(error.param))


def name_question(error: InvalidRequest, field: str) -> None:
    """Let ``error`` name ``field`` where it names a message, in its param and in its text: the one message of
    a question that came in place of messages."""
    param = error.param
    if field != "messages" and param is not None and param.partition(".")[0] == "messages":
        error.param = field
        error.message = error.message.replace(bracketed(param), field)


def as_sent(param: str | None, start: int, count: int, turns_field: str | None = None) -> str | None:
    """A message's place as the client knows it: ``count`` items of a history stand from ``start`` on, or
    stored turns that ``turns_field`` asked for."""
    if count == 0 or param is None or (match := re.fullmatch(r"messages\.(\d+)(.*)", param)) is None:
        return param
    place, rest = int(match[1]), match[2]
    if place < start:
        return param
    if place >= start + count:
        return f"messages.{place - count}{rest}"
    return turns_field or f"history.{place - start}{rest}"


def bracketed(param: str) -> str:
    """A field's place as texts have it, as ``messages[1].content``."""
    return re.sub(r"\.(\d+)", r"[\1]", param)


async def completion_prompt(
    chat_format: ChatFormat,
    card: ModelCard,
    body: CompletionRequest,
    templates: PromptTemplates,
    given: str | list[int],
    turns: Sequence[Turn] = (),
) -> CompletionPrompt:
    """What asks for a continuation of ids; or of a text, with the history that came along, or as many of the
    stored ``turns`` as fit. Raises InvalidRequest."""
    if not isinstance(given, str):
        return CompletionPrompt(*await ids_prompt(chat_format, body, given), 0)
    if body.stored_turns:
        # Also where there are none yet: what is refused later is refused at once.
        with refused_by_template():
            history_template(templates, body.template_name)

    async def render(count: int) -> CompletionPrompt:
        past = body.past or messages_of(last(turns, count))
        with refused_by_template():
            text = completion_text(given, templates, body.template_name, transcript(past))
        return CompletionPrompt(await text_prompt(chat_format, body, text), text, count)

    return await with_most_turns(render, len(turns), body.token_limit, card)


async def text_prompt(chat_format: ChatFormat, body: CompletionRequest, text: str) -> Prompt:
    """The prompt of a text as it is. Raises InvalidRequest."""

    def render() -> Prompt:
        begun = body.add_special_tokens is not False
        return chat_format.encode(text if begun else chat_format.plain_ids(text), body.rules)

    return await rendered(render, heavy=is_heavy(text, body), param="prompt")


async def ids_prompt(
    chat_format: ChatFormat, body: CompletionRequest, given: list[int]
) -> tuple[Prompt, str]:
    """The prompt of ids as they are, and their text. Raises InvalidRequest."""
    if body.past or body.stored_turns or body.template_name != DEFAULT:
        raise InvalidRequest("A prompt of token ids takes no history and no prompt template.", "prompt")
    heavy = is_heavy(given, body)
    # A format without ids says so here.
    prompt = await rendered(lambda: chat_format.encode(given, body.rules), heavy=heavy, param="prompt")
    text = await asyncio.to_thread(chat_format.decode, given) if heavy else chat_format.decode(given)
    return prompt, text


def is_heavy(prompt: Sized, body: CompletionRequest) -> bool:
    """Whether it takes long to make, with all others of its request: each may be short."""
    return len(prompt) * len(body.prompts) > THREAD_CHARACTERS


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
