"""Lines on their way to standard error, without the event loop waiting for whoever reads them.

A pipe whose reader has stopped (a stuck journald, a paused container runtime) takes 64 KiB and then blocks
whoever writes. Here that is a thread of its own; the lines that wait for it are bounded.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from queue import SimpleQueue

# Of lines that wait to be written.
MOST_BYTES = 8 * 1024 * 1024
AT_ONCE_BYTES = 64 * 1024

# How long the end of the process waits for the last lines.
FLUSH_SECONDS = 5.0


class LogHandler(logging.Handler):
    """Formats where the record is made, for it may change, and has ``LineWriter`` write it."""

    def __init__(self, fd: int, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self._writer = LineWriter(fd, most_bytes)
        self._untold = 0
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits. Called with the handler's lock held."""
        if self._writer.is_full:
            self.dropped += 1
            self._untold += 1
            return
        if self._untold:
            self._writer.put(self._line(self._told_of_drops()))
            self._untold = 0
        self._writer.put(self._line(record))

    def flush(self) -> None:
        """Wait a little for the lines to be written. There is no ``close``: ``logging.config.dictConfig``, as
        vLLM calls it, closes handlers that are in use."""
        self._writer.flush(FLUSH_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _told_of_drops(self) -> logging.LogRecord:
        what = f"{self._untold} lines of the log were dropped: nobody read them"
        return logging.makeLogRecord(
            {"name": "gateway.logs", "levelno": logging.WARNING, "levelname": "WARNING", "msg": what}
        )


class LineWriter:
    """Writes to ``fd`` in a thread of its own."""

    def __init__(self, fd: int, most_bytes: int = MOST_BYTES) -> None:
        self._fd, self._most_bytes = fd, most_bytes
        self._lines: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Each is counted by one thread alone.
        self._taken = self._done = 0
        threading.Thread(target=self._write_all, name="gateway-log", daemon=True).start()

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may."""
        return self._taken - self._done >= self._most_bytes

    def put(self, line: bytes) -> None:
        """Have ``line`` written. Not to be called by two threads at once."""
        self._taken += len(line)
        self._lines.put(line)

    def flush(self, seconds: float) -> None:
        """Return when what was put is written, or after so long."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(seconds)

    def _write_all(self) -> None:
        while True:
            together, waiting = bytearray(), self._lines.get()
            while isinstance(waiting, bytes):
                together += waiting
                if len(together) >= AT_ONCE_BYTES or self._lines.empty():
                    break
                waiting = self._lines.get()
            self._write(together)
            self._done += len(together)
            if isinstance(waiting, threading.Event):
                waiting.set()

    def _write(self, lines: bytearray) -> None:
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Somebody we share it with has made it so.
                select.select([], [self._fd], [])
            except OSError:
                # Nobody is there to read: there is no place to tell that.
                return
