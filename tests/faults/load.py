"""Clients that ask without a pause, and remember what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

PATH = "/v1/chat/completions"
MOST_CHARACTERS = 40
# In one, two, three and four bytes of UTF-8, and what PostgreSQL can't hold as it is.
ALPHABET = 'abcdefghij 0123456789\n"\\{}é中文字你好。😀\0\ufdd0'

WHOLE_SHARE = 0.25
LEAVING_SHARE = 0.1
# After a request that failed, so that a gateway that is gone is not asked a thousand times a second.
PAUSE_SECONDS = 0.05
CLIENT_SECONDS = 60.0

REFUSALS = ("database_unavailable",)


@dataclass(eq=False)
class Answer:
    """One request as its client saw it. Times are of the monotonic clock."""

    request_id: str
    text: str
    max_tokens: int
    stream: bool
    # The client goes away after so many characters, or, of a whole answer, at a moment so far away.
    leaves_after: int | None
    began: float = field(default_factory=time.monotonic)
    status: int | None = None
    answer_id: str | None = None
    received: str = ""
    # `data: [DONE]`, or the whole body.
    saw_the_end: bool = False
    usage: dict[str, Any] | None = None
    left: bool = False
    # What went wrong, in words, and the error's code where the gateway told one.
    failure: str | None = None
    code: str | None = None
    ended: float = 0.0

    @property
    def echo(self) -> str:
        """What the simulated engine answers."""
        return self.text[: self.max_tokens]

    @property
    def refused(self) -> bool:
        """It was not let in, so it has not reached the engine."""
        return self.code in REFUSALS

    @property
    def failed(self) -> bool:
        """It did not end well, and not because the client left."""
        return not self.saw_the_end and not self.left


class Load:
    """``clients`` at a time, in a thread of their own, until the context ends; then every request that runs
    is still waited for. ``answers`` holds all that were begun, oldest first.
    """

    def __init__(self, base_url: str, clients: int, seed: int) -> None:
        self.answers: list[Answer] = []
        # Every request id begins with it.
        self.name = f"load-{uuid4().hex[:12]}"
        self._base_url = base_url
        self._clients = clients
        self._random = Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(2 * CLIENT_SECONDS)
        assert error is not None or not self._thread.is_alive()

    @property
    def ended_well(self) -> int:
        """So many answers were seen to their end until now."""
        return sum(answer.saw_the_end for answer in self.answers)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._base_url, timeout=CLIENT_SECONDS, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._clients):
                group.create_task(self._client(http))

    async def _client(self, http: httpx.AsyncClient) -> None:
        while not self._stopped.is_set():
            answer = self._question()
            self.answers.append(answer)
            try:
                await ask(http, answer)
            except httpx.HTTPError as error:
                answer.failure = f"{type(error).__name__}: {error}"
            answer.ended = time.monotonic()
            if answer.failed:
                await asyncio.sleep(PAUSE_SECONDS)

    def _question(self) -> Answer:
        random = self._random
        text = "".join(random.choices(ALPHABET, k=random.randint(1, MOST_CHARACTERS)))
        return Answer(
            request_id=f"{self.name}-{len(self.answers)}",
            text=text,
            max_tokens=random.randint(1, MOST_CHARACTERS),
            stream=random.random() > WHOLE_SHARE,
            leaves_after=random.randrange(len(text)) if random.random() < LEAVING_SHARE else None,
        )


async def ask(http: httpx.AsyncClient, answer: Answer) -> None:
    """One request; what comes of it is written into ``answer``. Raises httpx.HTTPError."""
    body = {
        "messages": [{"role": "user", "content": answer.text}],
        "max_tokens": answer.max_tokens,
        "stream": answer.stream,
    }
    request = http.build_request("POST", PATH, json=body, headers={"x-request-id": answer.request_id})
    if answer.stream:
        await read_stream(http, request, answer)
        return
    leaves_at = asyncio.get_running_loop().time() + answer.leaves_after / 100 if answer.leaves_after else None
    try:
        async with asyncio.timeout_at(leaves_at):
            response = await http.send(request)
    except TimeoutError:
        answer.left = True
        return
    answer.status = response.status_code
    if response.status_code != 200:
        note_refusal(answer, response.text)
        return
    whole = response.json()
    answer.answer_id, answer.usage = whole["id"], whole["usage"]
    answer.received = whole["choices"][0]["message"]["content"]
    answer.saw_the_end = True


async def read_stream(http: httpx.AsyncClient, request: httpx.Request, answer: Answer) -> None:
    """The events of a streamed answer, to their end or until the client leaves."""
    response = await http.send(request, stream=True)
    async with contextlib.aclosing(response):
        answer.status = response.status_code
        if response.status_code != 200:
            note_refusal(answer, (await response.aread()).decode())
            return
        async for data in events(response):
            if data == "[DONE]":
                answer.saw_the_end = True
                return
            event = json.loads(data)
            if "error" in event:
                note_error(answer, event["error"])
                return
            answer.answer_id = event["id"]
            answer.received += event["choices"][0]["delta"].get("content") or ""
            if answer.leaves_after is not None and len(answer.received) > answer.leaves_after:
                answer.left = True
                return
        answer.failure = "the stream broke off without a word"


def note_refusal(answer: Answer, body: str) -> None:
    """``body`` is the gateway's, or that of something before it which knows no dialect."""
    try:
        note_error(answer, json.loads(body)["error"])
    except json.JSONDecodeError:
        answer.failure = body


def note_error(answer: Answer, error: dict[str, Any]) -> None:
    answer.failure, answer.code = error["message"], error["code"]


async def events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event; comments between them are passed over."""
    rest = b""
    async for piece in response.aiter_raw():
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: "):
                yield event.removeprefix(b"data: ").decode()
