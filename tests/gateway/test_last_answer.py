from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from gateway import last_answer
from gateway.last_answer import LastAnswer


async def answered(messages: list[Message], version: str = "1.1") -> list[Message]:
    """What is sent to a client that sends ``messages`` and then is silent; they are taken away."""
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await LastAnswer(b"whole", status_code=413)({"http_version": version}, receive, send)
    return sent


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_answer, "LINGER_SECONDS", 0.05)


def body(more: bool) -> Message:
    return {"type": "http.request", "body": b"x", "more_body": more}


@pytest.mark.parametrize(
    "messages", [[], [body(True)], [body(True), body(False)], [body(True), {"type": "http.disconnect"}]]
)
async def test_the_whole_answer_leaves_before_the_rest_is_read(messages: list[Message]) -> None:
    start, answer, end = await answered(messages)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"connection"], headers[b"content-length"]) == (413, b"close", b"5")
    assert (answer["body"], answer["more_body"]) == (b"whole", True)
    assert (end["body"], end["more_body"]) == (b"", False)
    assert messages == []


async def test_what_comes_after_the_body_is_not_read() -> None:
    messages = [body(False), body(True)]
    await answered(messages)
    assert messages == [body(True)]


async def test_a_version_of_http_that_has_no_such_header_gets_none() -> None:
    start, *_ = await answered([], version="2")
    assert b"connection" not in dict(start["headers"])
