"""Writes that fail: full disks, fsyncs that fail, folders that go away."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from persistence.journal import Journal, JournalUnavailable
from tests.persistence.journals import files, kept, opened, record

real_write, real_fdatasync = os.write, os.fdatasync


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(journal: Journal, first: int, size: int = 10_000) -> list[bytes]:
    """Append until it fails; gives what was kept."""
    records: list[bytes] = []
    with pytest.raises(JournalUnavailable, match=r"No space left on device|File too large"):
        while True:
            one = b'{"n":%d,"text":"%s"}' % (first + len(records), b"x" * size)
            journal.append([one])
            records.append(one)
    return records


def test_a_full_disk_keeps_what_was_kept_and_takes_more_when_it_has_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    journal = opened(small_disk / "journal", 100_000)
    records = fill(journal, 0)
    assert len(records) > 50
    # Nothing is left of what failed.
    assert (journal.records, journal.bytes) == (len(records), sum(files(small_disk / "journal").values()))
    # Full for less than a record.
    records += fill(journal, 1000, size=100)
    with pytest.raises(JournalUnavailable, match=rf"{small_disk}/journal/1.*: No space left on device\Z"):
        journal.append([record(number) for number in range(10_000)])
    assert kept(journal) == records
    ballast.unlink()
    journal.append([record(1)])
    assert kept(journal) == [*records, record(1)]
    journal.close()
    journal.open()
    assert kept(journal) == [*records, record(1)]
    # Replaying makes space as well.
    assert fill(journal, 2000)
    for segment in journal.segments():
        journal.remove(segment)
    journal.append([record(2)])
    assert kept(journal) == [record(2)]
    journal.close()


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(b"x" * 2_000_000)
    journal = Journal(small_disk / "journal")
    with contextlib.suppress(JournalUnavailable):
        journal.open()
        with pytest.raises(JournalUnavailable):
            journal.append([record(1)])
        journal.close()
    ballast.unlink()
    journal.open()
    journal.append([record(1)])
    assert kept(journal) == [record(1)]
    journal.close()


def test_a_disk_that_is_read_only_at_the_start(small_disk: Path) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    journal = opened(small_disk / "journal")
    journal.append([record(1)])
    journal.close()
    remount("ro")
    with pytest.raises(JournalUnavailable, match=rf"\A{small_disk}/journal/\d: Read-only file system\Z"):
        journal.open()
    remount("rw")
    journal.open()
    assert kept(journal) == [record(1)]
    journal.close()


def test_a_segment_that_can_not_be_removed_is_still_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    journal = opened(folder)
    journal.append([record(1)])
    journal.seal()
    (segment,) = journal.segments()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fails)
        patched.setattr(Path, "rename", fails)
        for damaged in (False, True):
            with pytest.raises(JournalUnavailable, match=f"{segment.path}: Read-only file system"):
                journal.remove(segment, damaged)
    assert (kept(journal), journal.records, journal.bytes) == ([record(1)], 1, segment.size)
    journal.close()


def test_a_file_that_may_not_grow_is_given_up(folder: Path) -> None:
    """The kernel writes what still fits, then refuses the rest."""
    journal = opened(folder)
    journal.append([record(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        records = fill(journal, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(records) == 4
    journal.append([record(2)])
    assert kept(journal) == [record(1), *records, record(2)]
    assert len(files(folder)) == 2
    journal.close()


@pytest.mark.parametrize("kept_before", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_anywhere_leaves_nothing_half_done(
    folder: Path, kept_before: bool, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(folder)
    records = []
    for room in range(0, 40, 3):
        if kept_before:
            records.append(record(1000 + room))
            journal.append(records[-1:])
        left = room

        def write(descriptor: int, data: bytes) -> int:
            nonlocal left
            if left == 0:
                raise OSError(reason, os.strerror(reason))
            written = real_write(descriptor, data[: min(left, 7)])
            left -= written
            return written

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", write)
            with pytest.raises(JournalUnavailable, match=re.escape(os.strerror(reason))):
                journal.append([record(number) for number in range(3)])
        records.append(record(room))
        journal.append(records[-1:])
        assert kept(journal) == records
    assert (journal.records, journal.bytes) == (len(records), sum(files(folder).values()))
    journal.close()
    journal.open()
    assert kept(journal) == records
    journal.close()


def test_a_file_whose_sync_failed_is_never_synced_or_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may report a lost page once, and call the next fsync a success."""
    synced: list[str] = []
    fails = False

    def fdatasync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if fails and synced[-1].endswith(".journal"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal = opened(folder)
    journal.append([record(1)])
    fails = True
    for number in (2, 3):
        with pytest.raises(JournalUnavailable, match=r"/1/000000000\d.journal: Input/output error\Z"):
            journal.append([record(number)])
    fails = False
    journal.append([record(4)])
    assert kept(journal) == [record(1), record(4)]
    assert [Path(path).name for path in synced if path.endswith(".journal")] == [
        "0000000001.journal",
        "0000000001.journal",
        "0000000002.journal",
        "0000000003.journal",
    ]
    assert list(files(folder)) == ["1/0000000001.journal", "1/0000000003.journal"]
    journal.close()


def test_a_torn_end_that_can_not_be_cut_off_takes_nothing_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = opened(folder)
    for number in (1, 3):
        journal.append([record(number)])
        with monkeypatch.context() as patched:
            patched.setattr(os, "ftruncate", fails)
            patched.setattr(os, "fdatasync", fails)
            with pytest.raises(JournalUnavailable):
                journal.append([record(number + 1)])
        assert journal.bytes == sum(files(folder).values())
    # They may be there; whoever appended them gives them again.
    assert kept(journal) == [record(number) for number in (1, 2, 3, 4)]
    journal.close()


def test_a_folder_that_can_not_be_synced_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = opened(folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(JournalUnavailable, match=f"{folder}/1: Input/output error"):
            journal.append([record(1)])
    assert (files(folder), journal.bytes) == ({}, 0)
    journal.append([record(2)])
    journal.seal()
    (segment,) = journal.segments()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        journal.remove(segment)
    assert (files(folder), journal.bytes) == ({}, 0)
    journal.close()


def test_a_file_that_was_deleted_keeps_nothing(folder: Path) -> None:
    journal = opened(folder)
    journal.append([record(1)])
    (folder / "1" / "0000000001.journal").unlink()
    with pytest.raises(JournalUnavailable, match=r"0000000001.journal: it was deleted\Z"):
        journal.append([record(2)])
    journal.append([record(3)])
    journal.seal()
    gone, there = journal.segments()
    with pytest.raises(JournalUnavailable, match="No such file"):
        list(journal.read(gone))
    journal.remove(gone, damaged=True)
    assert kept(journal) == [record(3)]
    assert journal.records == there.records
    journal.close()


def test_a_folder_that_was_deleted_can_be_opened_again(folder: Path) -> None:
    journal = opened(folder)
    shutil.rmtree(folder)
    with pytest.raises(JournalUnavailable, match=rf"{folder}/1\S*: No such file or directory\Z"):
        journal.append([record(1)])
    journal.close()
    journal.open()
    journal.append([record(1)])
    assert kept(journal) == [record(1)]
    journal.close()


def test_an_append_that_is_interrupted_leaves_nothing_half_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(descriptor: int, data: bytes) -> int:
        real_write(descriptor, data[:5])
        raise KeyboardInterrupt

    journal = opened(folder)
    journal.append([record(1)])
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(KeyboardInterrupt):
            journal.append([record(2)])
    journal.append([record(3)])
    assert kept(journal) == [record(1), record(3)]
    journal.close()
