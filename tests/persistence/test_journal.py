from __future__ import annotations

import json
import os
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence.journal import PIECE_BYTES, PIECE_RECORDS, Journal, JournalUnavailable
from tests.persistence.journals import contents, files, kept, opened, record, segment_with


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_a_segment_is_text_that_people_can_read(folder: Path) -> None:
    written = segment_with(folder, [b'{"a":1}', '{"b":"你好"}'.encode()])
    assert written.decode() == '\n561bacaf {"a":1}\n\nefa4e0eb {"b":"你好"}\n'
    assert files(folder) == {"1/0000000001.journal": len(written)}


def test_what_was_appended_is_read_in_order_once_it_is_sealed(folder: Path) -> None:
    journal = opened(folder)
    journal.seal()
    assert journal.segments() == []
    journal.append([record(1), record(2)])
    journal.append([])
    journal.append([record(3)])
    assert journal.segments() == []
    assert journal.records == 3
    journal.seal()
    journal.seal()
    (segment,) = journal.segments()
    assert contents(journal).records == [record(1), record(2), record(3)]
    journal.append([record(4)])
    journal.seal()
    assert journal.segments()[0] == segment
    assert [segment.records for segment in journal.segments()] == [3, 1]
    assert contents(journal).records == [record(number) for number in (1, 2, 3, 4)]
    journal.close()


def test_a_segment_that_is_full_is_followed_by_another(folder: Path) -> None:
    journal = opened(folder, 100)
    records = [record(10**6 + number) for number in range(50)]
    journal.append(records[:3])
    journal.append([*records[3:20], b'"%s"' % (b"x" * 500), *records[20:]])
    assert kept(journal) == [*records[:20], b'"%s"' % (b"x" * 500), *records[20:]]
    assert list(files(folder).values()) == [*[96] * 5, 513, *[96] * 7, 48]
    journal.close()


@pytest.mark.parametrize("refused", [b"", b"\n", b'{"a":\n1}', b"123456789"])
def test_what_can_not_be_a_record_is_refused_and_nothing_is_written(
    folder: Path, refused: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.journal_segment.MOST_RECORD_BYTES", 8)
    journal = opened(folder)
    with pytest.raises(ValueError, match="a record of the journal"):
        journal.append([b"{}", refused])
    assert kept(journal) == []
    journal.append([b"12345678"])
    assert kept(journal) == [b"12345678"]
    journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1).filter(lambda some: b"\n" not in some), min_size=1))
def test_every_record_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    journal = opened(tmp_path_factory.mktemp("journal"), 100)
    journal.append(records)
    assert kept(journal) == records
    journal.close()


@pytest.mark.parametrize(
    "large",
    [
        json.dumps({"a": "你好，世界。" * 300_000}, ensure_ascii=False).encode(),
        json.dumps({"a": "\ud83d"}).encode(),
        json.dumps({"a": "\ud83d \u2028 \0"}, ensure_ascii=False).encode(errors="surrogatepass"),
    ],
    ids=["5 MB of Chinese", "escaped surrogate", "raw surrogate"],
)
def test_large_and_odd_texts_are_kept(folder: Path, large: bytes) -> None:
    journal = opened(folder)
    journal.append([record(1), large, record(2), large])
    journal.close()
    journal = opened(folder)
    assert kept(journal) == [record(1), large, record(2), large]
    journal.close()


def test_what_is_on_the_disk_is_counted_until_it_is_removed(folder: Path) -> None:
    journal = opened(folder, 200)
    assert (journal.bytes, journal.records) == (0, 0)
    journal.append([record(number) for number in range(100)])
    assert (journal.bytes, journal.records) == (sum(files(folder).values()), 100)
    journal.close()
    assert (journal.bytes, journal.records, journal.segments()) == (0, 0, [])
    journal.open()
    journal.append([record(100)])
    assert (journal.bytes, journal.records) == (sum(files(folder).values()), 101)
    journal.seal()
    first, *others = journal.segments()
    journal.remove(first)
    assert journal.records == 101 - first.records
    journal.remove(first)
    assert (journal.bytes, journal.records) == (sum(files(folder).values()), 101 - first.records)
    for segment in others:
        journal.remove(segment)
    assert (journal.bytes, journal.records, files(folder)) == (0, 0, {})
    journal.close()
    journal.close()


def test_a_number_is_never_used_twice(folder: Path) -> None:
    for life in range(1, 5):
        journal = opened(folder)
        for _ in range(2):
            journal.append([record(life)])
            journal.seal()
        assert list(files(folder)) == [f"1/{2 * life - 1:010}.journal", f"1/{2 * life:010}.journal"]
        for segment in journal.segments():
            journal.remove(segment)
        journal.close()
    # Also where the file that says so is lost.
    (folder / "1" / "0000000012.damaged").write_bytes(b"x")
    (folder / "1" / "lock").write_bytes(b"\0\0")
    assert segment_with(folder, [record(1)])
    assert list(files(folder)) == ["1/0000000013.journal"]


def test_nobody_else_can_read_the_texts(folder: Path) -> None:
    journal = opened(folder)
    journal.append([record(1)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes == {"journal": 0o700, "1": 0o700, "lock": 0o600, "0000000001.journal": 0o600}
    journal.close()


def test_a_journal_that_was_not_used_leaves_no_segment(folder: Path) -> None:
    opened(folder).close()
    assert files(folder) == {}
    (folder / "1" / "0000000001.journal").touch()
    opened(folder).close()
    assert files(folder) == {}


def test_reading_takes_little_memory_however_large_a_segment_is(folder: Path) -> None:
    journal = opened(folder, 2**30)
    small, large = record(1), b'"%s"' % (b"x" * 5_000_000)
    for _ in range(8):
        journal.append([small] * 5000 + [b'"%s"' % (b"x" * 30_000)] * 100 + [large])
    journal.seal()
    (segment,) = journal.segments()
    assert segment.size > 60 * 2**20
    count = 0
    tracemalloc.start()
    try:
        for piece in journal.read(segment):
            assert len(piece.records) <= PIECE_RECORDS
            assert len(piece.records) == 1 or sum(map(len, piece.records)) <= PIECE_BYTES
            count += len(piece.records)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert count == segment.records == journal.records == 8 * 5101
    journal.close()


@pytest.mark.parametrize("length", [1000, 1010, 1011, 5000, 3_000_000])
def test_a_line_that_is_longer_than_any_record_is_damage(
    folder: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.journal_segment.MOST_RECORD_BYTES", 1000)
    journal = opened(folder)
    journal.append([record(1)])
    journal.close()
    path = folder / "1" / "0000000001.journal"
    whole = path.read_bytes()
    path.write_bytes(b"x" * length + whole + b"y" * length + whole + b"z" * 1011)
    journal.open()
    found = contents(journal)
    assert (found.records, found.damaged) == ([record(1), record(1)], 3)
    journal.close()


def test_a_segment_is_read_and_removed_in_another_thread_while_there_are_new_records(folder: Path) -> None:
    journal = opened(folder, 500)
    ended = threading.Event()
    replayed: list[bytes] = []

    def replay() -> None:
        while True:
            last = ended.is_set()
            for segment in journal.segments():
                for piece in journal.read(segment):
                    replayed.extend(piece.records)
                journal.remove(segment)
            if last:
                return

    thread = threading.Thread(target=replay)
    thread.start()
    records = [record(number) for number in range(1500)]
    for start in range(0, 1500, 5):
        journal.append(records[start : start + 5])
        if start % 35 == 0:
            journal.seal()
    journal.seal()
    ended.set()
    thread.join()
    assert replayed == records
    assert (journal.bytes, journal.records, files(folder)) == (0, 0, {})
    journal.close()


def test_what_is_not_the_journals_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    foreign = ["1/notes.txt", "1/1.journal", "1/0000000001.journal.gz", "2", "x/0000000001.journal"]
    segment_with(folder, [record(1)])
    (folder / "x").mkdir()
    for name in foreign:
        (folder / name).write_bytes(b"\n\nmine\n")
    (folder / "1" / "0000000007.journal").mkdir()
    (folder / "1" / "0000000008.journal").symlink_to("/dev/zero")
    journal = opened(folder)
    assert kept(journal) == [record(1)]
    other = opened(folder)
    other.append([record(2)])
    assert "3/0000000001.journal" in files(folder)
    assert {(folder / name).read_bytes() for name in foreign} == {b"\n\nmine\n"}
    for name in [*foreign[:4], "1/0000000007.journal", "1/0000000008.journal"]:
        assert f"{folder / name} " in caplog.text
    other.close()
    journal.close()


@pytest.mark.parametrize("blocked", ["journal", "."])
def test_where_there_can_be_no_journal_the_reason_is_told_in_one_line(tmp_path: Path, blocked: str) -> None:
    """And once it has gone, the same journal can be opened."""
    data_dir = tmp_path / "data"
    journal = Journal(data_dir / "journal")
    (data_dir / blocked).parent.mkdir(exist_ok=True)
    (data_dir / blocked).touch()
    with pytest.raises(JournalUnavailable, match=rf"\A{data_dir}[^\n]*: (File exists|Not a directory)\Z"):
        journal.open()
    with pytest.raises(JournalUnavailable, match="not open"):
        journal.append([record(1)])
    (data_dir / blocked).unlink()
    journal.open()
    journal.append([record(1)])
    assert kept(journal) == [record(1)]
    journal.close()


def test_a_slot_that_can_not_be_taken_is_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "1" / "lock").mkdir(parents=True)
    journal = opened(folder)
    journal.append([record(1)])
    assert list(files(folder)) == ["2/0000000001.journal"]
    assert f"{folder / '1'} can't be taken: Is a directory" in caplog.text
    journal.close()


def test_a_descriptor_is_left_to_nobody(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    journal = opened(folder, 50)
    journal.append([record(number) for number in range(20)])
    assert kept(journal)
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == before
