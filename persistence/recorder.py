"""The recorder: rows on their way to PostgreSQL, many in one transaction, whatever happens to it.

A request ``begin``s its row without waiting and ``close``s it before the last byte of its answer; a close
returns when its row is durable: committed in PostgreSQL, or fsynced in the local journal while that is
away. All rows that wait are written in one transaction, so the price of a close is one commit, however
many close at once. A request that goes on is soon written as ``running``.

::

    begin, close ──> waiting ──> PostgreSQL      (RowWriter)
                        │            ^
                        │ away       │ back: in its order, between the new ones
                        └──> journal ┘           (Backlog)

Nothing is forgotten before it is written: where neither takes a row it stays here and both are tried
again, and ``refusing`` tells the gateway to admit nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Literal
from uuid import UUID

from persistence.backlog import Backlog
from persistence.content_policy import FULL, ContentPolicy
from persistence.database import Database
from persistence.journal import JournalUnavailable
from persistence.message_row import MessageRow, Record, encoded
from persistence.row_queue import Batch, RowQueue
from persistence.row_writer import DatabaseAway, RowWriter

log = logging.getLogger("gateway.rows")

Durability = Literal["commit", "async", "strict"]

# With durability async an ended row may wait so long for others to be written with.
ASYNC_SECONDS = 0.2
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0
# How often an idle gateway asks PostgreSQL whether it is there.
CHECK_SECONDS = 2.0
MOST_ROWS = 10_000
# Encoding more text than this takes milliseconds, and every stream would wait for it.
THREAD_CHARACTERS = 200_000


class Recorder:
    """The one writer of message rows; lives between ``start`` and ``stop``.

    PostgreSQL is away when a write takes longer than ``timeout_seconds``. ``closed_as_lost`` is told how many
    rows of dead gateways were closed.
    """

    def __init__(
        self,
        database: Database,
        backlog: Backlog,
        durability: Durability = "commit",
        timeout_seconds: float = 2.0,
        policy: ContentPolicy = FULL,
        closed_as_lost: Callable[[int], None] | None = None,
    ) -> None:
        self._writer = RowWriter(database, timeout_seconds, self._suspect, closed_as_lost)
        self._backlog = backlog
        self._durability = durability
        self._policy = policy
        self._queue = RowQueue(ASYNC_SECONDS if durability == "async" else 0.0)
        self._writing: Batch | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._look = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._away: str | None = None
        self._journal_problem: str | None = None
        self._replayed = False
        self.rows_lost = 0

    @property
    def depth(self) -> int:
        """Rows that are known here and neither in PostgreSQL nor in the journal."""
        return len(self._queue) + (len(self._writing.rows) if self._writing is not None else 0)

    @property
    def backlog(self) -> Backlog:
        """The rows in the journal."""
        return self._backlog

    @property
    def rows_written(self) -> int:
        """Records that PostgreSQL has committed."""
        return self._writer.rows_written

    @property
    def rows_reduced(self) -> int:
        """Rows that PostgreSQL refused as they were, and has without what it refused."""
        return self._writer.rows_reduced

    @property
    def lag_seconds(self) -> float:
        """How long the oldest row that is not in PostgreSQL has waited."""
        since = self._writing.since if self._writing is not None else self._queue.oldest
        waited = 0.0 if since is None else asyncio.get_running_loop().time() - since
        return max(self._backlog.age_seconds, waited)

    @property
    def away(self) -> str | None:
        """Why PostgreSQL is away, in one line; None while it is there."""
        return self._away

    @property
    def problems(self) -> list[str]:
        """What an operator should know, though requests may go on."""
        found = []
        if self._away is not None:
            found.append(f"PostgreSQL: {self._away}; {self._backlog.rows} rows in the journal")
        if self._journal_problem is not None:
            found.append(f"The journal: {self._journal_problem}")
        return found

    @property
    def refusing(self) -> str | None:
        """Why no new request may be admitted, for its client; None where it may."""
        if self.depth >= MOST_ROWS:
            return "Too many rows wait for the database."
        if self._away is None:
            return None
        if self._durability == "strict":
            return "The database is away."
        if self._journal_problem is not None:
            return "The database is away, and the local journal can't be written."
        return "The database is away, and the local journal is full." if self._backlog.full else None

    async def start(self) -> None:
        """Start writing; what an earlier life left in the journal goes first. Raises DatabaseAway."""
        try:
            await self._backlog.open()
        except JournalUnavailable as error:
            self._journal_failed(error)
        try:
            await self._writer.check()
        except DatabaseAway:
            await self._backlog.close()
            raise
        self._look.set()
        self._tasks = [
            asyncio.create_task(self._write_all(), name="recorder"),
            asyncio.create_task(self._look_after_database(), name="recorder-database"),
        ]

    def begin(self, row: MessageRow) -> None:
        """Take a new row; does not wait."""
        self._queue.begin(row)
        self._idle.clear()

    async def close(self, row: MessageRow, timeout_seconds: float) -> bool:
        """Take a row's last state and wait until it is durable; with durability async, don't wait.

        False when it was not within ``timeout_seconds``; it is still written as soon as possible. False
        also when PostgreSQL refuses even what was left of it; it is lost then.
        """
        batch = self._queue.close(row)
        self._idle.clear()
        if self._durability == "async":
            return True
        try:
            async with asyncio.timeout(timeout_seconds):
                return row.id not in await asyncio.shield(batch.kept)
        except TimeoutError:
            return False

    async def caught_up(self, timeout_seconds: float) -> bool:
        """Wait until PostgreSQL has all rows that are closed by now; False when it has not in time, or is
        away."""
        waiting = [batch.kept for batch in (self._writing, *self._queue.closing) if batch is not None]
        self._queue.hurry()
        try:
            async with asyncio.timeout(timeout_seconds):
                if waiting:
                    await asyncio.wait(waiting)
                if self._away is None:
                    await self._caught_up.wait()
        except TimeoutError:
            return False
        return self._away is None

    async def arrived(self, id_: UUID, timeout_seconds: float) -> bool:
        """Wait until PostgreSQL has the row with this id if it is on its way, though its request goes on;
        False when it has not in time, or is away: nobody knows then whether there is such a row."""
        self._queue.show(id_)
        return await self.caught_up(timeout_seconds)

    async def stop(self, timeout_seconds: float) -> None:
        """Write what is left, for at most ``timeout_seconds``, then end."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._queue.drain()
        if self.depth or self._backlog.rows:
            log.info("waiting for %d rows, and %d of the journal", self.depth, self._backlog.rows)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
                while self._away is None and not self._caught_up.is_set():
                    self._look.set()
                    await asyncio.sleep(FIRST_RETRY_SECONDS)
        if self.depth:
            self.rows_lost += self.depth
            log.error("%d rows could not be written before the end", self.depth)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writer.close()
        if self._backlog.rows:
            log.warning("%d rows stay in the journal for the next start", self._backlog.rows)
        await self._backlog.close()

    async def _write_all(self) -> None:
        while True:
            self._writing = batch = await self._queue.next()
            refused = frozenset(batch.rows)
            try:
                refused = await self._keep(batch)
            except Exception:
                log.exception("%d rows are lost", len(batch.rows))
            self.rows_lost += sum(batch.rows[id_].status != "running" for id_ in refused)
            batch.kept.set_result(refused)
            self._writing = None
            if self.depth == 0:
                self._idle.set()

    async def _keep(self, batch: Batch) -> frozenset[UUID]:
        """Make rows durable, here or there, however long it takes; gives those that were refused."""
        records = await self._encoded(list(batch.rows.values()))
        pause = FIRST_RETRY_SECONDS
        while True:
            if self._away is None:
                try:
                    return frozenset(record.id for record in await self._writer.write(records))
                except DatabaseAway as error:
                    self._leave(error)
            try:
                await self._backlog.keep(records)
            except JournalUnavailable as error:
                self._journal_failed(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_RETRY_SECONDS)
            else:
                self._journal_problem = None
                return frozenset()

    async def _encoded(self, rows: Sequence[MessageRow]) -> list[Record]:
        gateway_id = self._writer.gateway_id

        def encode(rows: Sequence[MessageRow]) -> list[Record]:
            return [encoded(row, gateway_id, self._policy) for row in rows]

        if sum(row.characters for row in rows) <= THREAD_CHARACTERS:
            return encode(rows)
        # A begun row may be closed meanwhile.
        return await asyncio.to_thread(encode, [row.snapshot() for row in rows])

    async def _look_after_database(self) -> None:
        """Notice that it is away before a row has to, and that it is back; then write the journal's rows."""
        pause = FIRST_RETRY_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS if self._away is None else pause):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._catch_up()
                pause = FIRST_RETRY_SECONDS
            except DatabaseAway as error:
                self._leave(error)
                self._look.clear()
                pause = min(pause * 2, LAST_RETRY_SECONDS)
            except Exception:
                # A bug of ours; without this task PostgreSQL would never be back.
                log.exception("what the journal has could not be written; it is tried again")

    async def _catch_up(self) -> None:
        await self._writer.check()
        try:
            while not await self._backlog.replay(self._write_again):
                pass
        except JournalUnavailable as error:
            self._journal_failed(error)
        self._come_back()
        self._caught_up.set()
        if self._replayed:
            # An earlier life's journal tells of requests that it did not see the end of.
            await self._writer.close_lost()
            self._replayed = False

    async def _write_again(self, records: Sequence[Record]) -> None:
        self.rows_lost += sum(record.closed for record in await self._writer.write(records))
        self._replayed = True
        # Not before: a PostgreSQL that answers may still be unable to write.
        self._come_back()

    def _suspect(self) -> None:
        """PostgreSQL has ended the connection."""
        self._look.set()

    def _leave(self, error: DatabaseAway) -> None:
        if self._away is None:
            log.warning("PostgreSQL is away, rows go to the journal: %s", error)
            # What was wrong with it before may be so no more.
            self._journal_problem = None
            self._look.set()
        self._away = str(error)
        self._caught_up.clear()

    def _come_back(self) -> None:
        if self._away is not None:
            self._away = None
            log.warning("PostgreSQL is back, %d rows in the journal", self._backlog.rows)

    def _journal_failed(self, error: JournalUnavailable) -> None:
        if self._journal_problem is None:
            log.error("the journal can't be written: %s", error)
        self._journal_problem = str(error)
