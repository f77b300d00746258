r"""Chatchat's answers as server-sent events.

Source: server/chat/chat.py and completion.py of Langchain-Chatchat 0.2.9 to 0.2.final, with sse-starlette 1.8
(github.com/chatchat-space/Langchain-Chatchat). A chat's event is one line, with Python's own separators and
keys in this order, and nothing but the connection's end comes after the last one::

    data: {"text": "你好", "message_id": "<32 hex>"}\r\n\r\n

Its official client takes what one read gives for one event, so no two of them may leave together. A
completion's event is the text itself, a ``data:`` line for each of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from adapters.chat_format import EndReason, Piece
from engine.base import Usage

StreamStyle = Literal["delta", "cumulative"]

LINE_END = b"\r\n"
BEGINNING = b"data: "
# A segment on Linux' loopback has at most half the first window, which is 64 KiB.
MOST_AT_ONCE = 16 * 1024
_BEFORE_TEXT = b'data: {"text": '

# End a line for Python's str.splitlines, and so for httpx's iter_lines; JSON leaves them as they are.
_LINE_ENDS = [(end, f"\\u{ord(end):04x}") for end in "\x85\u2028\u2029"]

_encode = json.JSONEncoder(ensure_ascii=False).encode


def one_line(value: object) -> bytes:
    """JSON as Chatchat writes it, that is one line to every reader. Half of a surrogate pair is escaped."""
    text = _encode(value)
    if not text.isascii():
        for end, escaped in _LINE_ENDS:
            text = text.replace(end, escaped)
    return text.encode(errors="backslashreplace")


def event(value: object) -> bytes:
    """One event of any JSON."""
    return b"data: " + one_line(value) + LINE_END * 2


def whole_answer(text: str, message_id: str) -> dict[str, str]:
    """An answer in one piece."""
    return {"text": text, "message_id": message_id}


def whole_event(text: str, message_id: str) -> bytes:
    """An answer in one event. Where it ``is_torn`` on its way there is no colon in its text: the official
    client skips what begins with one."""
    whole = event(whole_answer(text, message_id))
    if not is_torn(whole):
        return whole
    colonless = one_line(text).replace(b":", b"\\u003a")
    return BEGINNING + b'{"text": ' + colonless + whole[whole.rindex(b', "message_id": ') :]


def is_torn(frame: bytes) -> bool:
    """Whether an event is so long that it comes in several reads even on the same machine. The official
    client then drops the last two characters of that which begins with BEGINNING, and keeps the others
    whole: so BEGINNING has to leave by itself."""
    return len(frame) > MOST_AT_ONCE


def failure_event(message: str, message_id: str) -> bytes:
    """A failure on the way: the official client shows ``msg`` of whatever has a ``code`` that is not 200, and
    whoever reads ``text`` alone finds it empty."""
    return event({"code": 500, "msg": message, "text": "", "message_id": message_id})


def text_event(text: str) -> bytes:
    """One event of raw text; half of a surrogate pair becomes a question mark. To its reader every end of a
    line is a newline."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\ndata: ")
    return b"data: " + lines.encode(errors="replace") + LINE_END * 2


class ChatEvents:
    """A chat's stream: each event has what is new, or with ``cumulative`` the whole text so far. An answer
    without text is one event without text, which tells its id."""

    tells_usage = False

    def __init__(self, message_id: str, style: StreamStyle = "delta") -> None:
        self._after_text = b', "message_id": ' + one_line(message_id) + b"}" + LINE_END * 2
        self._cumulative = style == "cumulative"
        # The text so far, in JSON and without its end.
        self._so_far = b'"'
        self._begun = False

    def more(self, index: int, piece: Piece, usage: Usage) -> bytes:
        """One more piece of the answer, as an event; nothing where it has no text."""
        if not piece.text:
            return b""
        self._begun = True
        text = one_line(piece.text)
        if self._cumulative:
            self._so_far += text[1:-1]
            text = self._so_far + b'"'
        return _BEFORE_TEXT + text + self._after_text

    def last(self, end_reasons: Sequence[EndReason], usage: Usage) -> bytes:
        """Nothing, after any text."""
        return b"" if self._begun else _BEFORE_TEXT + b'""' + self._after_text


class TextEvents:
    """A completion's stream of raw text; with ``cumulative`` each event has all of it so far, from ``echo``
    on: the prompt where it is repeated, in an event of its own, the ``opening``."""

    tells_usage = False

    def __init__(self, echo: str = "", style: StreamStyle = "delta") -> None:
        self._cumulative = style == "cumulative"
        self.opening = text_event(echo) if echo else b""
        # With cumulative all of it, else the last piece.
        self._told = echo

    def more(self, index: int, piece: Piece, usage: Usage) -> bytes:
        """One more piece of the answer, as an event; nothing where it has nothing to tell."""
        text = piece.text
        if not text:
            return b""
        if self._cumulative:
            self._told += text
            return text_event(self._told)
        if self._told.endswith("\r") and text[0] == "\n":
            # One end of a line in two pieces has been told.
            self._told, text = text, text[1:]
            return text_event(text) if text else b""
        self._told = text
        return text_event(text)

    def last(self, end_reasons: Sequence[EndReason], usage: Usage) -> bytes:
        """Nothing: the end of the connection says it."""
        return b""
