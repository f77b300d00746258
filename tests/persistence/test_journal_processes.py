"""Several processes in one folder, and processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.persistence.journals import contents, files, kept, opened, record

# Says each number before which all are kept.
APPENDS = """
import sys
from pathlib import Path
from persistence.journal import Journal
journal = Journal(Path(sys.argv[1]), segment_bytes=2000)
journal.open()
number = int(sys.argv[2])
while True:
    batch = range(number, number + number % 7 + 1)
    journal.append([b'{"n":%d,"text":"%b"}' % (one, b"x" * (one % 300)) for one in batch])
    number = batch.stop
    print(number, flush=True)
    if number % 11 == 0:
        journal.seal()
"""

LIVES = """
# Says a line, or its child's number, when it has kept a record.
import os, sys, time
from pathlib import Path
from persistence.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.open()
journal.append([sys.argv[2].encode()])
if "fork" in sys.argv and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(3600)
if "fork" not in sys.argv:
    print(flush=True)
sys.stdin.read()
journal.close()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a process with a script and its arguments."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(folder), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_was_acknowledged_is_there_however_often_the_process_is_killed(
    folder: Path, start: Start
) -> None:
    """Twenty lives; the records of some are left for later ones to read."""
    random = Random(0)
    acknowledged: list[range] = []
    for life in range(20):
        first = life * 10**6
        process = start(APPENDS, first)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(random.randrange(60))]
        process.kill()
        said += process.stdout.readlines()
        process.wait()
        if said:
            acknowledged.append(range(first, int(said[-1])))
        if life % 3 == 2:
            journal = opened(folder)
            found = [json.loads(one)["n"] for one in kept(journal)]
            assert all(one < other for one, other in pairwise(found))
            assert {one for numbers in acknowledged for one in numbers} <= set(found)
            assert len(found) > 0
            # Beyond what was acknowledged there is at most the last append of each life.
            assert len(found) <= sum(map(len, acknowledged)) + 3 * 7
            for segment in journal.segments():
                journal.remove(segment)
            acknowledged.clear()
            journal.close()


def living(start: Start, number: int, *more: str) -> subprocess.Popen[str]:
    """A process that has kept a record."""
    process = start(LIVES, record(number).decode(), *more)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_each_process_has_its_own_slot(folder: Path, start: Start) -> None:
    living(start, 1)
    journal = opened(folder)
    journal.append([record(2)])
    assert list(files(folder)) == ["1/0000000001.journal", "2/0000000001.journal"]
    assert kept(journal) == [record(2)]
    journal.adopt()
    assert contents(journal).records == [record(2)]
    journal.close()


def test_what_the_dead_left_is_taken_over_and_what_the_living_have_is_not(folder: Path, start: Start) -> None:
    first, second, third, fourth = (living(start, number) for number in (1, 2, 3, 4))
    for process in (first, second, fourth):
        end(process)
    journal = opened(folder)
    journal.append([record(5)])
    # The first slot became its own; the others' come before.
    assert kept(journal) == [record(2), record(4), record(1), record(5)]
    assert journal.records == 4
    assert journal.bytes == sum(size for name, size in files(folder).items() if not name.startswith("3/"))
    another = opened(folder)
    assert another.segments() == []
    assert list(folder.glob("5/lock"))
    end(third)
    journal.adopt()
    assert kept(journal) == [record(2), record(3), record(4), record(1), record(5)]
    for segment in journal.segments():
        journal.remove(segment)
    assert (journal.bytes, journal.records, files(folder)) == (0, 0, {})
    another.close()
    journal.close()


def test_what_a_process_left_that_ended_in_order_is_taken_over_too(folder: Path, start: Start) -> None:
    first, second = living(start, 1), living(start, 2)
    second.communicate()
    journal = opened(folder)
    assert not (folder / "3").exists()
    assert kept(journal) == [record(2)]
    first.communicate()
    journal.adopt()
    assert kept(journal) == [record(1), record(2)]
    journal.close()


def test_a_slot_is_free_when_its_process_is_dead_although_a_forked_child_lives(
    folder: Path, start: Start
) -> None:
    """As the engine's processes are."""
    process = start(LIVES, record(1).decode(), "fork")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        end(process)
        journal = opened(folder)
        assert kept(journal) == [record(1)]
        assert not (folder / "2").exists()
        journal.close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_is_forked_does_not_free_the_slot(folder: Path, start: Start) -> None:
    process = start(LIVES, record(1).decode(), "fork")
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    journal = opened(folder)
    assert journal.segments() == []
    assert (folder / "2").exists()
    journal.close()
