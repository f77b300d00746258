"""What is measured of rows: the recorder alone, and what is asked of a database with many rows in it.

All of it is done as the gateway does it, by the same functions and statements. Durations are seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import asyncpg

from benchmarks.row_filling import FEW_ROWS, SPAN_DAYS, TURNS, Layout, fill_slices
from persistence.backlog import Backlog
from persistence.conversations import last_turns
from persistence.database import Database
from persistence.message_row import WRITE, MessageRow, arrays, encoded
from persistence.partitions import CONTENT, MESSAGE, least_id
from persistence.recorder import Recorder
from persistence.retention import drop_expired
from persistence.usage import usage_between

CLOSE_SECONDS = 60.0
LAST_TURNS = 10
# New turns are of the newest conversations, as many in every database.
ACTIVE = 160


def new_row(conversation_id: str | None) -> MessageRow:
    """A completed row like those that the databases are filled with."""
    return MessageRow(
        endpoint="/v1/chat/completions",
        model="chatglm3-6b",
        request_id="00000000000000000000000000000000",
        query="Question 00000000" + " and so on" * 5,
        chat_type="llm_chat",
        conversation_id=conversation_id,
        meta_data={"stream": True, "sampling": {"temperature": 0.7, "top_p": 0.8, "max_tokens": 512}},
        status="completed",
        finish_reason="stop",
        response="Answer 00000000" + " in some words" * 9,
        prompt_tokens=20,
        completion_tokens=200,
        queue_ms=0.5,
        ttft_ms=25.0,
        duration_ms=900.0,
    )


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run of the recorder: ``closers`` tasks, each beginning and closing one row after the other."""

    closers: int
    rows: int
    seconds: float
    waits: list[float]  # in close


async def record(database: Database, folder: Path, closers: int, rows: int) -> Recorded:
    """Raises RuntimeError when a row is not in PostgreSQL afterwards."""
    recorder = Recorder(database, Backlog(folder, 2**30))
    await recorder.start()
    waits: list[float] = []

    async def close_some(number: int, count: int) -> None:
        for turn in range(count):
            row = new_row(f"recorded-{number}" if turn % 5 < 2 else None)
            row.status = "running"
            recorder.begin(row)
            row.status = "completed"
            started = time.perf_counter()
            if not await recorder.close(row, CLOSE_SECONDS):
                raise RuntimeError("a row was not kept")
            waits.append(time.perf_counter() - started)

    # The first rows of all make their conversations.
    await asyncio.gather(*(close_some(number, 5) for number in range(closers)))
    waits.clear()
    started = time.perf_counter()
    await asyncio.gather(*(close_some(number, rows // closers) for number in range(closers)))
    seconds = time.perf_counter() - started
    if recorder.away or recorder.backlog.rows:
        raise RuntimeError(f"PostgreSQL was away: {recorder.away}")
    await recorder.stop(CLOSE_SECONDS)
    return Recorded(closers, len(waits), seconds, waits)


class Filled:
    """A database that is filled, and what is asked of it."""

    def __init__(self, database: Database, layout: Layout, writer: asyncpg.Connection) -> None:
        self._database = database
        self._layout = layout
        self._writer = writer
        self._random = Random(1)
        # So many conversations have all their turns.
        self._complete = layout.conversations - 3 * TURNS

    async def insert(self, batch: int, times: int) -> list[float]:
        """Write so many batches of new rows, each in a transaction of its own."""
        durations = []
        for _ in range(times):
            values = arrays([encoded(new_row(self._conversation()), 1) for _ in range(batch)])
            durations.append(await timed(self._writer.execute(WRITE, *values)))
        return durations

    async def read_conversations(self, times: int) -> list[float]:
        """Read the last turns of a conversation, so many times of another one."""
        numbers = [self._random.randrange(self._complete) for _ in range(times)]
        return [await timed(self._read(f"conversation-{number}")) for number in numbers]

    async def _read(self, conversation_id: str) -> None:
        turns = await last_turns(
            self._database,
            conversation_id,
            "llm_chat",
            LAST_TURNS,
            owner=None,
            most_bytes=2**20,
            timeout_seconds=CLOSE_SECONDS,
        )
        assert len(turns) == LAST_TURNS

    async def sum_day(self, times: int) -> list[float]:
        """The sums of the day that has FEW_ROWS."""
        day = self._layout.few_day.date()

        async def ask() -> None:
            assert sum(usage.requests for usage in await usage_between(self._database, day, day)) == FEW_ROWS

        return [await timed(ask()) for _ in range(times)]

    async def sum_month(self) -> float:
        """The sums of the last 30 days, with their share of all rows."""
        today = datetime.now(UTC).date()
        return await timed(usage_between(self._database, today - timedelta(days=29), today))

    async def retain_few(self) -> float:
        """Drop the month of FEW_ROWS with its day of content; then it is made anew."""
        connection = await self._database.connection()
        end = MESSAGE.after(self._layout.few_month)
        duration = await timed(drop_expired(connection, end, None, 0))
        await connection.close()
        await fill_slices(self._database, [self._layout.slices[0]])
        return duration

    async def retain_share(self) -> tuple[int, float, list[float]]:
        """Drop the months up to the first whole one, with their share of all rows, while rows are inserted.

        Gives how many rows that were, how long it took, and how long each insert waited meanwhile.
        """
        connection = await self._database.connection()
        first = MESSAGE.start(datetime.now(UTC) - timedelta(days=SPAN_DAYS))
        end = MESSAGE.after(MESSAGE.after(first))
        rows = await connection.fetchval("SELECT count(*) FROM message WHERE id < $1", least_id(end))
        ended, waits = asyncio.Event(), list[float]()

        async def insert_meanwhile() -> None:
            while not ended.is_set():
                waits.extend(await self.insert(1, 1))

        inserting = asyncio.create_task(insert_meanwhile())
        duration = await timed(drop_expired(connection, end, None, 0))
        ended.set()
        await inserting
        await connection.close()
        return rows, duration, waits

    async def delete_inserted(self) -> None:
        """So that the next round finds as many rows as this one."""
        made = least_id(self._layout.now)
        for partitioned in (MESSAGE, CONTENT):
            await self._writer.execute(f"DELETE FROM {partitioned.table} WHERE id >= $1", made)
            await self._writer.execute(f"VACUUM {partitioned.name(partitioned.start(self._layout.now))}")

    async def close(self) -> None:
        """The connection that inserts."""
        await self._writer.close()

    def _conversation(self) -> str | None:
        """For a new row: one of those that are active, or none."""
        if self._random.random() >= 0.4:
            return None
        return f"conversation-{self._complete - self._random.randrange(ACTIVE) - 1}"


async def timed(work: Awaitable[object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    await work
    return time.perf_counter() - started
