"""An event stream as a browser reads it: HTML's section 9.2.6, "Interpreting an event stream"."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

DEFAULT_TYPE = "message"


@dataclass(frozen=True, slots=True)
class Event:
    """What an EventSource dispatches."""

    data: str
    type: str = DEFAULT_TYPE
    last_event_id: str = ""


class EventReader:
    """``feed`` it bytes as they come. ``retry_ms`` is the reconnection time that was told."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self.comments: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._after_return = False
        self._at_start = True
        self._data = ""
        self._type = ""
        self._last_event_id = ""

    @property
    def unfinished(self) -> bool:
        """Whether there is something that would be lost if the stream ended now."""
        return bool(self._line or self._data or self._type)

    def feed(self, received: bytes) -> list[Event]:
        """The events that end with it."""
        events: list[Event] = []
        for character in self._decoder.decode(received):
            start, self._at_start = self._at_start, False
            after_return, self._after_return = self._after_return, character == "\r"
            if character not in "\r\n":
                # One leading byte order mark is no part of the stream.
                self._line += "" if start and character == "\ufeff" else character
            elif not (character == "\n" and after_return):
                line, self._line = self._line, ""
                events += self._ended(line)
        return events

    def _ended(self, line: str) -> list[Event]:
        if not line:
            return self._dispatched()
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if colon:
                self.comments.append(value)
            case "event":
                self._type = value
            case "data":
                self._data += value + "\n"
            case "id" if "\0" not in value:
                self._last_event_id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value)
        return []

    def _dispatched(self) -> list[Event]:
        data, type_ = self._data, self._type
        self._data = self._type = ""
        if not data:
            return []
        return [Event(data.removesuffix("\n"), type_ or DEFAULT_TYPE, self._last_event_id)]
