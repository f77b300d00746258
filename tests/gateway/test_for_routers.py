"""What a router in front finds: /health, /load, and a session's name that goes through to the engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from engine.base import GenerationRequest
from engine.simulated import SimulatedEngine, SimulatedStream
from gateway.lifecycle import Lifecycle
from tests.gateway.in_process import InProcess, in_process

CHAT = "/v1/chat/completions"


class Noting(SimulatedEngine):
    """Notes the requests that it is given, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[GenerationRequest] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def submit(self, request: GenerationRequest) -> SimulatedStream:
        self.given.append(request)
        await self.may_answer.wait()
        return await super().submit(request)


def question(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], **fields}


async def loads(gateway: InProcess) -> tuple[int, int]:
    """As vLLM tells it, and as vllm-router asks for it."""
    load, get_load = await gateway.client.get("/load"), await gateway.client.get("/get_load")
    assert (load.json().keys(), get_load.json().keys()) == ({"server_load"}, {"load"})
    return load.json()["server_load"], get_load.json()["load"]


async def test_the_load_is_the_requests_that_have_not_ended(tmp_path: Path) -> None:
    engine = Noting()
    gateway = in_process(tmp_path, engine)
    assert await loads(gateway) == (0, 0)
    engine.may_answer.clear()
    asked = [asyncio.create_task(gateway.client.post(CHAT, json=question())) for _ in range(3)]
    async with asyncio.timeout(30):
        while len(engine.given) < 3:
            await asyncio.sleep(0)
    assert await loads(gateway) == (3, 3)
    engine.may_answer.set()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * 3
    assert await loads(gateway) == (0, 0)


async def test_health_is_a_status_without_a_body_and_no_during_the_notice_in_which_requests_are_taken(
    tmp_path: Path,
) -> None:
    gateway = in_process(tmp_path)
    generations = lifecycle_of(gateway).generations
    well = await gateway.client.get("/health")
    assert (well.status_code, well.content) == (200, b"")
    notice = asyncio.create_task(generations.give_notice(3600))
    await asyncio.sleep(0)
    leaving = await gateway.client.get("/health")
    assert (leaving.status_code, leaving.content) == (503, b"")
    assert (await gateway.client.get("/health/ready")).status_code == 503
    assert (await gateway.client.post(CHAT, json=question())).status_code == 200
    generations.hurry()
    async with asyncio.timeout(30):
        await notice
    await generations.drain(0)
    refused = await gateway.client.post(CHAT, json=question())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("route", [CHAT, "/v1/completions", "/chat/chat"])
async def test_a_session_reaches_the_engine_and_the_row(route: str, tmp_path: Path) -> None:
    engine = Noting()
    gateway = in_process(tmp_path, engine)
    body = {CHAT: question(), "/v1/completions": {"prompt": "a"}, "/chat/chat": {"query": "a"}}[route]
    answer = await gateway.client.post(route, json=body, headers={"x-session-id": "talk/7"})
    assert answer.status_code == 200
    assert [request.session_id for request in engine.given] == ["talk/7"]
    assert [row.meta_data["session_id"] for row in gateway.rows] == ["talk/7"]
    # It is no conversation: whoever knows it is shown nothing by it.
    assert [row.conversation_id for row in gateway.rows] == [None]


async def test_the_bodys_session_goes_before_the_headers(tmp_path: Path) -> None:
    gateway = in_process(tmp_path)
    answer = await gateway.client.post(
        CHAT, json=question(session_id="body"), headers={"x-session-id": "head"}
    )
    assert "x-gateway-ignored-fields" not in answer.headers
    assert gateway.rows[0].meta_data["session_id"] == "body"


@pytest.mark.parametrize("name", ["", "a b", "x" * 257, "ä"])
async def test_a_session_that_is_not_sane_is_refused_in_a_body_and_counts_for_nothing_in_a_header(
    name: str, tmp_path: Path
) -> None:
    engine = Noting()
    gateway = in_process(tmp_path, engine)
    refused = await gateway.client.post(CHAT, json=question(session_id=name))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "session_id")
    headers = {b"x-session-id": name.encode("latin-1")}
    assert (await gateway.client.post(CHAT, json=question(), headers=headers)).status_code == 200
    assert [request.session_id for request in engine.given] == [None]
    assert "session_id" not in gateway.rows[0].meta_data


async def test_the_model_says_that_it_is_no_adapter(tmp_path: Path) -> None:
    (model,) = (await in_process(tmp_path).client.get("/v1/models")).json()["data"]
    assert (model["id"], model["root"], model["parent"]) == ("simulated", "simulated", None)
    assert model["max_model_len"] > 0


def lifecycle_of(gateway: InProcess) -> Lifecycle:
    return cast("Any", gateway.client._transport).app.state.lifecycle  # type: ignore[no-any-return]
