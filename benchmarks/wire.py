"""Just enough HTTP/1.1 and server-sent events for a load generator that must cost next to nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class WireError(Exception):
    """The server sent something other than the complete answer that was asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The token counts that the server reports for one answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class ResponseReader:
    """Collects one response, however its bytes are split; per piece it only appends and looks at the tail."""

    received: bytearray = field(default_factory=bytearray)
    status: int = 0
    body: bytes = b""
    _body_start: int = 0
    _body_length: int | None = None  # bytes, from Content-Length; None: chunked

    def feed(self, data: bytes) -> bool:
        """Take the next piece; True once ``status`` and ``body`` are the complete response."""
        self.received += data
        if not self._body_start and not self._read_head():
            return False
        if self._body_length is None:
            # An unlucky split of chunked text can end like the last chunk: only decoding it all can tell.
            if not self.received.endswith(_LAST_CHUNK):
                return False
            body = dechunk(memoryview(self.received)[self._body_start :].tobytes())
            if body is None:
                return False
            self.body = body
            return True
        missing = self._body_start + self._body_length - len(self.received)
        if missing < 0:
            raise WireError(f"{-missing} bytes after the end of the response")
        if missing == 0:
            self.body = bytes(self.received[self._body_start :])
        return missing == 0

    def _read_head(self) -> bool:
        end = self.received.find(_HEAD_END)
        if end < 0:
            return False
        status_line, *lines = bytes(self.received[:end]).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self.status = int(status_line.split(b" ", 2)[1])
        if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            if b"content-length" not in headers:
                raise WireError("neither chunked nor with a length: the connection would have to be closed")
            self._body_length = int(headers[b"content-length"])
        self._body_start = end + len(_HEAD_END)
        return True


def dechunk(chunked: bytes) -> bytes | None:
    """Decode a chunked body (RFC 9112, 7.1, no trailers); None if it is not complete yet."""
    pieces: list[bytes] = []
    position = 0
    while (line_end := chunked.find(b"\r\n", position)) >= 0:
        size = int(chunked[position:line_end].partition(b";")[0], 16)
        start = line_end + 2
        position = start + size + 2
        if position > len(chunked):
            return None
        if chunked[position - 2 : position] != b"\r\n":
            raise WireError("a chunk is longer than it says")
        if size == 0:
            if position != len(chunked):
                raise WireError(f"{len(chunked) - position} bytes after the end of the response")
            return b"".join(pieces)
        pieces.append(chunked[start : start + size])
    return None


def read_stream_usage(body: bytes) -> Usage:
    """The usage of a streamed answer; WireError unless it ends in usage and ``[DONE]``."""
    events = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    if len(events) < 3 or events[-1] != b"[DONE]":
        raise WireError(f"the stream does not end in [DONE]: {body[-300:]!r}")
    return _read_usage(events[-2])


def read_usage(body: bytes) -> Usage:
    """The usage of an answer that was not streamed."""
    return _read_usage(body)


def _read_usage(answer: bytes) -> Usage:
    try:
        usage = json.loads(answer)["usage"]
        return Usage(usage["prompt_tokens"], usage["completion_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"no usage in {answer[-300:]!r}") from error


def render_request(host: str, path: str, body: bytes) -> bytes:
    """A POST of the JSON ``body`` on a connection that is kept open."""
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(head).encode() + _HEAD_END + body
