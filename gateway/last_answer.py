"""The answer to a request whose body is not read to its end."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

LINGER_SECONDS = 1.0


class LastAnswer(Response):
    """Ends its connection, for what is left of the body would be taken for the next request.

    Closing a socket with unread bytes resets the connection, and some systems then drop an answer that
    the client has not read yet. So the whole answer leaves first, and for a moment more of the body is
    read and thrown away.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"].startswith("1"):
            self.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
