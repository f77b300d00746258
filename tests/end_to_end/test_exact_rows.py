"""However a request ends, its row says what the engine made: the rows sum to the engine's own counters."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.end_to_end.served import Gateway, running

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
TEXT = "中b😀d"
# A minute of it: whoever leaves has been noticed before its end.
LONG = TEXT * 15
SECONDS = 60.0
# When those leave who wait for a whole answer, and when deadlines pass: long after the first token, also on a
# machine that stalls.
CUT_SECONDS = 4.0
DEADLINE = str(CUT_SECONDS)

# A request that a client makes by the name of an id; gives the text that was sent of each choice.
Ask = Callable[[httpx.AsyncClient, str], Awaitable[dict[int, str]]]


@pytest.fixture(scope="module")
def slow() -> Iterator[Gateway]:
    """One token in a second."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", "--simulated-tokens-per-second", "1") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def silent() -> Iterator[Gateway]:
    """No first token within a test."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", "--simulated-ttft-ms", "600000") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


def chat(text: str = TEXT, **more: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": text}]} | more


def completion(*prompts: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETION, {"prompt": list(prompts), "max_tokens": None} | more


def streamed(
    asked: tuple[str, dict[str, Any]], leave_after: int | None = None, timeout: str | None = None
) -> Ask:
    """A stream that is read to its end, or left after so many chunks with text; 0: at its headers."""

    async def ask(client: httpx.AsyncClient, request_id: str) -> dict[int, str]:
        path, body = asked
        told: dict[int, str] = {}
        chunks = 0
        headers = headers_of(request_id, timeout)
        async with client.stream("POST", path, json=body | {"stream": True}, headers=headers) as answer:
            assert answer.status_code == 200
            if leave_after == 0:
                return told
            async for index, text in pieces(answer):
                told[index] = told.get(index, "") + text
                chunks += bool(text)
                if chunks == leave_after:
                    return told
        return told

    return ask


def headers_of(request_id: str, timeout: str | None) -> dict[str, str]:
    return {"x-request-id": request_id} | ({} if timeout is None else {"x-request-timeout": timeout})


async def pieces(answer: httpx.Response) -> AsyncIterator[tuple[int, str]]:
    """The choices and texts of a stream's chunks."""
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                text = choice["text"] if "text" in choice else choice["delta"].get("content")
                yield choice["index"], text or ""


def whole(
    asked: tuple[str, dict[str, Any]], leave_after: float | None = None, timeout: str | None = None
) -> Ask:
    """An answer in one piece that is waited for, or left after so many seconds."""

    async def ask(client: httpx.AsyncClient, request_id: str) -> dict[int, str]:
        path, body = asked
        try:
            async with asyncio.timeout(leave_after):
                answer = await client.post(path, json=body, headers=headers_of(request_id, timeout))
        except TimeoutError:
            return {}
        choices = answer.json().get("choices", ())
        return {
            choice["index"]: choice["text"] if "text" in choice else choice["message"]["content"]
            for choice in choices
        }

    return ask


def rows_of(gateway: Gateway, asks: dict[str, tuple[Ask, int]]) -> dict[str, list[dict[str, Any]]]:
    """Make all requests at once, each of so many prompts; give the rows of each when all are closed."""

    async def run() -> dict[str, dict[int, str]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=gateway.base_url, timeout=60, limits=limits) as client:
            told = await asyncio.gather(*(ask(client, run_id + name) for name, (ask, _) in asks.items()))
        return dict(zip(asks, told, strict=True))

    run_id = f"{uuid4().hex}-"
    told = asyncio.run(run())
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (_, prompts) in asks.items():
        where = "request_id = $1 AND status <> 'running'"
        until(lambda: len(gateway.rows(where, run_id + name)) == prompts)  # noqa: B023
        found[name] = gateway.rows("request_id = $1", run_id + name)
        check(found[name], told[name])
    return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def choices_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """How each choice of a row ended, and its text."""
    if "choices" not in row["meta_data"]:
        return [row]
    both = zip(row["meta_data"]["choices"], row["details"]["choices"], strict=True)
    return [counts | texts for counts, texts in both]


def check(rows: list[dict[str, Any]], told: dict[int, str]) -> None:
    """What a client was sent is in the row; the row adds up, and its end is told once."""
    choices = [choice for row in rows for choice in choices_of(row)]
    for index, text in told.items():
        assert choices[index]["response"].startswith(text)
    for row in rows:
        assert row["response"] == choices_of(row)[0]["response"]
        assert row["completion_tokens"] == sum(choice["completion_tokens"] for choice in choices_of(row))
        assert row["finish_reason"] == (
            choices_of(row)[0]["finish_reason"] if row["status"] == "completed" else row["status"]
        )


def summed(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Prompt tokens as engines count them, once for each choice that came to its first token, and generated
    tokens."""
    begun = [(row, choice) for row in rows for choice in choices_of(row) if choice["completion_tokens"]]
    return (
        sum(row["prompt_tokens"] for row, _ in begun),
        sum(row["completion_tokens"] for row in rows),
    )


def counters(gateway: Gateway, engine: str) -> tuple[int, int]:
    """The engine's own: prompt tokens, and generated tokens."""
    found = {"prompt_tokens": 0.0, "generation_tokens": 0.0}
    for line in httpx.get(f"{gateway.base_url}/metrics").text.splitlines():
        for name in found:
            if line.startswith(f"{engine}:{name}_total"):
                found[name] += float(line.split()[-1])
    return int(found["prompt_tokens"]), int(found["generation_tokens"])


def one(rows: list[dict[str, Any]]) -> tuple[str, str, int]:
    """The status of an only row, its text, and its tokens."""
    (row,) = rows
    return row["status"], row["response"], row["completion_tokens"]


def check_cut(rows: list[dict[str, Any]], status: str, text: str, least: int = 1) -> None:
    """Each choice has ``least`` tokens of ``text`` or more, not all of them, and none without its text. How
    many there were is for the engine to say: see ``counters``."""
    (row,) = rows
    assert row["status"] == status
    for choice in choices_of(row):
        assert choice["response"] == text[: choice["completion_tokens"]]
        assert least <= choice["completion_tokens"] < len(text)
        assert choice["finish_reason"] == status


def test_a_cancel_after_any_chunk_leaves_what_was_generated(slow: Gateway) -> None:
    asks = {f"left-{k}": (streamed(chat(LONG), leave_after=k), 1) for k in range(len(TEXT))}
    asks |= {"whole": (streamed(chat()), 1), "left-whole": (whole(chat(LONG), CUT_SECONDS), 1)}
    rows = rows_of(slow, asks)
    for k in range(len(TEXT)):
        # Nothing leaves before the first token is there.
        check_cut(rows[f"left-{k}"], "cancelled", LONG, max(k, 1))
    assert one(rows["whole"]) == ("completed", TEXT, len(TEXT))
    check_cut(rows["left-whole"], "cancelled", LONG)
    assert counters(slow, "simulated") == summed(slow.rows())


def test_a_deadline_leaves_what_was_generated(slow: Gateway) -> None:
    asked = chat(LONG)
    rows = rows_of(
        slow, {"stream": (streamed(asked, timeout=DEADLINE), 1), "whole": (whole(asked, timeout=DEADLINE), 1)}
    )
    check_cut(rows["stream"], "timeout", LONG)
    check_cut(rows["whole"], "timeout", LONG)
    assert counters(slow, "simulated") == summed(slow.rows())


def test_choices_and_prompts_that_end_early_count_each(slow: Gateway) -> None:
    three, other = chat(LONG, n=3, temperature=1), LONG[1:]
    rows = rows_of(
        slow,
        {
            "left": (streamed(three, leave_after=3), 1),
            "left-whole": (whole(three, CUT_SECONDS), 1),
            "timeout": (streamed(three, timeout=DEADLINE), 1),
            "timeout-whole": (whole(three, timeout=DEADLINE), 1),
            "whole": (whole(chat(n=3, temperature=1)), 1),
            "prompts": (whole(completion("ab", "cdef", n=2)), 2),
            "prompts-left": (streamed(completion(LONG, other, n=2), leave_after=4), 2),
            "prompts-timeout": (whole(completion("ab", LONG, n=2), timeout=DEADLINE), 2),
        },
    )
    for name in ("left", "left-whole", "timeout", "timeout-whole"):
        (row,) = rows[name]
        check_cut([row], "cancelled" if name.startswith("left") else "timeout", LONG)
        assert len(choices_of(row)) == 3
    (row,) = rows["whole"]
    assert (row["status"], row["completion_tokens"]) == ("completed", 3 * len(TEXT))
    assert [(choice["response"], choice["finish_reason"]) for choice in choices_of(row)] == [
        (TEXT, "stop")
    ] * 3
    assert [one([row]) for row in rows["prompts"]] == [("completed", "ab", 4), ("completed", "cdef", 8)]
    for row, text in zip(rows["prompts-left"], (LONG, other), strict=True):
        check_cut([row], "cancelled", text)
    ended, cut = rows["prompts-timeout"]
    # The first prompt's choices had come to their end.
    assert one([ended]) == ("completed", "ab", 4)
    check_cut([cut], "timeout", LONG)
    assert counters(slow, "simulated") == summed(slow.rows())


def test_what_ends_before_the_first_token_has_none(silent: Gateway) -> None:
    three, prompts = chat(n=3, temperature=1), completion("ab", "cdef", n=2)
    asks: dict[str, tuple[Ask, int]] = {}
    for kind, asked, count in (("one", chat(), 1), ("three", three, 1), ("prompts", prompts, 2)):
        path, body = asked
        stream = path, body | {"stream": True}
        asks |= {
            f"left-{kind}": (whole(asked, CUT_SECONDS), count),
            f"left-stream-{kind}": (whole(stream, CUT_SECONDS), count),
            f"timeout-{kind}": (whole(asked, timeout=DEADLINE), count),
            f"timeout-stream-{kind}": (whole(stream, timeout=DEADLINE), count),
        }
    for name, rows in rows_of(silent, asks).items():
        for row in rows:
            status = "cancelled" if name.startswith("left") else "timeout"
            assert one([row]) == (status, "", 0), name
            # The prompt is known all the same.
            assert row["prompt_tokens"] > 0
    assert counters(silent, "simulated") == (0, 0)


@pytest.mark.vllm
def test_on_the_real_engine_too(demo: Gateway) -> None:
    """All at once, so that answers end in one step of the engine while others go on."""

    def idle() -> bool:
        lines = httpx.get(f"{demo.base_url}/metrics").text.splitlines()
        return all(line.endswith(" 0.0") for line in lines if line.startswith("vllm:num_requests_running{"))

    until(idle)
    before = counters(demo, "vllm")
    endless: dict[str, Any] = {"ignore_eos": True, "max_tokens": 1500}
    long = chat("Tell a long story.", **endless)
    three = chat("Tell a long story.", n=3, temperature=1, **endless)
    prompts = completion("Once upon a time", "The sea is", n=2, temperature=1, **endless)
    asks: dict[str, tuple[Ask, int]] = {
        f"left-{k}": (streamed(long, leave_after=k), 1) for k in (0, 1, 5, 20)
    }
    asks |= {
        "left-whole": (whole(long, CUT_SECONDS), 1),
        "left-three": (streamed(three, leave_after=9), 1),
        "left-three-whole": (whole(three, CUT_SECONDS), 1),
        "left-prompts": (streamed(prompts, leave_after=9), 2),
        "timeout": (streamed(long, timeout="8"), 1),
        "timeout-whole": (whole(long, timeout="8"), 1),
        "timeout-three": (streamed(three, timeout="8"), 1),
        "timeout-prompts": (whole(prompts, timeout="8"), 2),
        "length": (whole(chat("Hello", max_tokens=5)), 1),
        "length-three": (streamed(chat("Hello", n=3, temperature=1, max_tokens=5)), 1),
    }
    rows = rows_of(demo, asks)
    for name, found in rows.items():
        status = {"left": "cancelled", "time": "timeout", "leng": "completed"}[name[:4]]
        assert {row["status"] for row in found} == {status}, name
    assert one(rows["length"])[2] == 5
    assert one(rows["length-three"])[2] == 15
    assert all(row["completion_tokens"] > 0 for row in rows["timeout"] + rows["timeout-three"])
    expected = summed([row for found in rows.values() for row in found])

    def grown() -> tuple[int, int]:
        after = counters(demo, "vllm")
        return after[0] - before[0], after[1] - before[1]

    deadline = time.monotonic() + SECONDS
    while grown() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert grown() == expected
