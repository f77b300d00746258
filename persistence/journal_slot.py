"""A journal's slots: folders of numbered files, each held by one living process.

``<slot>/lock`` is locked (flock) for as long as the holder lives, however it ends. The file says the
highest number that a segment of the slot was given, so that no number is used twice.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from pathlib import Path

from persistence.journal_segment import Segment, count

log = logging.getLogger("persistence.journal")

_SEGMENT = re.compile(r"[0-9]{10}\.journal")
_NUMBERED = re.compile(r"([0-9]{10})\.(?:journal|damaged)")

# Open files that hold locks.
_locks: set[int] = set()


def _close_in_child() -> None:
    """A forked child (an engine's process) would else keep the locks of a gateway that was killed."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_in_child)


class Slot:
    """A folder that is held; made by ``take``. All methods raise OSError."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._number: int | None = None

    @classmethod
    def take(cls, path: Path) -> Slot | None:
        """Hold ``path``, which is made where it is missing; None while another holds it."""
        make_folder(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        _locks.add(lock)
        return cls(path, lock)

    def release(self) -> None:
        """Let others have it."""
        if self._lock in _locks:
            _locks.remove(self._lock)
            os.close(self._lock)

    def create(self) -> tuple[Path, int]:
        """A new, empty file: its path, and its descriptor, which appends."""
        if self._number is None:
            self._number = self._highest()
        self._number += 1
        os.pwrite(self._lock, b"%010d\n" % self._number, 0)
        os.fdatasync(self._lock)
        path = self.path / f"{self._number:010d}.journal"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            sync_folder(self.path)
        except BaseException:
            os.close(descriptor)
            delete(path)
            raise
        return path, descriptor

    def segments(self) -> list[Segment]:
        """What an earlier holder left, oldest first. Empty files are deleted, foreign ones left alone."""
        found = []
        for entry in sorted(os.scandir(self.path), key=lambda entry: entry.name):
            if entry.name == "lock" or entry.name.endswith(".damaged"):
                continue
            if not _SEGMENT.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                log.warning("%s is not the journal's and is ignored", entry.path)
                continue
            path = Path(entry.path)
            if size := entry.stat(follow_symlinks=False).st_size:
                found.append(Segment(path, size, count(path)))
            else:
                delete(path)
        return found

    def _highest(self) -> int:
        said = os.pread(self._lock, 64, 0).strip()
        numbers = [int(said) if said.isdigit() else 0]
        numbers += [int(match[1]) for name in os.listdir(self.path) if (match := _NUMBERED.fullmatch(name))]
        return max(numbers)


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it that are missing, for nobody else to read."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what was created, renamed and deleted in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file that nobody needs; that it can't be is only logged."""
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        log.warning("%s can't be deleted for good: %s", path, error.strerror)
