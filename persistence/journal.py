"""The journal: records on this machine's disk for as long as PostgreSQL is away.

It knows nothing of rows: a record is ``bytes`` without a line break, not empty (UTF-8 JSON text). The
records of one process are in its slot, ``<folder>/<slot>/``, in segments ``<number>.journal`` (ten digits,
growing, never used twice). Only the last one is written; those before it are sealed, and can be read and
removed. What is found of an earlier process is sealed.

The format is text. A record is written as ::

    LF  crc  SP  payload  LF

with the payload's zlib.crc32 as eight lower-case hexadecimal digits. Empty lines mean nothing: the line
break before each record keeps a torn one from swallowing it. To look at one::

    cut -c10- 0000000001.journal | jq .

On reading, a line that does not check out is damage, and what is around it is given. The last line of a
segment may lack its line break: it is given where it checks out, else it was torn before it was
acknowledged, which is no damage. (Where it checks out but for one byte too many, the line break is what was
damaged.) After a power cut also a write that was never acknowledged can look like damage.

``<number>.damaged`` was a segment with damage in it, or one that could not be read: for a person to look at.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from persistence.journal_segment import MOST_RECORD_BYTES, Segment, check, decoded, encoded
from persistence.journal_slot import Slot, delete, make_folder, sync_folder

__all__ = ["MOST_RECORD_BYTES", "Contents", "Journal", "JournalUnavailable", "Segment"]

SEGMENT_BYTES = 16 * 2**20

# What ``read`` gives at once.
PIECE_RECORDS = 500
PIECE_BYTES = 4 * 2**20

MOST_DAMAGED_FILES = 20

log = logging.getLogger("persistence.journal")

Record: TypeAlias = bytes

_SLOT = re.compile(r"[1-9][0-9]*")


class JournalUnavailable(Exception):
    """What was to be kept can't be written here, or read: disk full, read-only, gone. One line."""


@dataclass(frozen=True)
class Contents:
    """Records in their order, and how many places before, between and after them were damaged."""

    records: list[bytes]
    damaged: int


@dataclass
class _Active:
    """The segment that is written; ``size`` and ``records`` are what is on the disk for certain."""

    path: Path
    descriptor: int
    size: int = 0
    records: int = 0


class Journal:
    """The journal of one process, between ``open`` and ``close``. All methods block.

    ``open``, ``adopt``, ``append``, ``seal`` and ``close`` are called one at a time. ``read`` and ``remove``
    may run beside them in another thread; ``bytes``, ``records`` and ``segments`` do no I/O.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        # The own one first, then the adopted ones.
        self._slots: list[Slot] = []
        self._active: _Active | None = None
        # Guards what is below, and that a segment is either active or sealed; never held during I/O.
        self._lock = threading.Lock()
        self._sealed: dict[Path, Segment] = {}
        self._sealed_bytes = 0
        self._sealed_records = 0
        self._reported: set[Path] = set()

    def open(self) -> None:
        """Take the first free slot, and what dead processes left in it and in others.

        Raises JournalUnavailable; it can be called again then.
        """
        assert not self._slots, "the journal is open"
        try:
            make_folder(self._folder)
            self._slots.append(self._free_slot())
            sync_folder(self._folder)
            self._take(self._slots[0].segments())
        except OSError as error:
            self.close()
            raise _unavailable(self._folder, error) from error
        self.adopt()

    def adopt(self) -> None:
        """Take the segments of processes that have died since."""
        held = {slot.path for slot in self._slots}
        try:
            others = sorted(set(self._folder.iterdir()) - held)
        except OSError as error:
            log.warning("%s can't be searched: %s", self._folder, error.strerror)
            return
        for path in others:
            if not _SLOT.fullmatch(path.name):
                continue
            found: list[Segment] = []
            slot: Slot | None = None
            try:
                slot = Slot.take(path)
                if slot is not None:
                    found = slot.segments()
            except OSError as error:
                log.warning("%s can't be taken over: %s", path, error.strerror)
            if found and slot is not None:
                log.info("%s: %d segments of a process that has died", path, len(found))
                self._slots.append(slot)
                self._take(found)
            elif slot is not None:
                slot.release()

    def append(self, records: Sequence[Record]) -> None:
        """Keep ``records``: when it returns they are on the disk, after one write and one fdatasync (more
        where a segment fills up).

        Raises JournalUnavailable, and then none of them counts as kept, though some may be found. Raises
        ValueError, and writes none, where one is empty, has a line break or is above MOST_RECORD_BYTES.
        """
        for record in records:
            check(record)
        batch: list[bytes] = []
        size = self._active.size if self._active else 0
        for record in records:
            line = encoded(record)
            if size and size + len(line) > self._segment_bytes:
                self._write(batch)
                self.seal()
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        self._write(batch)

    def seal(self) -> None:
        """Make what was appended readable: the next append begins a new segment."""
        active = self._active
        if active is None:
            return
        _close(active)
        with self._lock:
            self._active = None
            self._add(Segment(active.path, active.size, active.records))

    def segments(self) -> list[Segment]:
        """The sealed ones, oldest first, adopted ones before one's own."""
        with self._lock:
            found = list(self._sealed.values())
        own = self._slots[0].path if self._slots else None
        return sorted(found, key=lambda segment: (segment.path.parent == own, segment.order))

    def read(self, segment: Segment) -> Iterator[Contents]:
        """The records in pieces of at most PIECE_RECORDS, and PIECE_BYTES where it is not a single one.

        Raises JournalUnavailable, after what could be read, where the rest can't be.
        """
        records: list[bytes] = []
        size = damaged = 0
        failure: OSError | None = None
        try:
            for offset, record in decoded(segment.path):
                if record is None:
                    damaged += 1
                    self._report(segment, offset)
                    continue
                if len(records) == PIECE_RECORDS or (records and size + len(record) > PIECE_BYTES):
                    yield Contents(records, damaged)
                    records, size, damaged = [], 0, 0
                records.append(record)
                size += len(record)
        except OSError as error:
            failure = error
        if records or damaged:
            yield Contents(records, damaged)
        if failure is not None:
            raise _unavailable(segment.path, failure) from failure

    def remove(self, segment: Segment, damaged: bool = False) -> None:
        """Forget a segment that nobody needs any more: its file is deleted, or set aside where ``damaged``.

        Raises JournalUnavailable; the segment is then still there.
        """
        try:
            if damaged:
                segment.path.rename(segment.path.with_suffix(".damaged"))
            else:
                segment.path.unlink()
        except FileNotFoundError:
            log.error("%s has been taken away", segment.path)
        except OSError as error:
            raise _unavailable(segment.path, error) from error
        try:
            sync_folder(segment.path.parent)
        except OSError as error:
            # After a power cut it may be there again, and is replayed again.
            log.warning("%s: %s", segment.path.parent, error.strerror)
        with self._lock:
            if self._sealed.pop(segment.path, None) is not None:
                self._sealed_bytes -= segment.size
                self._sealed_records -= segment.records
            self._reported.discard(segment.path)
        if damaged:
            self._prune()

    @property
    def bytes(self) -> int:
        """On the disk, without the damaged files."""
        with self._lock:
            return self._sealed_bytes + (self._active.size if self._active else 0)

    @property
    def records(self) -> int:
        """Appended, or found, and not removed."""
        with self._lock:
            return self._sealed_records + (self._active.records if self._active else 0)

    def close(self) -> None:
        """Seal, and let others have what is left. Safe to call twice."""
        self.seal()
        with self._lock:
            self._sealed.clear()
            self._sealed_bytes = self._sealed_records = 0
            self._reported.clear()
        while self._slots:
            self._slots.pop().release()

    def _free_slot(self) -> Slot:
        number = 0
        while True:
            number += 1
            path = self._folder / str(number)
            there = os.path.lexists(path)
            try:
                slot = Slot.take(path)
            except OSError as error:
                if not there:
                    raise
                log.warning("%s can't be taken: %s", path, error.strerror)
                continue
            if slot is not None:
                return slot

    def _write(self, lines: list[Record]) -> None:
        if not lines:
            return
        if not self._slots:
            raise JournalUnavailable(f"{self._folder}: the journal is not open")
        data = b"".join(lines)
        if self._active is None:
            try:
                self._active = _Active(*self._slots[0].create())
            except OSError as error:
                raise _unavailable(self._slots[0].path, error) from error
        active = self._active
        try:
            unwritten = memoryview(data)
            while unwritten:
                unwritten = unwritten[os.write(active.descriptor, unwritten) :]
            os.fdatasync(active.descriptor)
            if os.fstat(active.descriptor).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it was deleted")
        except BaseException as error:
            self._give_up(active, active.size + len(data))
            if isinstance(error, OSError):
                raise _unavailable(active.path, error) from error
            raise
        with self._lock:
            active.size += len(data)
            active.records += len(lines)

    def _give_up(self, active: _Active, most_bytes: int) -> None:
        """End a segment after a failed write: it is never synced again, since an fsync that fails may
        say so only once."""
        size = active.size
        try:
            os.ftruncate(active.descriptor, size)
        except OSError as error:
            log.warning("%s: its torn end can't be cut off: %s", active.path, error.strerror)
            size = most_bytes
        _close(active)
        if not size:
            delete(active.path)
        with self._lock:
            self._active = None
            if size:
                self._add(Segment(active.path, size, active.records))

    def _take(self, found: list[Segment]) -> None:
        with self._lock:
            for segment in found:
                self._add(segment)

    def _add(self, segment: Segment) -> None:
        self._sealed[segment.path] = segment
        self._sealed_bytes += segment.size
        self._sealed_records += segment.records

    def _report(self, segment: Segment, offset: int) -> None:
        """Log damage, once for each segment."""
        with self._lock:
            if segment.path in self._reported:
                return
            self._reported.add(segment.path)
        log.error("%s is damaged, first at byte %d", segment.path, offset)

    def _prune(self) -> None:
        """Delete the damaged files that were set aside first, when there are many."""
        try:
            # A rename is a change of the inode.
            aside = sorted(self._folder.glob("*/*.damaged"), key=lambda path: path.stat().st_ctime_ns)
        except OSError as error:
            log.warning("%s: the damaged files can't be counted: %s", self._folder, error.strerror)
            return
        for path in aside[:-MOST_DAMAGED_FILES]:
            log.error("%s is deleted: there are more than %d damaged files", path, MOST_DAMAGED_FILES)
            delete(path)


def _close(active: _Active) -> None:
    try:
        os.close(active.descriptor)
    except OSError as error:
        # What counts was synced before.
        log.warning("%s: %s", active.path, error.strerror)


def _unavailable(path: Path, error: OSError) -> JournalUnavailable:
    return JournalUnavailable(f"{error.filename or path}: {error.strerror or error}")
