"""What stands around a generation: a client, a recorder, engines that break."""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message

from adapters.chat_format import Reader
from adapters.code_points import READER
from adapters.openai.answers import Envelope, Head, Wanted
from adapters.openai.chunks import ChatChunks
from engine.base import Delta, DeltaStream, Engine, EngineError, GenerationRequest
from engine.simulated import SimulatedEngine
from gateway import metrics
from gateway.access.caller import Caller
from gateway.admission.queue import Admission
from gateway.generation import Generation
from gateway.generations import Generations
from gateway.limits.limiter import Limiter, Unlimited
from gateway.prompt_answer import Query
from gateway.sse import EventStream
from persistence.message_row import MessageRow
from persistence.recorder import Recorder
from tests.strategies import echo_request

AN_HOUR_MS = 3_600_000.0
ONE_IN_1000_SECONDS = 0.001


class MemoryRecorder(Recorder):
    """Keeps rows in memory, and the order of things in ``events``."""

    refusing: str | None = None

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.begun: list[MessageRow] = []
        self.closed: list[MessageRow] = []
        self.keeps = True
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.closing = asyncio.Event()

    def begin(self, row: MessageRow) -> None:
        self.begun.append(row)

    async def close(self, row: MessageRow, timeout_seconds: float) -> bool:
        self.closed.append(copy.copy(row))
        self.closing.set()
        await self.may_commit.wait()
        self.events.append("commit")
        return self.keeps

    @property
    def row(self) -> MessageRow:
        """The one row that was closed, once."""
        (row,) = self.closed
        assert [begun.id for begun in self.begun] == [row.id]
        return row


class Client:
    """Both ends of an ASGI connection; ``events`` has what arrived, in its order."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.messages: list[Message] = []
        self.has_text = asyncio.Event()
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.body":
            self.events.append("end" if not message.get("more_body") else "text")
            self.has_text.set()

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def data(self) -> list[str]:
        """Of each event that came."""
        return [block.removeprefix("data: ") for block in self.body.decode().split("\n\n")[:-1]]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def text(self) -> str:
        choices = [choice for one in self.objects for choice in one.get("choices", [])]
        return "".join(choice["delta"].get("content", "") for choice in choices)

    @property
    def error(self) -> dict[str, Any]:
        """The error that the stream ended with."""
        assert "[DONE]" not in self.data
        error: dict[str, Any] = self.objects[-1]["error"]
        return error


class BreakingEngine(SimulatedEngine):
    """Raises ``failure`` instead of the Delta after the first ``deltas`` ones."""

    def __init__(self, deltas: int, failure: Exception) -> None:
        super().__init__()
        self._deltas, self._failure = deltas, failure

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        return Breaking(await super().submit(request), self._deltas, self._failure)


@dataclass
class Breaking:
    """A stream that breaks."""

    stream: DeltaStream
    deltas: int
    failure: Exception

    async def next(self) -> Delta:
        if self.deltas == 0:
            raise self.failure
        self.deltas -= 1
        return await self.stream.next()

    async def abort(self) -> None:
        await self.stream.abort()


class RefusingEngine(SimulatedEngine):
    """Takes no request."""

    def __init__(self, failure: EngineError) -> None:
        super().__init__()
        self._failure = failure

    async def submit(self, request: GenerationRequest) -> Any:
        raise self._failure


class Counted(Unlimited):
    """A limiter of which is known what it has been given back; the Reservation, too."""

    def __init__(self) -> None:
        self.settled: list[int] = []

    async def reserve(self, caller: Caller, tokens: int) -> Counted:
        return self

    def answer_tokens(self, caller: Caller, prompt_tokens: int, answers: int) -> int | None:
        return None

    def settle(self, tokens: int) -> None:
        self.settled.append(tokens)


@dataclass
class House:
    """A gateway's inside with one client before it."""

    engine: Engine = field(default_factory=SimulatedEngine)
    admission: Admission | None = None
    limiter: Limiter | None = None
    overflow: Engine | None = None

    def __post_init__(self) -> None:
        self.events: list[str] = []
        self.recorder = MemoryRecorder(self.events)
        self.client = Client(self.events)
        self.generations = Generations(
            self.engine, self.recorder, 30.0, self.limiter, self.admission, self.overflow
        )

    def stream(
        self,
        text: str,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int = 1000,
        n: int = 1,
        deadline_seconds: float | None = None,
        keep_alive_seconds: float = 0.0,
    ) -> asyncio.Task[None]:
        """Start to answer ``text`` to the client."""
        request = echo_request(text, stop=stop, max_tokens=max_tokens)
        generation = self.generations.open(
            [Query(new_row(text), [request] * n, lambda: READER)], self.client.receive, deadline_seconds
        )
        chunks = ChatChunks(Envelope("chatcmpl-1", "m", 1, "f"), Wanted(usage=True), [Head()] * n)
        response = EventStream(generation, chunks, keep_alive_seconds)
        return asyncio.create_task(self._call(response))

    def open(
        self,
        request: GenerationRequest,
        text: str,
        reader: Reader = READER,
        deadline_seconds: float | None = None,
    ) -> Generation:
        """A request for ``text`` on its way."""
        query = Query(new_row(text), [request], lambda: reader)
        return self.generations.open([query], self.client.receive, deadline_seconds)

    async def _call(self, response: EventStream) -> None:
        await response({"type": "http"}, self.client.receive, self.client.send)


def refusals() -> dict[str, float]:
    """The requests refused so far, by reason."""
    return {
        sample.labels["reason"]: sample.value
        for family in metrics.REFUSED.collect()
        for sample in family.samples
    }


def new_row(query: str) -> MessageRow:
    """A row before its request runs."""
    return MessageRow(
        endpoint="/v1/chat/completions", model="m", request_id="r", query=query, chat_type="llm_chat"
    )
