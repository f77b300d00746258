"""The rows that wait to be written: which ones next, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from persistence.message_row import MessageRow

# A request that is shorter costs one write instead of two.
BEGIN_LINGER_SECONDS = 0.1
ROWS_PER_TRANSACTION = 500


@dataclass(slots=True, eq=False)
class Batch:
    """Rows that become durable together; ``kept`` then has the ids of those that were refused."""

    since: float
    kept: asyncio.Future[frozenset[UUID]]
    rows: dict[UUID, MessageRow] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether the next row belongs to another one."""
        return len(self.rows) >= ROWS_PER_TRANSACTION


class RowQueue:
    """Rows of requests that have begun, and of those that have ended.

    A closed row is due ``linger_seconds`` after it came, with all that came meanwhile; a begun one after
    BEGIN_LINGER_SECONDS, or with the next closed one after that.
    """

    def __init__(self, linger_seconds: float) -> None:
        self._linger_seconds = linger_seconds
        self._begun: dict[UUID, tuple[float, MessageRow]] = {}
        self._closed: deque[Batch] = deque()
        self._work = asyncio.Event()
        # What has come is due now; with ``drain`` all that comes.
        self._hurry = False
        self._draining = False

    def __len__(self) -> int:
        return len(self._begun) + sum(len(batch.rows) for batch in self._closed)

    @property
    def oldest(self) -> float | None:
        """When the first of the rows came, as the event loop's time."""
        since = [batch.since for batch in islice(self._closed, 1)]
        return min([*since, *(began for began, _ in islice(self._begun.values(), 1))], default=None)

    @property
    def closing(self) -> list[Batch]:
        """The closed ones."""
        return list(self._closed)

    def begin(self, row: MessageRow) -> None:
        """A request has begun."""
        self._begun[row.id] = (asyncio.get_running_loop().time(), row)
        self._work.set()

    def close(self, row: MessageRow) -> Batch:
        """A request has ended; gives the batch that its row is written with."""
        self._begun.pop(row.id, None)
        return self._put(row)

    def show(self, id_: UUID) -> None:
        """A row that has begun, where this one has, is written with the next closed ones."""
        _, row = self._begun.pop(id_, (None, None))
        if row is not None:
            self._put(row)

    def _put(self, row: MessageRow) -> Batch:
        if not self._closed or self._closed[-1].full:
            self._closed.append(self._new_batch())
        batch = self._closed[-1]
        batch.rows[row.id] = row
        self._work.set()
        return batch

    def hurry(self) -> None:
        """The closed rows that are here now are due."""
        self._hurry = bool(self._closed)
        self._work.set()

    def drain(self) -> None:
        """All rows are due as soon as they come."""
        self._draining = True
        self._work.set()

    async def next(self) -> Batch:
        """The next rows, as soon as some are due."""
        while (pause := self._due_in_seconds()) is None or pause > 0:
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._work.wait()
        batch = self._closed.popleft() if self._closed else self._new_batch()
        self._hurry = self._hurry and bool(self._closed)
        begun_before = asyncio.get_running_loop().time() - self._begin_linger_seconds
        while self._begun and not batch.full:
            began, row = next(iter(self._begun.values()))
            if began > begun_before:
                break
            del self._begun[row.id]
            batch.rows[row.id] = row
        return batch

    def _due_in_seconds(self) -> float | None:
        """None where nothing is."""
        now = asyncio.get_running_loop().time()
        if self._closed:
            first = self._closed[0]
            at_once = self._hurry or self._draining or first.full
            return 0.0 if at_once else first.since + self._linger_seconds - now
        for began, _ in islice(self._begun.values(), 1):
            return began + self._begin_linger_seconds - now
        return None

    @property
    def _begin_linger_seconds(self) -> float:
        return 0.0 if self._draining else BEGIN_LINGER_SECONDS

    def _new_batch(self) -> Batch:
        loop = asyncio.get_running_loop()
        return Batch(loop.time(), loop.create_future())
