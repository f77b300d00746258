"""What the tests of the journal share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from persistence.journal import Contents, Journal


def record(number: int) -> bytes:
    return b'{"n":%d}' % number


def contents(journal: Journal) -> Contents:
    """Everything that can be read."""
    pieces = [piece for segment in journal.segments() for piece in journal.read(segment)]
    return Contents(
        [one for piece in pieces for one in piece.records], sum(piece.damaged for piece in pieces)
    )


def kept(journal: Journal) -> list[bytes]:
    """Everything that was kept, of which nothing is damaged."""
    journal.seal()
    found = contents(journal)
    assert found.damaged == 0
    return found.records


def files(folder: Path) -> dict[str, int]:
    """The segments' files below a journal's folder, with their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.glob("*/*.journal"))}


def opened(folder: Path, segment_bytes: int = 2**20) -> Journal:
    journal = Journal(folder, segment_bytes)
    journal.open()
    return journal


def segment_with(folder: Path, records: Iterable[bytes]) -> bytes:
    """The bytes of a segment that holds ``records``."""
    journal = opened(folder, 2**30)
    for one in records:
        journal.append([one])
    journal.close()
    (path,) = folder.glob("*/*.journal")
    return path.read_bytes()
