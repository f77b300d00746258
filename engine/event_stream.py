"""Reads server-sent events out of bytes, however these were cut.

Source: the HTML standard, "Server-sent events", 9.2.5 and 9.2.6. Of an event only its data is of interest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.base import GenerationFailed

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(GenerationFailed):
    """An event, or one of its lines, has more bytes than it may have."""


class EventReader:
    """``feed`` it what comes. ``most_bytes`` bounds an event's data, and a line."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        # The line that has not ended yet, in pieces: a long one must not be copied for each of them.
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._first_line = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of each event that ends in ``data``. Raises EventTooLarge."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            self._after_cr = True
        *ended, rest = _LINE_END.split(data)
        for piece in ended:
            self._keep(piece)
            line, self._line, self._line_bytes = b"".join(self._line), [], 0
            yield from self._read(line)
        if rest:
            self._keep(rest)

    def end(self) -> Iterator[bytes]:
        """The data of an event that lacks nothing but the empty line after it: some servers end so."""
        if self._line:
            yield from self._read(b"".join(self._line))
            self._line = []
        yield from self._read(b"")

    def _keep(self, piece: bytes) -> None:
        self._line_bytes += len(piece)
        if self._line_bytes > self._most_bytes:
            raise EventTooLarge(f"A line is longer than {self._most_bytes} bytes.")
        self._line.append(piece)

    def _read(self, line: bytes) -> Iterator[bytes]:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                data, self._data, self._data_bytes = b"\n".join(self._data), [], 0
                yield data
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data_bytes += len(line)
            if self._data_bytes > self._most_bytes:
                raise EventTooLarge(f"An event is longer than {self._most_bytes} bytes.")
            self._data.append(value.removeprefix(b" "))
