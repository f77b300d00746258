"""Feedback: what is said of a message, all of it in ``feedback``, and the latest in the message's own row.

A feedback is one statement: committed whole, or not at all. It locks the message's row first, so those of one
message come one after the other, and the last one's score stands there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import asyncpg

from persistence import partitions
from persistence.bounded import answered, statements
from persistence.content_policy import ContentPolicy
from persistence.database import Database, DatabaseUnavailable
from persistence.exact_text import from_column, to_column
from persistence.message_row import DELETED
from persistence.partitions import FEEDBACK
from persistence.storable import storable_text

MOST_PER_MESSAGE = 100

# A partition may have to be made first; another one may give a feedback with this id at this moment.
TRIES = 5

# Of several at the same moment each counts those that were committed before it began. Of what was said in a
# conversation that was deleted nothing can be said.
GIVE = f"""
WITH target AS (
    SELECT id, meta_data ->> 'trace_id' AS trace_id, meta_data ->> 'span_id' AS span_id FROM message
    WHERE id = $1 AND ($7::uuid IS NULL OR user_id = $7) AND NOT meta_data ? '{DELETED}' FOR NO KEY UPDATE
), given AS (
    INSERT INTO feedback (message_id, id, user_id, score, reason, correction, create_time)
    SELECT target.id, $2, $3, $4, $5, $6, clock_timestamp() FROM target
    WHERE (SELECT count(*) FROM feedback WHERE message_id = $1) < $8
    ON CONFLICT DO NOTHING
    RETURNING create_time
), scored AS (
    UPDATE message SET feedback_score = $4, feedback_reason = $5
    WHERE id = $1 AND EXISTS (SELECT FROM given)
)
SELECT EXISTS (SELECT FROM target) AS known,
    (SELECT count(*) FROM feedback WHERE message_id = $1) AS earlier_ones,
    coalesce((SELECT create_time FROM given), earlier.create_time) AS create_time,
    earlier.score, earlier.reason, earlier.correction,
    (SELECT trace_id FROM target) AS trace_id, (SELECT span_id FROM target) AS span_id
FROM (SELECT) AS once LEFT JOIN feedback AS earlier ON earlier.message_id = $1 AND earlier.id = $2
"""


class FeedbackRefused(Exception):
    """The feedback is not taken; nothing has changed."""


class UnknownMessage(FeedbackRefused):
    """There is no message with this id, or it is somebody else's."""


class FeedbackConflict(FeedbackRefused):
    """There is a feedback with this id that says something else."""


class TooManyFeedbacks(FeedbackRefused):
    """The message has MOST_PER_MESSAGE already."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What is said of a message: ``score`` is 0 to 100, or -1, which takes back what was said before;
    ``correction`` is the answer as it should have been. ``id`` is the message's own: the same one again is
    the same feedback.

    Of what was stored ``is_new`` says that it was not given before; ``span`` is then what made the answer, in
    hexadecimal: the trace's id and the span's, where the message's row has them."""

    message_id: UUID
    id: str
    score: int
    reason: str = ""
    correction: str | None = None
    user_id: UUID | None = None
    create_time: datetime | None = None
    span: tuple[str, str] | None = field(default=None, compare=False)
    is_new: bool = field(default=False, compare=False)


async def give(
    database: Database, feedback: Feedback, owner: UUID | None, policy: ContentPolicy, timeout_seconds: float
) -> Feedback:
    """Take ``feedback``, as far as ``policy`` keeps its text; it is committed when this returns what is
    stored. One that was given before changes nothing.

    ``owner``: whose the message has to be; None: whoever's. Raises FeedbackRefused, and DatabaseUnavailable
    after ``timeout_seconds`` at the latest; it may or may not have been taken then.
    """
    correction = None if feedback.correction is None else policy.remark(feedback.correction)
    kept = replace(
        feedback,
        id=storable_text(feedback.id),
        reason=policy.remark(feedback.reason) or "",
        correction=correction,
    )

    async def work() -> Feedback | FeedbackRefused:
        async with statements(database, timeout_seconds) as connection:
            return await _give(connection, kept, owner)

    found = await answered(timeout_seconds, work())
    if isinstance(found, FeedbackRefused):
        raise found
    return found


async def _give(
    connection: asyncpg.Connection, feedback: Feedback, owner: UUID | None
) -> Feedback | FeedbackRefused:
    values = (
        feedback.message_id,
        to_column(feedback.id),
        feedback.user_id,
        feedback.score,
        to_column(feedback.reason),
        None if feedback.correction is None else to_column(feedback.correction),
        owner,
        MOST_PER_MESSAGE,
    )
    for tries_left in reversed(range(TRIES)):
        try:
            row = await connection.fetchrow(GIVE, *values)
        except asyncpg.CheckViolationError:
            # There is no other check than that of the partitions' bounds.
            if not tries_left:
                raise
            await partitions.make_for(connection, [feedback.message_id], (FEEDBACK,))
            continue
        assert row is not None
        if not row["known"]:
            return UnknownMessage()
        if row["score"] is not None:
            return _given_before(row, feedback)
        if row["create_time"] is not None:
            ids = (row["trace_id"], row["span_id"])
            span = None if None in ids else ids
            return replace(feedback, create_time=row["create_time"], span=span, is_new=True)
        if row["earlier_ones"] >= MOST_PER_MESSAGE:
            return TooManyFeedbacks()
        # Another one with this id was not committed yet when this one looked.
    raise DatabaseUnavailable("a feedback was neither taken nor found")


def _given_before(row: asyncpg.Record, feedback: Feedback) -> Feedback | FeedbackConflict:
    correction = row["correction"]
    before = replace(
        feedback,
        score=row["score"],
        reason=from_column(row["reason"]),
        correction=None if correction is None else from_column(correction),
        create_time=row["create_time"],
    )
    return before if replace(before, create_time=feedback.create_time) == feedback else FeedbackConflict()
