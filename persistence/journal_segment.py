"""A journal's segments: how records are written into a file and found in it again.

The format is in the docstring of ``persistence.journal``.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_RECORD_BYTES = 64 * 2**20

_READ_BYTES = 2**20
# The checksum and a space.
_PREFIX_BYTES = 9

log = logging.getLogger("persistence.journal")


@dataclass(frozen=True)
class Segment:
    """A file of records that is not written any more. ``size`` is in bytes; ``records`` is what was written,
    or what a count of its line breaks says of a file that was found."""

    path: Path
    size: int
    records: int

    @property
    def order(self) -> tuple[int, int]:
        """Its slot, and its number there."""
        return int(self.path.parent.name), int(self.path.stem)


def check(record: bytes) -> None:
    """Raises ValueError for what can't be a record."""
    if not record:
        raise ValueError("a record of the journal is not empty")
    if b"\n" in record:
        raise ValueError("a record of the journal has no line break")
    if len(record) > MOST_RECORD_BYTES:
        raise ValueError(f"a record of the journal has at most {MOST_RECORD_BYTES} bytes, not {len(record)}")


def encoded(record: bytes) -> bytes:
    """A record as it is written."""
    return b"\n%08x %b\n" % (zlib.crc32(record), record)


def decoded(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The byte offset and the record of every line that has one; None where it does not check out.

    Raises OSError.
    """
    most = _PREFIX_BYTES + MOST_RECORD_BYTES + 1
    offset = 0
    with path.open("rb", buffering=_READ_BYTES) as file:
        while line := file.readline(most):
            start, offset = offset, offset + len(line)
            if line.endswith(b"\n"):
                if len(line) > 1:
                    yield start, _record(line, len(line) - 1)
            elif len(line) == most:
                yield start, None
                while rest := file.readline(_READ_BYTES):
                    offset += len(rest)
                    if rest.endswith(b"\n"):
                        break
            elif (record := _record(line, len(line))) is not None:
                yield start, record
            elif (record := _record(line, len(line) - 1)) is not None:
                # What should be the line break is another byte.
                yield start, record
                yield offset - 1, None
            else:
                log.info("%s ends in a record that was not written to its end, at byte %d", path, start)


def count(path: Path) -> int:
    """How many records a segment seems to have: each brings two line breaks. 0 where it can't be read."""
    breaks = 0
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                breaks += chunk.count(b"\n")
    except OSError as error:
        log.error("%s can't be read: %s", path, error.strerror)
        return 0
    return breaks // 2


def _record(line: bytes, end: int) -> bytes | None:
    record = line[_PREFIX_BYTES:end]
    return record if record and line[:_PREFIX_BYTES] == b"%08x " % zlib.crc32(record) else None
