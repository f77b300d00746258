"""An OpenAI-compatible server on loopback that does what a test wants, also what no server should.

It answers each question, the text of the last message or the prompt, as its script says; without a script
with the question itself. It runs in a thread of its own, for clients in this process and in others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self

MODEL = "upstream-model"
CONTEXT = 4096


class Step(Enum):
    """What a script does beside sending bytes."""

    HANG = "until the client closes the connection"
    RESET = "the connection is reset"
    PAUSE = "a moment"


Script = Sequence[bytes | Step]


@dataclass
class Received:
    """A request. ``closed`` is set when its connection has come to its end in the middle of the answer."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    closed: threading.Event = field(default_factory=threading.Event)


class UpstreamServer:
    """``with`` it runs; ``scripts`` has, by question, what to do for the first request, the second ...; the
    last one goes for all that come later."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {}
        self.received: list[Received] = []
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def asked(self, question: str) -> list[Received]:
        """The requests with this question."""
        return [one for one in self.received if question_of(one.body) == question]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await read_request(reader)
                await self._answer(request, reader, writer)
        writer.close()

    async def _answer(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if request.path == "/v1/models":
            writer.writelines(one for one in MODELS if isinstance(one, bytes))
            return
        question = question_of(request.body)
        count = len(self.asked(question))
        self.received.append(request)
        scripts = self.scripts.get(question)
        script = scripts[min(count, len(scripts) - 1)] if scripts else echo(request)
        try:
            await play(script, reader, writer)
        except ConnectionError:
            request.closed.set()
            raise


async def play(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises ConnectionError where the connection does not live on."""
    for step in script:
        if writer.is_closing() or step is Step.RESET:
            writer.transport.abort()
            raise ConnectionResetError
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif step is Step.PAUSE:
            await asyncio.sleep(0.02)
        else:
            # Nothing comes but the end.
            await reader.read(1)
            raise ConnectionResetError


async def read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.partition(":")[::2] for line in head[1:] if line]
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(head[0].split()[1], headers, json.loads(body) if body else {})


def question_of(body: dict[str, Any]) -> str:
    """What was asked last."""
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    return str(body.get("prompt", ""))


def echo(request: Received) -> Script:
    """The question, a code point for a token, with its usage."""
    question = question_of(request.body)
    usage = usage_of(len(question), len(question))
    if request.body["stream"]:
        is_chat = "messages" in request.body
        return stream(*(piece(one, is_chat=is_chat) for one in question), finish("stop"), usage)
    return whole(answer(question) | usage)


def usage_of(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """The chunk that ends a stream with ``include_usage``; without its choices, a part of a whole answer."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"usage": counts | {"prompt_tokens_details": {"cached_tokens": cached}}}


def piece(text: str, *, is_chat: bool = True) -> dict[str, Any]:
    """A chunk."""
    choice: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
    return {"choices": [{"index": 0, **choice, "finish_reason": None}]}


def finish(reason: str) -> dict[str, Any]:
    """The chunk that ends a choice."""
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def answer(text: str, reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A whole answer, without its usage; of both routes."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "text": None}
    return {"choices": [choice | {"finish_reason": reason}]}


def event(chunk: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps({"choices": []} | chunk).encode() + b"\n\n"


def events(*chunks: dict[str, Any], done: bool = True) -> list[bytes]:
    """A stream's events."""
    return [*map(event, chunks), *([b"data: [DONE]\n\n"] if done else [])]


def stream(*chunks: dict[str, Any], done: bool = True) -> Script:
    """A stream that is sent event by event, and ends as it should."""
    return [STREAM_HEAD, *chunked(events(*chunks, done=done)), b"0\r\n\r\n"]


def broken_stream(*chunks: dict[str, Any], then: Step) -> Script:
    """A stream that does not come to its end."""
    return [STREAM_HEAD, *chunked(events(*chunks, done=False)), then]


def raw_stream(pieces: Iterable[bytes]) -> Script:
    """A stream of these bytes, piece by piece."""
    return [STREAM_HEAD, *chunked(pieces), b"0\r\n\r\n"]


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """In HTTP's chunks."""
    for one in pieces:
        if one:
            yield b"%x\r\n%s\r\n" % (len(one), one)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def whole(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> Script:
    """A body in one piece; bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Told", f"content-type: {content_type}", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join([*lines, "", ""]).encode() + content]


def error(status: int, message: str = "no", param: str | None = None, **headers: str) -> Script:
    """OpenAI's error."""
    told = {"error": {"message": message, "type": "t", "param": param, "code": None}}
    return whole(told, status, **headers)


MODELS = whole({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": CONTEXT}]})
