"""An answer as server-sent events, written as raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adapters.chat_format import EndReason, Piece
from adapters.openai.chunks import KEEP_ALIVE, event
from engine.base import Usage
from gateway.errors import GatewayError, body_of
from gateway.generation import Generation

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

NO_USAGE = Usage()


class Chunks(Protocol):
    """A dialect's bytes for one stream."""

    tells_usage: bool
    """Whether each chunk tells the usage so far."""

    def more(self, index: int, piece: Piece, usage: Usage) -> bytes:
        """One more piece of a choice; nothing where it has nothing to tell."""

    def last(self, end_reasons: Sequence[EndReason], usage: Usage) -> bytes:
        """The end."""


def error_event(error: GatewayError) -> bytes:
    """A failure in a stream of OpenAI's."""
    return event(body_of(error))


class EventStream(Response):
    """Streams one generation.

    Nothing is sent before the engine's first output, so a request that it refuses still gets a real
    status; but for comments, which keep the connection alive while nothing else has been sent for
    ``keep_alive_seconds`` (0: never), also while it waits for its place. The end (finish_reason, usage,
    ``[DONE]``) leaves in one write, after the rows' commit. A failure on the way is one event,
    ``encode_failure`` of it, and no ``[DONE]``; OpenAI's has the key ``error``. What ``opening`` says leaves
    by itself, before the first piece.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        chunks: Chunks,
        keep_alive_seconds: float = 0.0,
        encode_failure: Callable[[GatewayError], bytes] = error_event,
        opening: bytes = b"",
    ) -> None:
        super().__init__(headers=HEADERS)
        # A stream's length is not known.
        del self.headers["content-length"]
        self._generation = generation
        self._chunks = chunks
        self._keep_alive_seconds = keep_alive_seconds
        self._encode_failure = encode_failure
        self._opening = opening
        self._started = False
        self._sent_at = 0.0
        self._sending = False
        self._comment: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self._send_message = send
        self._sent_at = self._loop.time()
        if self._keep_alive_seconds:
            self._wait_for_silence()
        try:
            async with self._generation as generation:
                try:
                    await self._stream(generation)
                except GatewayError as error:
                    if not self._started:
                        raise
                    await generation.fail(error)
                    await self._send(self._encode_failure(error), more=False)
        except GatewayError as error:
            if not self._started:
                raise
            # It was not let in, or not taken, after a comment had left.
            await self._send(self._encode_failure(error), more=False)
        except ClientDisconnect:
            # It left while it waited for a place, perhaps after a comment: nobody is there to be answered.
            pass
        finally:
            await self._end_comments()

    async def _stream(self, generation: Generation) -> None:
        data = self._encoded(await generation.next())
        while not generation.ended:
            if data:
                await self._send(data, more=True)
            data = self._encoded(await generation.next())
        if data and generation.finished and not self._started:
            # A first token never waits for a commit.
            await self._send(data, more=True)
            data = b""
        await generation.settle()
        if generation.status == "completed":
            end_reasons = [answer.end_reason for answer in generation.answers]
            await self._send(data + self._chunks.last(end_reasons, generation.usage), more=False)
        elif generation.failure is not None:
            if self._started and data:
                await self._send(data, more=True)
            raise generation.failure

    def _encoded(self, pieces: Sequence[tuple[int, Piece]]) -> bytes:
        usage = self._generation.usage if self._chunks.tells_usage else NO_USAGE
        if len(pieces) == 1:
            ((index, piece),) = pieces
            return self._chunks.more(index, piece, usage)
        return b"".join(self._chunks.more(index, piece, usage) for index, piece in pieces)

    async def _send(self, data: bytes, more: bool) -> None:
        if self._comment is not None:
            # It may be sending the headers.
            await self._comment
        self._sending = True
        if not self._started:
            await self._start()
        await self._send_message({"type": "http.response.body", "body": data, "more_body": more})
        self._sending = False
        self._sent_at = self._loop.time()

    async def _start(self) -> None:
        self._started = True
        self.headers.update(self._generation.headers)
        await self._send_message(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        if self._opening:
            await self._send_message({"type": "http.response.body", "body": self._opening, "more_body": True})

    def _wait_for_silence(self) -> None:
        self._timer = self._loop.call_at(self._sent_at + self._keep_alive_seconds, self._break_silence)

    def _break_silence(self) -> None:
        """Send a comment if nothing has been sent for long, and is not being sent just now."""
        if self._loop.time() - self._sent_at >= self._keep_alive_seconds:
            self._sent_at = self._loop.time()
            if not self._sending and self._comment is None:
                self._comment = self._loop.create_task(self._send_comment())
        self._wait_for_silence()

    async def _send_comment(self) -> None:
        try:
            if not self._started:
                await self._start()
            await self._send_message({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        finally:
            self._comment = None

    async def _end_comments(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            await asyncio.wait({self._comment})
