"""50 conversations of 10 turns at once: each has its own history, all of it, in order.

What the engine was given for each turn is read from the engine itself (see prompts_kept), what was stored
from the rows.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import httpx
import pytest

from tests.end_to_end import prompts_kept
from tests.end_to_end.served import Gateway, running
from tests.end_to_end.typed import events

CONVERSATIONS = 50
TURNS = 10


class Dialect(Protocol):
    """How a client asks and reads on one route."""

    path: str
    chat_type: str

    def body(self, query: str, conversation: str) -> dict[str, Any]:
        """A question that wants all turns before it."""

    def ended(self, received: str) -> bool:
        """Whether a client may take a stream for ended before the server has ended it."""

    def answer(self, received: str, stream: bool) -> tuple[str, str]:
        """Text and row id."""


class OpenAI:
    """A stream is over with ``[DONE]``: the next question may come before the server has ended it."""

    path = "/v1/chat/completions"
    chat_type = "llm_chat"

    def body(self, query: str, conversation: str) -> dict[str, Any]:
        asked = {"messages": [{"role": "user", "content": query}]}
        return asked | {"conversation_id": conversation, "history_len": TURNS}

    def ended(self, received: str) -> bool:
        return received.endswith("data: [DONE]\n\n")

    def answer(self, received: str, stream: bool) -> tuple[str, str]:
        if not stream:
            whole = json.loads(received)
            return whole["choices"][0]["message"]["content"], whole["id"].removeprefix("chatcmpl-")
        chunks = events(received)
        (answer_id,) = {chunk["id"].removeprefix("chatcmpl-") for chunk in chunks}
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks), answer_id


class Chatchat:
    """Its own route, whose answers are events also in one piece; shares its turns with OpenAI's."""

    path = "/chat/chat"
    chat_type = "llm_chat"

    def body(self, query: str, conversation: str) -> dict[str, Any]:
        return {"query": query, "conversation_id": conversation, "history_len": TURNS}

    def ended(self, received: str) -> bool:
        return False

    def answer(self, received: str, stream: bool) -> tuple[str, str]:
        *frames, rest = received.split("\r\n\r\n")
        assert rest == ""
        assert stream or len(frames) == 1
        pieces = [json.loads(frame.removeprefix("data: ")) for frame in frames]
        (answer_id,) = {piece["message_id"] for piece in pieces}
        return "".join(piece["text"] for piece in pieces), answer_id


class Fufan(Chatchat):
    """fufan's, which has ten turns before without being asked for them."""

    path = "/api/chat"
    chat_type = "general_chat"

    def body(self, query: str, conversation: str) -> dict[str, Any]:
        return {"query": query, "conversation_id": conversation}

    def answer(self, received: str, stream: bool) -> tuple[str, str]:
        if stream:
            return super().answer(received, stream)
        whole = json.loads(received)
        return whole["text"], whole["message_id"]


DIALECTS: dict[str, list[Dialect]] = {
    "v1": [OpenAI()],
    "chat": [Chatchat(), OpenAI()],
    "api": [Fufan()],
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A gateway that keeps its prompts, in ``data_dir / "prompts"``."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(
        folder,
        "--engine",
        "simulated",
        program=prompts_kept.__name__,
        **{prompts_kept.VARIABLE: str(folder / "prompts")},
    ) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("dialects", DIALECTS.values(), ids=DIALECTS)
async def test_each_has_its_own_history_complete_and_in_order(
    gateway: Gateway, dialects: list[Dialect]
) -> None:
    """Every second answer is a stream; where there are several dialects they take turns."""
    asked: dict[str, tuple[str, str, Dialect]] = {}

    async def talk(client: httpx.AsyncClient, number: int) -> str:
        conversation = uuid4().hex
        for turn in range(TURNS):
            dialect = dialects[turn % len(dialects)]
            query = f"{number}.{turn} 你好👋;"
            body = dialect.body(query, conversation) | {"stream": bool((number + turn) % 2)}
            text, answer_id = await answered(client, dialect, body)
            assert text == query
            asked[answer_id] = (conversation, query, dialect)
        return conversation

    async with httpx.AsyncClient(base_url=gateway.base_url, timeout=60) as client:
        conversations = await asyncio.gather(*(talk(client, number) for number in range(CONVERSATIONS)))
    assert len(asked) == CONVERSATIONS * TURNS
    prompts = prompts_kept.prompts_of(gateway.data_dir / "prompts")
    rows = await asyncio.to_thread(gateway.rows, "conversation_id = ANY($1::text[])", conversations)
    stored: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        conversation, query, dialect = asked.pop(row["id"].hex)
        before = stored[conversation]
        assert row["conversation_id"] == conversation
        assert (row["query"], row["response"], row["status"]) == (query, query, "completed")
        assert (row["endpoint"], row["chat_type"]) == (dialect.path, dialect.chat_type)
        prompt = "".join(text + text for text in before) + query
        assert prompts[row["id"].hex] == prompt
        assert (row["meta_data"]["turns"], row["prompt_tokens"]) == (len(before), len(prompt))
        before.append(query)
    assert not asked
    for number, conversation in enumerate(conversations):
        assert stored[conversation] == [f"{number}.{turn} 你好👋;" for turn in range(TURNS)]


async def answered(client: httpx.AsyncClient, dialect: Dialect, body: dict[str, Any]) -> tuple[str, str]:
    """An answer's text and id."""
    received = ""
    async with client.stream("POST", dialect.path, json=body) as answer:
        async for piece in answer.aiter_text():
            received += piece
            if body["stream"] and dialect.ended(received):
                break
        assert answer.status_code == 200, received
    return dialect.answer(received, body["stream"])
