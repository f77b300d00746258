"""HTTP/1.1 as uvicorn reads it, with bounds on what a client may send and how slowly, and the bodies that
uvicorn loses.

Java's own HttpClient offers HTTP/2 with each request to an ``http://`` URL (``Connection: Upgrade,
HTTP2-Settings`` and ``Upgrade: h2c``), and with it all that is built on it. Nobody has to take an upgrade
(RFC 9110, section 7.8), but httptools' parser takes what follows such a head for the other protocol's, so
that uvicorn gives the application no body (its issue 2722). Here what follows is read as HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import metrics
from gateway.connections import Connections
from gateway.errors import RETRY_AFTER_SECONDS, retry_headers

# What tells where a body ends.
FRAMING = (b"content-length", b"transfer-encoding")

# So many requests may stand in line on one connection.
MOST_PIPELINED = 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take: bytes of a URL, headers of a request, their bytes together, seconds until
    a request's head is there, and seconds in which a client reads nothing of what it is sent."""

    url_bytes: int
    headers: int
    header_bytes: int
    header_seconds: float
    send_seconds: float


class _Refused(Exception):
    """What is being read goes beyond a bound."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which keeps to ``bounds``, takes no upgrade and reads on."""

    def __init__(self, *args: Any, bounds: Bounds, open_connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.head_again = False
        self.address = ""
        self._bounds = bounds
        self._open_connections = open_connections
        self._entered = False
        # Of the head that is being read, and of a body's trailer.
        self._header_count = 0
        self._header_bytes = 0
        self._in_head = self._began = False
        # How much has come of it.
        self._fed = 0
        self._refused: _Refused | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refused where there is no room."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        full = self._open_connections.enter(self)
        if full is None:
            self._entered = True
            self._wait_for_head()
            return
        metrics.REFUSED.labels("connections").inc()
        if full == "all":
            refused = _Refused(503, "The gateway has too many connections; try again soon.", "overloaded")
        else:
            refused = _Refused(429, "Too many connections from this address.", "rate_limit_exceeded")
        self._answer_and_close(refused)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._open_connections.leave(self)

    def make_room(self) -> None:
        """Another connection needs the place; it is left already."""
        self._entered = False
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        in_body = self.cycle is not None and self.cycle.more_body
        self._began = False
        super().data_received(data)
        # What is still a part of a head is kept nowhere but in the parser. Where a head begins behind a body,
        # how much of the data is the head's is not known.
        self._fed = (0 if in_body else len(data)) if self._began else self._fed + len(data)
        if self._in_head and self._fed > self._bounds.url_bytes + self._bounds.header_bytes:
            self._refuse_now(self._too_long())
        elif self._head_timer is None and self._waits:
            self._wait_for_head()

    @property
    def _waits(self) -> bool:
        """Whether nothing happens until a head comes, which uvicorn sets no time for once there was data."""
        answered = self.cycle is None or self.cycle.response_complete
        return self._in_head or (answered and self.timeout_keep_alive_task is None)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self._bounds.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if not self._in_head:
            # It has asked for nothing.
            self.transport.close()
            return
        seconds = self._bounds.header_seconds
        message = f"The request's head did not arrive within {seconds:g} seconds."
        self._refuse_now(_Refused(408, message, "request_timeout"))

    def _too_long(self) -> _Refused:
        bounds = self._bounds
        if len(self.url) > bounds.url_bytes or not (self.headers or self._header_count):
            return _Refused(414, f"The URL is longer than {bounds.url_bytes} bytes.", "uri_too_long")
        message = (
            f"The request has more than {bounds.headers} headers, or {bounds.header_bytes} bytes of them."
        )
        return _Refused(431, message, "headers_too_large")

    def on_message_begin(self) -> None:
        if not self.head_again:
            self._header_count = self._header_bytes = 0
            self._in_head = self._began = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._bounds.url_bytes:
            raise self._refuse(self._too_long())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > self._bounds.headers or self._header_bytes > self._bounds.header_bytes:
            raise self._refuse(self._too_long())
        super().on_header(name, value)

    def head_without_upgrade(self) -> bytes:
        """The head that has just been read, with no more than what tells of its body."""
        lines = [name + b": " + value + b"\r\n" for name, value in self.headers if name in FRAMING]
        return b"%b / HTTP/1.1\r\n%b\r\n" % (self.parser.get_method(), b"".join(lines))

    def on_headers_complete(self) -> None:
        """The first time its request starts."""
        if self.head_again:
            return
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.pipeline) >= MOST_PIPELINED:
            raise self._refuse(_Refused(400, "Too many requests at once on one connection.", "pipelined"))
        self._open_connections.works(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Of a head with an upgrade it tells nothing."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._watch_reader()
        super().on_response_complete()
        if self._entered and not self.pipeline and (self.cycle is None or self.cycle.response_complete):
            self._open_connections.waits(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _watch_reader(self) -> None:
        if self._send_timer is None and self.transport.get_write_buffer_size():
            self._send_timer = self._in_a_while(self.transport.get_write_buffer_size())

    def _in_a_while(self, unsent: int) -> asyncio.TimerHandle:
        return self.loop.call_later(self._bounds.send_seconds, self._look_at_reader, unsent)

    def _look_at_reader(self, unsent_before: int) -> None:
        """Cut the connection if the client has read nothing since; its request is aborted by that."""
        self._send_timer = None
        unsent = self.transport.get_write_buffer_size()
        stuck = self.flow.write_paused or self.transport.is_closing()
        if stuck and unsent >= unsent_before:
            metrics.STUCK_READERS.inc()
            self.transport.abort()
        elif unsent:
            self._send_timer = self._in_a_while(unsent)

    def _refuse(self, refused: _Refused) -> _Refused:
        """Let the parser's error be answered as this."""
        self._refused = refused
        return refused

    def _refuse_now(self, refused: _Refused) -> None:
        self._refuse(refused)
        self.send_400_response(refused.message)

    def send_400_response(self, msg: str) -> None:
        """What is no request, or is beyond a bound. An answer that is under way is cut, not written into."""
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if begun or self.pipeline:
            self.transport.abort()
            return
        refused = self._refused or _Refused(400, "This is not a valid HTTP/1.1 request.", "invalid_request")
        self._answer_and_close(refused)

    def _answer_and_close(self, refused: _Refused) -> None:
        kind = {503: "server_error", 429: "rate_limit_error"}.get(refused.status, "invalid_request_error")
        error = {"message": refused.message, "type": kind, "param": None, "code": refused.code}
        content = json.dumps({"error": error}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content))}
        if refused.status in (429, 503):
            headers |= retry_headers(RETRY_AFTER_SECONDS)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\n{lines}connection: close\r\n"
        )
        metrics.count_refused_head(refused.status)
        self.transport.write(head.encode("ascii") + b"\r\n" + content)
        self.transport.close()
        self._watch_reader()


class Parser(httptools.HttpRequestParser):
    """httptools', which is given the head of an upgrade twice: the second time without it."""

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """Raises HttpParserError."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (rest,) = upgrade.args
            protocol = self._protocol
            protocol.head_again = True
            super().feed_data(protocol.head_without_upgrade())
            protocol.head_again = False
            self.feed_data(bytes(data)[rest:])
