"""A conversation's stored turns: read from the rows, and as many of them put before a request as fit."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from adapters.chat_format import Prompt
from adapters.openai.body import Body
from engine.base import ChatMessage, ModelCard
from gateway import metrics
from gateway.access.caller import Caller
from gateway.access.ownership import owner_of
from gateway.errors import InvalidRequest, Unavailable
from gateway.lifecycle import Lifecycle
from persistence.conversations import Turn, last_turns
from persistence.database import DatabaseUnavailable

log = logging.getLogger("gateway.stored_turns")

# No more text is read than a context can hold: tokens are shorter than this on average, but for those of
# blanks.
MOST_BYTES_PER_TOKEN = 16

# What stored turns leave free for an answer without max_tokens: more than nearly every answer of a chat
# takes; and of a small context three quarters are for what was said before.
ANSWER_TOKENS = 1024
ANSWER_SHARE = 4


class WithPrompt(Protocol):
    """What comes of rendering."""

    @property
    def prompt(self) -> Prompt: ...


Rendered = TypeVar("Rendered", bound=WithPrompt)


async def stored_turns(lifecycle: Lifecycle, caller: Caller, body: Body, chat_type: str) -> list[Turn]:
    """The turns that ``body`` asks for, oldest first, as far as a context can hold them; with authentication
    the caller's.

    What was closed before is among them. Raises InvalidRequest where rows keep no text, and Unavailable.
    """
    if not body.stored_turns or body.conversation_id is None:
        return []
    settings, field = lifecycle.settings, body.turns_field
    if settings.store_content == "none":
        raise InvalidRequest(
            f"'{field}' asks for stored turns of the conversation, and this gateway stores no text "
            "(store_content=none): send them as a list in 'history'.",
            field,
            "unsupported_parameter",
        )
    seconds = settings.database_timeout_seconds
    if not await lifecycle.recorder.caught_up(seconds):
        raise _unavailable(field, "rows wait for PostgreSQL")
    try:
        return await last_turns(
            lifecycle.database,
            body.conversation_id,
            chat_type,
            body.stored_turns,
            owner=owner_of(lifecycle, caller),
            most_bytes=lifecycle.engine.card.max_model_len * MOST_BYTES_PER_TOKEN,
            timeout_seconds=seconds,
        )
    except DatabaseUnavailable as error:
        raise _unavailable(field, str(error)) from error


def _unavailable(field: str, reason: str) -> Unavailable:
    metrics.REFUSED.labels("turns").inc()
    log.warning("stored turns can't be read: %s", reason)
    return Unavailable(
        f"'{field}' asks for stored turns of the conversation, which can't be read now; try again soon.",
        field,
        "database_unavailable",
    )


def messages_of(turns: Sequence[Turn]) -> tuple[ChatMessage, ...]:
    """Stored turns for the model."""
    return tuple(
        message
        for turn in turns
        for message in (ChatMessage("user", turn.query), ChatMessage("assistant", turn.response))
    )


def last(turns: Sequence[Turn], count: int) -> Sequence[Turn]:
    """The last ``count`` of them."""
    return turns[len(turns) - count :]


async def with_most_turns(
    render: Callable[[int], Awaitable[Rendered]], count: int, limit: int | None, card: ModelCard
) -> Rendered:
    """What ``render`` makes with the most of ``count`` turns that leave room for the answer.

    That is ``limit``, the most tokens of the answer; where it is None, or more than there is even without
    turns, a share of the context. Without turns no room is asked for. ``render`` is given a number of turns,
    about log2 of ``count`` times: the prompt grows with it.
    """
    made: dict[int, Rendered] = {}

    async def fits(turns: int, room: int) -> bool:
        if turns not in made:
            made[turns] = await render(turns)
        return len(made[turns].prompt.token_ids) + room <= card.max_model_len

    usual = min(card.max_model_len // ANSWER_SHARE, ANSWER_TOKENS)
    room = usual if limit is None else limit
    if count and room > usual and not await fits(count, room) and not await fits(0, room):
        room = usual
    # The most that is known to fit, and the least that is known not to; most often all fit.
    fitting, beyond, tried = 0, count + 1, count
    while beyond - fitting > 1:
        if await fits(tried, room):
            fitting = tried
        else:
            beyond = tried
        tried = (fitting + beyond) // 2
    return made[fitting] if fitting in made else await render(0)
