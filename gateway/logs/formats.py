"""The two forms of a line: one JSON object, or text for a terminal.

Whatever a record holds, a line is one line of valid UTF-8, not long, and has no key of ours, no key as OpenAI
has them and no password as PostgreSQL's URLs have it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

# In characters. Of an exception the end is kept, which says what went wrong.
LONGEST_MESSAGE = 8_192
LONGEST_EXCEPTION = 16_384

# API keys, ours (gateway/access/api_keys.py) and as OpenAI's look.
_KEY = re.compile(r"\b(cgw_[A-Za-z0-9]{8}|sk-)[A-Za-z0-9_-]{20,}")
# What follows a URL's scheme, and libpq's pairs, in a URL or by themselves; values are quoted or not.
_AFTER_SCHEME = re.compile(r"://\S*")
_PAIR = re.compile(r"(password\s*=\s*)(?:'(?:\\.|[^'\\])*'\S*|\S+)", re.IGNORECASE | re.DOTALL)


@runtime_checkable
class Fields(Protocol):
    """A record's message that has fields beside its text."""

    def fields(self) -> Mapping[str, Any]:
        """What stands beside ``message`` in a JSON line."""


def without_secrets(text: str) -> str:
    """``text`` with ``***`` where it has a key, or a password in a URL or of libpq. Rather more than too
    little: a password may have any character that is not a space, quoted as it should be or not."""
    if "cgw_" in text or "sk-" in text:
        text = _KEY.sub(r"\1***", text)
    if "assword" in text or "ASSWORD" in text:
        text = _PAIR.sub(r"\1***", text)
    return _AFTER_SCHEME.sub(_without_password, text) if "://" in text else text


def _without_password(found: re.Match[str]) -> str:
    url = found[0]
    colon, at = url.find(":", len("://")), url.rfind("@")
    return f"{url[:colon]}:***{url[at:]}" if 0 <= colon < at else url


def may_have_secrets(text: str) -> bool:
    """Whether ``without_secrets`` has to look."""
    return any(sign in text for sign in ("://", "assword", "ASSWORD", "cgw_", "sk-"))


def message_of(record: logging.LogRecord) -> str:
    """The message, also where its arguments do not fit it."""
    try:
        text = str(record.msg)[: 4 * LONGEST_MESSAGE]
        text = text % record.args if record.args else text
    except Exception:
        text = f"{type(record.msg).__name__} with arguments that do not fit it: {sayable(record.msg, 0)}"
    return shortened(text.rstrip(), LONGEST_MESSAGE)


def shortened(text: str, most: int) -> str:
    """At most the first ``most`` characters, marked where there were more."""
    return text if len(text) <= most else f"{text[:most]} […{len(text)} characters]"


class JsonFormatter(logging.Formatter):
    """One JSON object: time (RFC 3339, UTC), level, logger, message, then what else there is: request_id and
    trace_id, the fields of a request's end, process where it is not the gateway's own, exception and stack,
    each one string."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = process
        self._second, self._second_text = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """Never fails."""
        fields: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Fields):
            fields |= record.msg.fields()
        else:
            fields["message"] = message_of(record)
        for name in ("request_id", "trace_id"):
            if name not in fields and (value := getattr(record, name, None)) is not None:
                fields[name] = value
        if self._process is not None:
            fields["process"] = getattr(record, "vllm_process_name", self._process)
            fields["pid"] = record.process
        if told := exception_of(self, record):
            fields["exception"] = told
        if record.stack_info:
            fields["stack"] = shortened(record.stack_info, LONGEST_EXCEPTION)
        line = to_json(fields)
        if may_have_secrets(line):
            # In the texts themselves: where a password ends is not seen among JSON's own quotes and escapes.
            line = json.dumps(masked(sayable(fields, depth=8)), ensure_ascii=False)
        return in_one_line(line)

    def _time(self, created: float) -> str:
        second = int(created // 1)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._second_text}.{int((created - second) * 1000):03}Z"


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; more lines, of a traceback or a message, are indented, so that none of
    them looks like a record."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Never fails."""
        where = record.name
        if self._process is not None:
            where += f" ({getattr(record, 'vllm_process_name', self._process)} pid={record.process})"
        text = str(record.msg) if isinstance(record.msg, Fields) else message_of(record)
        identity = getattr(record, "request_id", None)
        if identity is not None and identity not in text:
            text += f" [{identity}]"
        for more in (exception_of(self, record), record.stack_info):
            if more:
                text += f"\n{more}"
        lines = "\n    ".join(map(printable, text.split("\n")))
        return without_secrets(f"{self.formatTime(record)} {record.levelname:<7} {where}: {lines}")


def exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback, or as much of its end as may stand in a log."""
    if record.exc_info and not record.exc_text:
        try:
            record.exc_text = formatter.formatException(record.exc_info)
        except Exception:
            record.exc_text = repr(record.exc_info[0])
    told = record.exc_text or ""
    return told if len(told) <= LONGEST_EXCEPTION else f"[…] {told[-LONGEST_EXCEPTION:]}"


def to_json(fields: Mapping[str, Any]) -> str:
    """``fields`` as JSON; what JSON has no word for is null or text."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(sayable(fields, depth=8), ensure_ascii=False)


def sayable(value: object, depth: int) -> object:
    """``value`` of JSON's own types."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else shortened(hex(value), 100)
    if depth and isinstance(value, Mapping):
        return {printable(str(key)): sayable(one, depth - 1) for key, one in value.items()}
    if depth and isinstance(value, Sequence):
        return [sayable(one, depth - 1) for one in value]
    try:
        return shortened(str(value), LONGEST_MESSAGE)
    except Exception:
        return type(value).__name__


def masked(value: object) -> object:
    """``value``, as ``sayable`` makes it, without secrets in its texts and names."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {without_secrets(key): masked(one) for key, one in value.items()}
    return [masked(one) for one in value] if isinstance(value, list) else value


def in_one_line(line: str) -> str:
    """JSON without what ends a line for somebody, moves a cursor, or is not in UTF-8: escaped, but for halves
    of surrogate pairs, which strict readers refuse."""
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else _escaped(character) for character in line)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return "\N{REPLACEMENT CHARACTER}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def printable(text: str) -> str:
    """``text`` with escapes in the place of what is not printable."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
