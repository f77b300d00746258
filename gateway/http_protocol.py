"""HTTP/1.1 as uvicorn reads it, and the bodies that it loses.

Java's own HttpClient offers HTTP/2 with each request to an ``http://`` URL (``Connection: Upgrade,
HTTP2-Settings`` and ``Upgrade: h2c``), and with it all that is built on it. Nobody has to take an upgrade
(RFC 9110, section 7.8), but httptools' parser takes what follows such a head for the other protocol's, so
that uvicorn gives the application no body (its issue 2722). Here what follows is read as HTTP/1.1.
"""

from __future__ import annotations

from array import array
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# What tells where a body ends.
FRAMING = (b"content-length", b"transfer-encoding")


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which takes no upgrade and reads on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.head_again = False

    def head_without_upgrade(self) -> bytes:
        """The head that has just been read, with no more than what tells of its body."""
        lines = [name + b": " + value + b"\r\n" for name, value in self.headers if name in FRAMING]
        return b"%b / HTTP/1.1\r\n%b\r\n" % (self.parser.get_method(), b"".join(lines))

    def on_headers_complete(self) -> None:
        """The first time its request starts."""
        if not self.head_again:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Of a head with an upgrade it tells nothing."""
        if not self.parser.should_upgrade():
            super().on_message_complete()


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
