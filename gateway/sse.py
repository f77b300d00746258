"""An answer as server-sent events, written as raw bytes."""

from __future__ import annotations

from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adapters.chat_format import EndReason, Piece, Reader
from adapters.openai.answers import event
from engine.base import GenerationRequest, Usage
from gateway.errors import GatewayError, body_of
from gateway.generation import Generation, Generations
from persistence.recorder import MessageRow

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Chunks(Protocol):
    """A dialect's bytes for one stream."""

    def more(self, piece: Piece) -> bytes:
        """One more piece of the answer; nothing where it has nothing to tell."""

    def last(self, end_reason: EndReason, usage: Usage) -> bytes:
        """The end."""


class EventStream(Response):
    """Streams one generation.

    Nothing is sent before the engine's first output, so a request that it refuses still gets a real
    status. The end (finish_reason, usage, ``[DONE]``) leaves in one write, after the row's commit. A
    failure on the way is an event with the key ``error``, and no ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generations: Generations,
        request: GenerationRequest,
        reader: Reader,
        row: MessageRow,
        chunks: Chunks,
    ) -> None:
        super().__init__(headers=HEADERS)
        # A stream's length is not known.
        del self.headers["content-length"]
        self._generations = generations
        self._request = request
        self._reader = reader
        self._row = row
        self._chunks = chunks
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generations.open(self._request, self._reader, self._row, receive) as generation:
            try:
                await self._stream(generation, send)
            except GatewayError as error:
                if not self._started:
                    raise
                await generation.settle(error)
                await self._send(send, event(body_of(error)), more=False)

    async def _stream(self, generation: Generation, send: Send) -> None:
        data = self._chunks.more(await generation.next())
        while not generation.ended:
            if data:
                await self._send(send, data, more=True)
            data = self._chunks.more(await generation.next())
        if data and generation.finished and not self._started:
            # A first token never waits for a commit.
            await self._send(send, data, more=True)
            data = b""
        await generation.settle()
        if generation.status == "completed":
            data += self._chunks.last(generation.answer.end_reason, generation.usage)
            await self._send(send, data, more=False)
        elif generation.failure is not None:
            if self._started and data:
                await self._send(send, data, more=True)
            raise generation.failure

    async def _send(self, send: Send, data: bytes, more: bool) -> None:
        if not self._started:
            self._started = True
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
        await send({"type": "http.response.body", "body": data, "more_body": more})
