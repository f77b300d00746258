"""The journal's files broken: torn, flipped, overwritten, unreadable."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence.journal import MOST_DAMAGED_FILES, JournalUnavailable
from tests.persistence.journals import contents, files, kept, opened, record, segment_with

# Bits of "*", "J" and "\x0b" make a line break.
RECORDS = [b'{"n":1}', '{"text":"你*J\x0b"}'.encode(), b"0", b'{"n":"last"}']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def ends(records: list[bytes]) -> list[int]:
    """The offset after each one's line."""
    found = [0]
    for one in records:
        found.append(found[-1] + len(one) + 11)
    return found[1:]


def test_a_segment_torn_anywhere_gives_the_records_that_are_whole(folder: Path) -> None:
    whole = segment_with(folder, RECORDS)
    path = folder / "1" / "0000000001.journal"
    for length in range(len(whole) + 1):
        for left in folder.glob("1/*"):
            left.unlink()
        path.write_bytes(whole[:length])
        journal = opened(folder)
        # The line break at its end is not a record's own.
        expected = [one for one, end in zip(RECORDS, ends(RECORDS), strict=True) if end - 1 <= length]
        assert kept(journal) == expected, length
        journal.append([record(1)])
        assert kept(journal) == [*expected, record(1)], length
        journal.close()


def test_a_torn_end_is_told_but_is_no_damage(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    whole = segment_with(folder, RECORDS)
    path = folder / "1" / "0000000001.journal"
    path.write_bytes(whole[:-5])
    journal = opened(folder)
    assert kept(journal) == RECORDS[:-1]
    assert [one.message for one in caplog.records if str(path) in one.message] == [
        f"{path} ends in a record that was not written to its end, at byte {ends(RECORDS)[2] + 1}"
    ]
    journal.close()


def test_a_flipped_bit_costs_the_record_that_it_is_in_at_most_and_is_reported(folder: Path) -> None:
    whole = segment_with(folder, RECORDS)
    path = folder / "1" / "0000000001.journal"
    journal = opened(folder)
    for position in range(len(whole)):
        hit = sum(end <= position for end in ends(RECORDS))
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            found = contents(journal)
            if found.records != RECORDS:
                assert found.records == RECORDS[:hit] + RECORDS[hit + 1 :], (position, bit)
                assert found.damaged > 0, (position, bit)
    journal.close()


@settings(max_examples=200)
@given(st.data())
def test_what_is_not_overwritten_is_given_and_nothing_is_invented(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    whole = segment_with(folder, RECORDS)
    start = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=len(whole) - start))
    changed = whole[:start] + noise + whole[start + len(noise) :]
    (folder / "1" / "0000000001.journal").write_bytes(changed)
    journal = opened(folder)
    found = contents(journal).records
    begins = [0, *ends(RECORDS)[:-1]]
    outside = [
        one
        for one, begin, end in zip(RECORDS, begins, ends(RECORDS), strict=True)
        if end <= start or begin >= start + len(noise)
    ]
    assert [one for one in RECORDS if one in found] == found
    assert [one for one in found if one in outside] == outside
    journal.close()


def test_damage_is_logged_once_for_a_segment_with_its_first_place(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = segment_with(folder, RECORDS)
    path = folder / "1" / "0000000001.journal"
    path.write_bytes(whole[:12] + b"?" + whole[13:-4] + b"?" + whole[-3:])
    journal = opened(folder)
    for _ in range(3):
        found = contents(journal)
        assert (found.records, found.damaged) == (RECORDS[1:-1], 2)
    assert [one.message for one in caplog.records] == [f"{path} is damaged, first at byte 1"]
    journal.close()


def test_a_damaged_segment_is_kept_aside_and_counts_no_more(folder: Path) -> None:
    journal = opened(folder)
    journal.append([record(1)])
    journal.seal()
    (segment,) = journal.segments()
    journal.remove(segment, damaged=True)
    assert (journal.bytes, journal.records, journal.segments(), files(folder)) == (0, 0, [], {})
    aside = folder / "1" / "0000000001.damaged"
    assert record(1) in aside.read_bytes()
    journal.close()
    journal.open()
    assert (journal.bytes, journal.segments(), aside.exists()) == (0, [], True)
    journal.close()


def test_the_last_damaged_segments_are_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = opened(folder)
    for number in range(1, MOST_DAMAGED_FILES + 4):
        journal.append([record(number)])
        journal.seal()
        (segment,) = journal.segments()
        journal.remove(segment, damaged=True)
    left = sorted(path.name for path in folder.glob("*/*.damaged"))
    assert left == [f"{number:010}.damaged" for number in range(4, MOST_DAMAGED_FILES + 4)]
    for number in (1, 2, 3):
        assert f"{folder}/1/{number:010}.damaged is deleted" in caplog.text
    assert f"{folder}/1/0000000004.damaged is deleted" not in caplog.text
    journal.close()


def test_a_segment_that_can_not_be_read_stops_nothing_else(folder: Path) -> None:
    journal = opened(folder)
    for number in (1, 2, 3):
        journal.append([record(number)])
        journal.seal()
    first, second, third = journal.segments()
    second.path.unlink()
    # Can be opened; its first byte is an I/O error.
    second.path.symlink_to("/proc/self/mem")
    third.path.unlink()
    assert journal.segments() == [first, second, third]
    assert [piece.records for piece in journal.read(first)] == [[record(1)]]
    with pytest.raises(JournalUnavailable, match=f"{second.path}: Input/output error"):
        list(journal.read(second))
    with pytest.raises(JournalUnavailable, match=f"{third.path}: No such file"):
        list(journal.read(third))
    journal.remove(second, damaged=True)
    journal.remove(third, damaged=True)
    assert (journal.segments(), journal.records) == ([first], 1)
    journal.close()


@pytest.mark.parametrize("reason", [errno.EIO, errno.EACCES])
def test_what_can_not_be_read_at_the_start_is_a_segment_all_the_same(
    folder: Path, reason: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(segment_with(folder, RECORDS))
    path, real = folder / "1" / "0000000001.journal", Path.open

    def broken(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(reason, os.strerror(reason), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", broken)
    journal = opened(folder)
    assert f"{path} can't be read: {os.strerror(reason)}" in caplog.text
    (segment,) = journal.segments()
    assert (journal.bytes, journal.records) == (size, 0)
    with pytest.raises(JournalUnavailable, match=os.strerror(reason)):
        list(journal.read(segment))
    journal.append([record(1)])
    monkeypatch.undo()
    assert kept(journal) == [*RECORDS, record(1)]
    journal.close()


def test_what_was_read_before_an_error_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(folder)
    journal.append(RECORDS)
    journal.seal()
    (segment,) = journal.segments()

    class Broken:
        """The first lines of a file, then an I/O error."""

        def __init__(self, lines: list[bytes]) -> None:
            self.lines = lines

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None: ...

        def readline(self, _: int) -> bytes:
            if not self.lines:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self.lines.pop(0)

    lines = segment.path.read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(Path, "open", lambda *_, **__: Broken(lines[:4]))
    pieces = journal.read(segment)
    assert next(pieces).records == RECORDS[:2]
    with pytest.raises(JournalUnavailable, match=f"{segment.path}: Input/output error"):
        next(pieces)
    journal.close()
