"""The recorder: rows on their way to PostgreSQL, many in one transaction.

A request ``begin``s its row without waiting and ``close``s it before the last byte of its answer; a
close returns when its row is committed. All rows that wait are written in one transaction, so the
price of a close is one commit, however many close at once. A begun row is written as ``running`` when
it has been open for BEGIN_LINGER_SECONDS, so a short request costs one write.

Nothing is forgotten before it is written: while PostgreSQL is away the rows stay here, the write is
tried again with a growing pause, and ``full`` tells the gateway to admit nothing more. (What a crash
of the gateway would lose then is for the journal to keep, which stands here as a seam only.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from itertools import islice
from uuid import UUID

import asyncpg

from persistence import partitions
from persistence.content_policy import ContentPolicy
from persistence.database import Database, first_line
from persistence.message_row import WRITE, MessageRow, arrays, encoded

log = logging.getLogger("gateway.recorder")

BEGIN_LINGER_SECONDS = 0.1
WRITE_SECONDS = 30.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0
MOST_ROWS = 10_000
ROWS_PER_TRANSACTION = 500

# What PostgreSQL, or the driver for it, says of a value; anything else is a failure of the connection.
_REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    # As a value too long for an index.
    asyncpg.ProgramLimitExceededError,
)


class Recorder:
    """The one writer of message rows; lives between ``start`` and ``stop``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._begun: dict[UUID, tuple[float, MessageRow]] = {}
        self._closed: dict[UUID, MessageRow] = {}
        self._writing: dict[UUID, MessageRow] = {}
        self._work = asyncio.Event()
        # Of the next transactions: gives the rows of them that were refused.
        self._commit: asyncio.Future[set[UUID]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None
        self.rows_written = 0
        self.rows_lost = 0

    @property
    def depth(self) -> int:
        """Rows that are known here and not committed yet."""
        return len(self._begun) + len(self._closed) + len(self._writing)

    @property
    def full(self) -> bool:
        """So many rows wait that no new request may be admitted."""
        return self.depth >= MOST_ROWS

    def start(self) -> None:
        """Start writing. Needs a running event loop and a connected database."""
        self._commit = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="recorder")

    def begin(self, row: MessageRow) -> None:
        """Take a new row; does not wait."""
        self._begun[row.id] = (asyncio.get_running_loop().time(), row)
        self._work.set()

    async def close(self, row: MessageRow, timeout_seconds: float) -> bool:
        """Take a row's last state and wait until it is committed.

        False when it was not within ``timeout_seconds``; it is still written as soon as possible. False
        also when PostgreSQL refuses a value of it; it is lost then.
        """
        self._begun.pop(row.id, None)
        self._closed[row.id] = row
        self._work.set()
        assert self._commit is not None, "the recorder has not been started"
        try:
            async with asyncio.timeout(timeout_seconds):
                return row.id not in await asyncio.shield(self._commit)
        except TimeoutError:
            return False

    async def stop(self, timeout_seconds: float) -> None:
        """Write what is left, for at most ``timeout_seconds``, then end."""
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.depth:
                    self._work.set()
                    await asyncio.sleep(BEGIN_LINGER_SECONDS / 2)
        if self.depth:
            self.rows_lost += self.depth
            log.error("%d rows could not be written before the end", self.depth)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._drop_connection()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            if not self._closed and self._begun:
                began, _ = next(iter(self._begun.values()))
                if (pause := began + BEGIN_LINGER_SECONDS - loop.time()) > 0:
                    self._work.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._work.wait()
            commit, self._commit = self._commit, loop.create_future()
            self._take(loop.time() - BEGIN_LINGER_SECONDS)
            refused = await self._write_until_done()
            assert commit is not None
            commit.set_result(refused)
            if self._closed or self._begun:
                self._work.set()
            else:
                self._work.clear()

    def _take(self, begun_before: float) -> None:
        """Move the rows of the next transaction to ``_writing``."""
        self._writing, self._closed = self._closed, {}
        while self._begun:
            began, row = next(iter(self._begun.values()))
            if began > begun_before:
                break
            del self._begun[row.id]
            self._writing[row.id] = row

    async def _write_until_done(self) -> set[UUID]:
        """Gives the rows that PostgreSQL refused; the others are committed."""
        refused: set[UUID] = set()
        pause = FIRST_RETRY_SECONDS
        size = ROWS_PER_TRANSACTION
        while self._writing:
            rows = list(islice(self._writing.values(), size))
            try:
                await self._write(rows)
            except _REFUSED as error:
                if len(rows) > 1:
                    # Find the one that PostgreSQL refuses, so that the others are kept.
                    size = 1
                    continue
                # A row is written when it begins and when it ends; the end is what counts.
                self.rows_lost += rows[0].status != "running"
                refused.add(rows[0].id)
                log.error("row %s can't be written: %s", rows[0].id.hex, first_line(error))
            except Exception as error:
                log.warning("%d rows wait for PostgreSQL: %s", self.depth, first_line(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_RETRY_SECONDS)
                continue
            for row in rows:
                del self._writing[row.id]
        return refused

    async def _write(self, rows: Iterable[MessageRow]) -> None:
        values = [encoded(row, 1, ContentPolicy()) for row in rows]
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                if self._connection is None:
                    self._connection = await self._database.connection()
                    await partitions.make_ahead(self._connection)
                # One round trip, and one transaction, for all of them.
                await self._connection.execute(WRITE, *arrays(values))
        except _REFUSED:
            raise
        except BaseException:
            # In an unknown state, or gone.
            self._drop_connection()
            raise
        self.rows_written += len(values)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
