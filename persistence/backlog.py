"""The rows that PostgreSQL does not have yet, in the local journal: kept, and written when it is back.

The journal's own calls block, so those that write run one after the other in a thread of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from persistence.journal import MOST_RECORD_BYTES, Contents, Journal, JournalUnavailable, Segment
from persistence.message_row import Record, from_line, last_of_each, reduced, to_line

log = logging.getLogger("gateway.rows")

# How often the journals of gateways that have died beside this one are looked for.
ADOPT_SECONDS = 15.0

T = TypeVar("T")


class Backlog:
    """One gateway's journal, in ``folder``; lives between ``open`` and ``close``.

    It is ``full`` above ``most_bytes``: it still takes rows then, but no request should be begun.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._journal = Journal(folder)
        self.most_bytes = most_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._opened = False
        self._oldest: float | None = None
        # Whether something was kept since the journal was last sealed.
        self._unsealed = False
        self._adopted = 0.0
        # Segments that were written and can't be removed; the next life of a gateway tries again.
        self._stuck: set[Path] = set()
        self.damaged = 0

    @property
    def rows(self) -> int:
        """Records kept and not written to PostgreSQL yet."""
        return self._journal.records

    @property
    def bytes(self) -> int:
        """On the disk."""
        return self._journal.bytes

    @property
    def full(self) -> bool:
        """Whether no new request should be begun."""
        return self.bytes >= self.most_bytes

    @property
    def age_seconds(self) -> float:
        """How long the oldest of its rows has waited, in this life of the gateway."""
        return time.monotonic() - self._oldest if self._oldest is not None else 0.0

    async def open(self) -> None:
        """Find what an earlier life left. Raises JournalUnavailable."""
        await self._in_thread(self._journal.open)
        self._opened, self._adopted = True, time.monotonic()
        if self.rows:
            self._oldest = time.monotonic()
            log.warning("%d rows in the journal wait for PostgreSQL", self.rows)

    async def keep(self, records: Sequence[Record]) -> None:
        """They are on the disk when this returns. Raises JournalUnavailable: none of them counts then."""
        if not self._opened:
            await self.open()
        self._unsealed = True
        await self._in_thread(lambda: self._journal.append([_line(record) for record in records]))
        if self._oldest is None:
            self._oldest = time.monotonic()

    async def replay(self, write: Callable[[Sequence[Record]], Awaitable[None]]) -> bool:
        """Write what is there, in its order; gives whether nothing is left.

        Raises what ``write`` raises: the rest, and perhaps some that were written, are still there then.
        """
        if not self._opened:
            return True
        if time.monotonic() - self._adopted > ADOPT_SECONDS:
            await self._in_thread(self._journal.adopt)
            self._adopted = time.monotonic()
        if self._unsealed:
            self._unsealed = False
            await self._in_thread(self._journal.seal)
        for segment in self._to_replay():
            await self._replay_segment(segment, write)
        if self._unsealed or self._to_replay():
            return False
        self._oldest = None
        return True

    def _to_replay(self) -> list[Segment]:
        return [segment for segment in self._journal.segments() if segment.path not in self._stuck]

    async def _replay_segment(
        self, segment: Segment, write: Callable[[Sequence[Record]], Awaitable[None]]
    ) -> None:
        damaged = 0
        pieces = self._journal.read(segment)
        try:
            while (contents := await asyncio.to_thread(_next, pieces)) is not None:
                records, unknown = _decoded(contents.records)
                damaged += contents.damaged + unknown
                await write(last_of_each(records))
        except JournalUnavailable as error:
            log.error("the rest of the journal's rows there can't be read: %s", error)
            damaged += 1
        self.damaged += damaged
        try:
            await self._in_thread(lambda: self._journal.remove(segment, damaged > 0))
        except JournalUnavailable as error:
            log.error("the journal can't let go of rows that were written: %s", error)
            self._stuck.add(segment.path)

    async def close(self) -> None:
        """What is left stays for the next life."""
        await self._in_thread(self._journal.close)
        self._thread.shutdown()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _line(record: Record) -> bytes:
    line = to_line(record)
    if len(line) <= MOST_RECORD_BYTES:
        return line
    log.error("row %s is larger than the journal takes: it is kept in part", record.id.hex)
    return to_line(reduced(record, "larger than the journal takes"))


def _next(pieces: Iterator[Contents]) -> Contents | None:
    return next(pieces, None)


def _decoded(lines: Sequence[bytes]) -> tuple[list[Record], int]:
    """The records, and how many lines are none."""
    records = []
    for line in lines:
        try:
            records.append(from_line(line))
        except ValueError as error:
            log.error("a line of the journal is no row: %s", error)
    return records, len(lines) - len(records)
