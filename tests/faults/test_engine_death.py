"""The real engine's processes are killed with -9 under load: nothing hangs or is lost, and it comes back."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.conftest import DEMO_DATA
from tests.end_to_end.served import Gateway, alive, running
from tests.faults.form import either, report
from tests.faults.load import events
from tests.faults.postgres import Postgres
from tests.faults.serving import serving

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

pytestmark = pytest.mark.vllm

# Each has a prompt to read before its first token, on a CPU.
STREAMS, WHOLE = either(8, 40), either(3, 10)
DEATHS = either(1, 5)
CLIENT_SECONDS = 240.0
QUESTION = "What is the capital of France?"

_VALUE = re.compile(r"^([\w:]+)(?:\{.*\})? (\S+)$", re.MULTILINE)


@dataclass
class Asked:
    """One request as its client saw it."""

    text: str
    stream: bool
    max_tokens: int
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    answer_id: str | None = None
    pieces: list[str] = field(default_factory=list)
    code: str | None = None
    saw_the_end: bool = False

    @property
    def received(self) -> str:
        return "".join(self.pieces)


class Clients:
    """All that ask one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.http = httpx.AsyncClient(
            base_url=gateway.base_url, timeout=CLIENT_SECONDS, limits=httpx.Limits(max_connections=None)
        )
        self.asked: list[Asked] = []

    async def ask(self, text: str, stream: bool, max_tokens: int = 2000) -> Asked:
        asked = Asked(text, stream, max_tokens)
        self.asked.append(asked)
        message = {"role": "user", "content": text}
        body = {"messages": [message], "max_tokens": max_tokens, "temperature": 0, "stream": stream}
        if max_tokens > 100:
            body["ignore_eos"] = True
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
            asked.status, asked.headers = response.status_code, response.headers
            if stream and response.status_code == 200:
                await self._read(response, asked)
                return asked
            whole = json.loads(await response.aread())
        if "error" in whole:
            asked.code = whole["error"]["code"]
            return asked
        asked.answer_id, asked.saw_the_end = whole["id"], True
        asked.pieces.append(whole["choices"][0]["message"]["content"])
        return asked

    async def _read(self, response: httpx.Response, asked: Asked) -> None:
        async for data in events(response):
            if data == "[DONE]":
                asked.saw_the_end = True
                return
            event = json.loads(data)
            if "error" in event:
                asked.code = event["error"]["code"]
                return
            asked.answer_id = event["id"]
            asked.pieces.append(event["choices"][0]["delta"].get("content") or "")

    async def ready(self) -> tuple[int, str]:
        response = await self.http.get("/health/ready")
        return response.status_code, response.json()["status"]

    async def values(self) -> dict[str, float]:
        """The metrics, those with labels summed up."""
        found: dict[str, float] = {}
        for name, value in _VALUE.findall((await self.http.get("/metrics")).text):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(CLIENT_SECONDS):
            while not true():
                await asyncio.sleep(0.02)


def engine_processes(gateway: Gateway) -> list[psutil.Process]:
    """Those that a GPU's memory would belong to."""
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    return [process for process in children if "resource_tracker" not in " ".join(process.cmdline())]


async def one_death(gateway: Gateway, clients: Clients, generated_before: float) -> dict[str, Any]:
    """Kill the engine under load and wait until it is back; what was seen meanwhile."""
    first = len(clients.asked)
    running_ones = [
        asyncio.create_task(clients.ask(f"Tell me story number {number}.", number < STREAMS))
        for number in range(STREAMS + WHOLE)
    ]
    await clients.until(
        lambda: (
            len(clients.asked) == first + STREAMS + WHOLE
            and all(len(asked.pieces) > 3 for asked in clients.asked[first : first + STREAMS])
        )
    )
    killed = engine_processes(gateway)
    maps = "\n".join(Path(f"/proc/{process.pid}/maps").read_text() for process in killed)
    shared = {Path(name) for name in re.findall(r"(/dev/shm/\w+)$", maps, re.MULTILINE)}
    assert killed
    assert shared
    for process in killed:
        process.kill()
    died = time.monotonic()
    await asyncio.gather(*running_ones)
    ended_after = time.monotonic() - died
    # vLLM's own counters stand until the next engine is built.
    seen = await clients.values()
    assert seen["gateway_engine_up"] == 0
    statuses = set()
    while (ready := await clients.ready()) == (200, "degraded"):
        asked = await clients.ask("Is anybody there?", len(clients.asked) % 2 == 0, max_tokens=50)
        statuses.add((asked.status, asked.headers.get("x-gateway-degraded"), asked.received))
        assert (await clients.http.get("/health/live")).status_code == 200
        await asyncio.sleep(0.1)
        assert time.monotonic() - died < CLIENT_SECONDS, gateway.output
    assert ready == (200, "ready")
    assert (200, "spare", "Is anybody there?") in statuses
    # The last of them may have found the engine back.
    assert {by for _, by, _ in statuses} <= {"spare", None}
    return {
        "ended_after": ended_after,
        "back_after": time.monotonic() - died,
        "generated": seen["vllm:generation_tokens_total"] - generated_before,
        "untold": seen["gateway_untold_tokens"],
        "asked": clients.asked[first : first + STREAMS + WHOLE],
        "killed": killed,
        "shared": shared,
    }


async def all_deaths(gateway: Gateway) -> list[dict[str, Any]]:
    clients, found = Clients(gateway), []
    async with clients.http:
        for _ in range(DEATHS):
            before = await clients.values()
            death = await one_death(gateway, clients, before["vllm:generation_tokens_total"])
            death["untold"] -= before["gateway_untold_tokens"]
            death["before"] = before
            after = await clients.values()
            answer = await clients.ask(QUESTION, stream=True, max_tokens=16)
            death["after"], death["answer"] = after, answer
            death["at_last"] = await clients.values()
            found.append(death)
    return found


def test_an_engine_killed_under_load_comes_back_and_others_answer_meanwhile(
    server: Postgres, data_dir: Path
) -> None:
    with serving(server.url, data_dir) as spare:
        url = f"{spare.base_url}/v1"
        fallbacks = json.dumps([{"name": "spare", "url": url, "dialect": "vllm"}])
        with running(DEMO_DATA, GATEWAY_FALLBACKS=fallbacks) as gateway:
            process = psutil.Process(gateway.process.pid)
            memory, files = process.memory_info().rss, process.num_fds()
            deaths = asyncio.run(all_deaths(gateway))
            for number, death in enumerate(deaths):
                check(gateway, death)
                report(
                    f"death {number}",
                    streams_ended_after=f"{death['ended_after']:.2f} s",
                    back_after=f"{death['back_after']:.1f} s",
                    tokens=int(death["generated"]),
                    untold=int(death["untold"]),
                )
            grown, opened = (process.memory_info().rss - memory) / 2**20, process.num_fds() - files
            report("after them", memory_growth=f"{grown:.0f} MiB", files_opened=opened)
            processes = gateway.processes()
        assert alive(processes) == []


def check(gateway: Gateway, death: dict[str, Any]) -> None:
    """What one death left behind."""
    ids = [asked.answer_id.removeprefix("chatcmpl-") for asked in death["asked"]]
    rows = {row["id"].hex: row for row in gateway.rows("id = ANY($1::text[]::uuid[])", ids)}
    tokens = 0
    for answer_id, asked in zip(ids, death["asked"], strict=True):
        row = rows[answer_id]
        assert row["response"] == asked.received
        if asked.stream:
            assert (asked.code, asked.saw_the_end) == ("engine_unavailable", False)
            assert (row["status"], row["error"]) == ("error", "The engine's processes have ended.")
            assert "degraded" not in row["meta_data"]
            tokens += row["completion_tokens"]
        else:
            assert (asked.received, asked.saw_the_end) == (asked.text, True)
            assert asked.headers["x-gateway-degraded"] == "spare"
            assert (row["status"], row["completion_tokens"]) == ("completed", len(asked.text))
            assert row["meta_data"]["degraded"] == {"by": "spare", "reason": "engine_dead"}
    # Sum over rows = the engine's counters, for as long as it lived.
    assert tokens + death["untold"] == death["generated"]
    # Then both begin anew.
    answer, after, at_last = death["answer"], death["after"], death["at_last"]
    assert "Paris" in answer.received
    assert "x-gateway-degraded" not in answer.headers
    row = gateway.row(answer.answer_id)
    assert (row["status"], row["response"]) == ("completed", answer.received)
    generated = at_last["vllm:generation_tokens_total"] - after["vllm:generation_tokens_total"]
    assert (generated, after["gateway_engine_up"]) == (row["completion_tokens"], 1)
    assert after["vllm:generation_tokens_total"] < death["generated"]
    restarts = "gateway_engine_restarts_total"
    assert after[restarts] - death["before"].get(restarts, 0) == 1
    assert [process for process in death["killed"] if process.is_running()] == []
    assert [path for path in death["shared"] if path.exists()] == []
