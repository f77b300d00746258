"""Databases that are as full as one of years: rows made by PostgreSQL itself, of the last SPAN_DAYS days.

Besides those that are spread evenly there is a day, and a month before all others, that has the same few
rows in every database: what takes as long there as in another one does not depend on how many there are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from persistence.database import Database
from persistence.partitions import MESSAGE, least_id, make_for

SPAN_DAYS = 90
# Rows of the day, and of the month, that is the same in every database.
FEW_ROWS = 2_000
TURNS = 20
# Two of five rows are of a conversation.
ROWS_PER_CONVERSATION = TURNS * 5 // 2
CONNECTIONS = 3

# $1: number of the first row, $2: how many, $3: moment of the first in ms, $4: ms from one to the next.
# The turns of TURNS conversations alternate.
_NUMBERED = """
SELECT n, moment, turn / 400 * 20 + turn % 20 AS conversation, to_timestamp(moment / 1000.0) AS create_time,
    (lpad(to_hex(moment), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid AS id
FROM (
    SELECT n, $3::float8::int8 + ((n - $1) * $4::float8)::int8 AS moment, md5(n::text) AS hash,
        CASE WHEN n % 5 < 2 THEN n / 5 * 2 + n % 5 END AS turn
    FROM generate_series($1::int8, $1::int8 + $2::int8 - 1) AS n
) AS numbered
"""
_MESSAGES = f"""
INSERT INTO message (id, conversation_id, chat_type, create_time, endpoint, model, request_id, gateway_id,
    status, finish_reason, prompt_tokens, completion_tokens, cached_tokens, queue_ms, ttft_ms, duration_ms,
    meta_data)
SELECT id, 'conversation-' || conversation, 'llm_chat', create_time, '/v1/chat/completions',
    CASE WHEN n % 4 = 0 THEN 'chatglm3-6b-32k' ELSE 'chatglm3-6b' END, 'request-' || n, 1,
    CASE WHEN n % 49 = 0 THEN 'cancelled' ELSE 'completed' END,
    CASE WHEN n % 49 = 0 THEN 'cancelled' ELSE 'stop' END, n % 1000, n % 300, n % 100, 0.5, 25.0, 900.0,
    '{{"stream": true, "sampling": {{"temperature": 0.7, "top_p": 0.8, "max_tokens": 512}}}}'
FROM ({_NUMBERED}) AS row
"""
# 64 of them: a text of these compresses as one that somebody wrote, 6 bits in 6 bytes, not to nothing.
_WORDS = (
    "about above again along among apart begin below black blood board brown build carry cause chair "
    "child class clean clear close count court cover cross daily dance depth doubt drive early earth "
    "eight empty enemy enter every exact fever field fight final floor force fresh front fruit glass "
    "grand grass green group guard guess heavy horse hotel house human image judge large laugh light"
)


def _text(bytes_: str, words: int) -> str:
    """SQL: a text of so many words, at most 16, chosen by an md5."""
    chosen = (f"words[1 + (get_byte({bytes_}, {index}) & 63)]" for index in range(words))
    return " || ' ' || ".join(chosen)


_CONTENTS = f"""
INSERT INTO message_content (id, query, response)
SELECT id, 'Question ' || n || ' ' || {_text("asked", 9)},
    'Answer ' || n || ' ' || {_text("asked", 16)} || ' ' || {_text("answered", 4)}
FROM (
    SELECT id, n, decode(md5('asked' || n), 'hex') AS asked, decode(md5('answered' || n), 'hex') AS answered,
        string_to_array('{_WORDS}', ' ') AS words
    FROM ({_NUMBERED}) AS row
) AS worded
"""
_CONVERSATIONS = """
INSERT INTO conversation (id, chat_type, create_time)
SELECT 'conversation-' || n, 'llm_chat', now() FROM generate_series(0, $1::int8) AS n
"""


@dataclass(frozen=True, slots=True)
class Slice:
    """``rows`` of one day, evenly from ``start`` to ``stop``; the first has number ``first``."""

    first: int
    rows: int
    start: datetime
    stop: datetime

    def parameters(self) -> tuple[int, int, float, float]:
        """Of the statements above."""
        milliseconds = (self.stop - self.start) / timedelta(milliseconds=1)
        return self.first, self.rows, self.start.timestamp() * 1000, milliseconds / max(self.rows, 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows are: up to ``now``, ``few_day`` in the middle of the others, ``few_month`` before."""

    now: datetime
    few_day: datetime
    few_month: datetime
    slices: Sequence[Slice]
    conversations: int

    @property
    def rows(self) -> int:
        """Of all slices."""
        return sum(slice_.rows for slice_ in self.slices)


def plan(rows: int, now: datetime) -> Layout:
    """Spread ``rows``, at least three times FEW_ROWS, over the SPAN_DAYS before ``now``."""
    start = now - timedelta(days=SPAN_DAYS)
    few_month = MESSAGE.start(MESSAGE.start(start) - timedelta(days=1))
    few_day = _midnight(now - timedelta(days=SPAN_DAYS // 2))
    slices = [Slice(0, FEW_ROWS, few_month, few_month + timedelta(days=1))]
    left = rows - 2 * FEW_ROWS
    days_left = SPAN_DAYS - 1.0
    while start < now:
        stop = min(_midnight(start) + timedelta(days=1), now)
        if start == few_day:
            share = FEW_ROWS
        else:
            days = (stop - start) / timedelta(days=1)
            share = round(left * min(days / days_left, 1.0))
            left, days_left = left - share, max(days_left - days, 1e-9)
        slices.append(Slice(slices[-1].first + slices[-1].rows, share, start, stop))
        start = stop
    return Layout(now, few_day, few_month, slices, rows // ROWS_PER_CONVERSATION + TURNS)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def fill(database: Database, layout: Layout) -> None:
    """Make the rows of ``layout`` as fast as may be, and leave the tables as autovacuum would."""
    await fill_slices(database, layout.slices, layout.conversations)
    connections = [await database.connection() for _ in range(2)]
    for connection in connections:
        await connection.execute("SET vacuum_cost_delay = 0; SET maintenance_work_mem = '256MB'")
    await asyncio.gather(
        *(
            connection.execute(f"VACUUM (ANALYZE) {table}")
            for connection, table in zip(connections, ("message", "message_content"), strict=True)
        )
    )
    await connections[0].execute("VACUUM (ANALYZE) conversation")
    await connections[0].execute("CHECKPOINT")
    for connection in connections:
        await connection.close()


async def fill_slices(database: Database, slices: Sequence[Slice], conversations: int = 0) -> None:
    """Make their rows, and the conversations from number 0."""
    work = deque((statement, slice_) for slice_ in slices for statement in (_CONTENTS, _MESSAGES))
    connections = [await database.connection() for _ in range(CONNECTIONS)]
    await make_for(connections[0], [least_id(slice_.start) for slice_ in slices])
    if conversations:
        await connections[0].execute(_CONVERSATIONS, conversations)

    async def run(connection: asyncpg.Connection) -> None:
        # Nothing refers to a conversation that is not there: no need to look for each.
        await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        while work:
            statement, slice_ = work.popleft()
            await connection.execute(statement, *slice_.parameters())

    await asyncio.gather(*map(run, connections))
    for connection in connections:
        await connection.close()
