"""Nobody waits for whoever reads the log."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from gateway.logs.formats import JsonFormatter
from gateway.logs.writer import LogHandler


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may be slow to write."""
    monkeypatch.setattr("gateway.logs.writer.FLUSH_SECONDS", 60.0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends; a test may close them."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def handler_of(fd: int, most_bytes: int = 100_000) -> LogHandler:
    handler = LogHandler(fd, most_bytes)
    handler.setFormatter(JsonFormatter())
    return handler


def told(handler: LogHandler, message: str) -> None:
    handler.handle(logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": message}))


def test_all_is_written_in_its_order_by_the_time_it_is_flushed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        handler = handler_of(file.fileno(), 10_000_000)
        for number in range(2_000):
            told(handler, f"{number} 你好")
        handler.flush()
        lines = (tmp_path / "log").read_text("utf-8").splitlines()
    assert [json.loads(line)["message"] for line in lines] == [f"{number} 你好" for number in range(2_000)]


def test_what_was_flushed_is_there(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        handler = handler_of(file.fileno())
        told(handler, "there")
        handler.flush()
        assert b"there" in (tmp_path / "log").read_bytes()


def test_a_reader_that_has_stopped_makes_nobody_wait_and_is_told_what_was_dropped(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    handler = handler_of(writing)
    # More than the pipe and the queue hold; were it written here it would block for ever.
    for number in range(3_000):
        told(handler, f"{number} " + "x" * 200)
    dropped = handler.dropped
    assert dropped > 1_000
    text = bytearray()

    def read() -> None:
        while b"again" not in text:
            text.extend(os.read(reading, 65_536))

    reader = Thread(target=read, daemon=True)
    reader.start()
    handler._writer.flush(60)
    told(handler, "again")
    reader.join(60)
    assert handler.dropped == dropped
    messages = [json.loads(line)["message"] for line in text.splitlines()]
    told_of = [message.split()[0] for message in messages if "lines of the log were dropped" in message]
    assert sum(map(int, told_of)) == dropped
    assert len(messages) - len(told_of) == 3_000 - dropped + 1
    assert messages[-1] == "again"


def test_a_reader_that_has_gone_breaks_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    handler = handler_of(writing)
    for _ in range(3_000):
        told(handler, "x" * 200)
        handler.flush()
    assert handler.dropped == 0


def test_a_pipe_that_somebody_has_made_not_to_block_gets_all(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    handler = handler_of(writing, 10_000_000)
    for number in range(1_000):
        told(handler, f"{number} " + "x" * 200)
    text = b""
    while text.count(b"\n") < 1_000:
        text += os.read(reading, 65_536)
    assert json.loads(text.splitlines()[-1])["message"].startswith("999 ")
