"""Any life of a journal: what was acknowledged and not removed is there, in order, and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from persistence.journal import JournalUnavailable
from tests.persistence.journals import contents, files, kept, opened

real_write = os.write

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), max_size=8)


class Died(BaseException):
    """The process ends here."""


class JournalLives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="gateway-"))
        self.folders = 0
        # Of each record that was given: is it certain to be there?
        self.given: dict[bytes, bool] = {}
        self.removed: set[bytes] = set()
        self.highest = 0
        self.names: set[str] = set()

    @property
    def folder(self) -> Path:
        return self.root / str(self.folders)

    @initialize(segment_bytes=st.sampled_from([1, 60, 200, 2**20]))
    def begin(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.journal = opened(self.folder, segment_bytes)

    def records(self, texts: list[str]) -> list[bytes]:
        first = len(self.given)
        records = [f'{{"n":{number},"text":"{text}"}}'.encode() for number, text in enumerate(texts, first)]
        self.given |= dict.fromkeys(records, False)
        return records

    @rule(texts=texts)
    def append(self, texts: list[str]) -> None:
        records = self.records(texts)
        self.journal.append(records)
        self.given |= dict.fromkeys(records, True)

    @rule(texts=texts, room=st.integers(0, 300))
    def append_to_a_disk_that_fills_up(self, texts: list[str], room: int) -> None:
        records = self.records(texts)
        with writing(room, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
            try:
                self.journal.append(records)
            except JournalUnavailable:
                return
        self.given |= dict.fromkeys(records, True)

    @rule(texts=texts, syncs=st.integers(0, 5))
    def append_and_fail_to_sync(self, texts: list[str], syncs: int) -> None:
        def fdatasync(_: int) -> None:
            nonlocal syncs
            syncs -= 1
            if syncs < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        records = self.records(texts)
        with patch("os.fdatasync", fdatasync):
            try:
                self.journal.append(records)
            except JournalUnavailable:
                return
        self.given |= dict.fromkeys(records, True)

    @rule(texts=texts, room=st.integers(0, 300))
    def die_while_appending(self, texts: list[str], room: int) -> None:
        """The next life sees the files as they were at that moment."""
        records = self.records(texts)
        folder, self.folders = self.folder, self.folders + 1
        with writing(room, Died(), lambda: shutil.copytree(folder, self.folder)):
            try:
                self.journal.append(records)
                self.given |= dict.fromkeys(records, True)
                shutil.copytree(folder, self.folder)
            except Died:
                pass
        self.journal.close()
        self.journal = opened(self.folder, self.segment_bytes)

    @rule()
    def seal(self) -> None:
        self.journal.seal()

    @rule()
    def end_and_begin_again(self) -> None:
        self.journal.close()
        self.journal.open()

    @precondition(lambda self: self.journal.segments())
    @rule(data=st.data(), damaged=st.booleans())
    def remove(self, data: st.DataObject, damaged: bool) -> None:
        segment = data.draw(st.sampled_from(self.journal.segments()))
        for piece in self.journal.read(segment):
            self.removed.update(piece.records)
        self.journal.remove(segment, damaged)

    @rule()
    def read(self) -> None:
        self.holds(kept(self.journal))

    def holds(self, found: list[bytes]) -> None:
        expected = [one for one in self.given if one not in self.removed]
        assert [one for one in expected if one in set(found)] == found
        assert [one for one in found if self.given[one]] == [one for one in expected if self.given[one]]

    @invariant()
    def what_is_sealed_is_whole(self) -> None:
        assert contents(self.journal).damaged == 0

    @invariant()
    def what_is_on_the_disk_is_counted(self) -> None:
        assert self.journal.bytes == sum(files(self.folder).values())

    @invariant()
    def no_number_is_used_twice(self) -> None:
        new = set(files(self.folder)) - self.names
        assert all(int(Path(name).stem) > self.highest for name in new)
        self.names |= new
        self.highest = max([self.highest, *(int(Path(name).stem) for name in new)])

    def teardown(self) -> None:
        self.holds(kept(self.journal))
        self.journal.close()
        shutil.rmtree(self.root)


@contextmanager
def writing(room: int, error: BaseException, before: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Only so many bytes can be written; then there is an error."""
    left = room

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            before()
            raise error
        written = real_write(descriptor, data[:left])
        left -= written
        return written

    with patch("os.write", write):
        yield


TestJournalLives = JournalLives.TestCase
TestJournalLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
