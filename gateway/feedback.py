"""What is said of an answer, on its way to the rows; the same for every dialect."""

from __future__ import annotations

import logging

from uuid_utils.compat import uuid7

from adapters.message_ids import message_id
from gateway.access.caller import Caller
from gateway.access.ownership import owner_of
from gateway.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.lifecycle import Lifecycle
from persistence import feedback
from persistence.content_policy import ContentPolicy
from persistence.database import DatabaseUnavailable
from persistence.feedback import (
    MOST_PER_MESSAGE,
    Feedback,
    FeedbackConflict,
    TooManyFeedbacks,
    UnknownMessage,
)

log = logging.getLogger("gateway.feedback")

LEAST_SCORE, MOST_SCORE = -1, 100
LONGEST_SHOWN = 100


async def give(
    lifecycle: Lifecycle,
    caller: Caller,
    message: str,
    score: int,
    reason: str = "",
    correction: str | None = None,
    id_: str | None = None,
) -> Feedback:
    """What is stored of it, once it is committed; ``message`` is the message's id as a client writes it, and
    may be that of an answer that is still being made.

    Raises InvalidRequest, its kinds NotFound and Conflict among them, and Unavailable.
    """
    if not LEAST_SCORE <= score <= MOST_SCORE:
        raise InvalidRequest(
            f"Invalid value for 'score': must be 0 to {MOST_SCORE}, or {LEAST_SCORE} to take back what was "
            "said before.",
            "score",
            "invalid_value",
        )
    given_for = message_id(message)
    if given_for is None:
        raise unknown(message)
    said = Feedback(given_for, id_ or uuid7().hex, score, reason, correction, caller.user_id)
    try:
        return await _given(lifecycle, caller, said)
    except UnknownMessage as error:
        raise unknown(message) from error
    except FeedbackConflict as error:
        raise Conflict("There is a feedback with this id that says something else.", "id") from error
    except TooManyFeedbacks as error:
        raise InvalidRequest(
            f"This message has {MOST_PER_MESSAGE} feedbacks already.", "message_id", "too_many_feedbacks"
        ) from error
    except DatabaseUnavailable as error:
        log.warning("a feedback can't be stored: %s", error)
        raise Unavailable(
            "The feedback can't be stored now; try again soon.", code="database_unavailable"
        ) from error


async def _given(lifecycle: Lifecycle, caller: Caller, said: Feedback) -> Feedback:
    settings = lifecycle.settings
    seconds = settings.database_timeout_seconds
    policy = ContentPolicy(settings.store_content, settings.content_max_characters)
    owner = owner_of(lifecycle, caller)
    try:
        return await feedback.give(lifecycle.database, said, owner, policy, seconds)
    except UnknownMessage:
        # Its row may be on its way.
        if not await lifecycle.recorder.arrived(said.message_id, seconds):
            raise DatabaseUnavailable("rows wait for PostgreSQL") from None
        return await feedback.give(lifecycle.database, said, owner, policy, seconds)


def unknown(message: str) -> NotFound:
    """Also for one that is somebody else's."""
    return NotFound(f"There is no message '{message[:LONGEST_SHOWN]}'.", "message_id", "message_not_found")
