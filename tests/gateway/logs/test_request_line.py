"""One line for each request: what it tells, and what it never tells."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from engine.simulated import SimulatedEngine
from gateway.app import create_app
from gateway.logs.current_request import mark_request
from gateway.logs.formats import JsonFormatter, TextFormatter
from gateway.settings import load
from tests.gateway.fakes import BreakingEngine
from tests.gateway.in_process import InProcess, in_process

CHAT = "/v1/chat/completions"
ID = {"x-request-id": "order-7"}


class Lines(logging.Handler):
    """What is logged, in both forms."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.json: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.addFilter(mark_request)
        # The tests' own client.
        self.addFilter(lambda record: not record.name.startswith("http"))

    def emit(self, record: logging.LogRecord) -> None:
        self.json.append(json.loads(JsonFormatter().format(record)))
        self.text.append(TextFormatter().format(record))

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.json if line["logger"] == "gateway.access" and "duration_ms" in line]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root, found = logging.getLogger(), Lines()
    before = root.level
    root.addHandler(found)
    root.setLevel(logging.DEBUG)
    yield found
    root.removeHandler(found)
    root.setLevel(before)


def gateway_of(tmp_path: Path, engine: SimulatedEngine | None = None, **settings: Any) -> InProcess:
    return in_process(tmp_path, engine, access_log=True, **settings)


def asked(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} | more


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_leaves_a_line_that_agrees_with_its_row(
    tmp_path: Path, lines: Lines, stream: bool
) -> None:
    gateway = gateway_of(tmp_path)
    answer = await gateway.client.post(CHAT, json=asked("hello", stream=stream, n=2), headers=ID)
    assert answer.status_code == 200
    (row,), (line,) = gateway.rows, lines.requests
    assert line["request_id"] == row.request_id == "order-7"
    assert line["row_ids"] == [row.id.hex]
    assert line["message"] == f"POST {CHAT} 200"
    assert (line["method"], line["route"], line["path"], line["status"]) == ("POST", CHAT, CHAT, 200)
    assert (line["outcome"], line["finish_reasons"]) == ("completed", ["stop", "stop"])
    assert (line["model"], line["stream"]) == (row.model, stream)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (row.prompt_tokens, row.completion_tokens)
    assert (line["caller"], line["caller_kind"]) == ("address:127.0.0.1", "anonymous")
    assert line["address"] == "127.0.0.1"
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["duration_ms"]
    assert line["commit_ms"] <= line["duration_ms"]
    assert line["time_per_output_token_ms"] >= 0
    assert not {"prompts", "answers", "error"} & line.keys()
    (text,) = [one for one in lines.text if " POST " in one or ": POST " in one]
    for part in (f"POST {CHAT} 200 ", " order-7 ", "completed stop/stop", "+10 tokens", " ttft "):
        assert part in text


async def test_a_trace_id_that_is_known_is_told(tmp_path: Path, lines: Lines) -> None:
    app = create_app(load({"engine": "simulated", "data_dir": tmp_path}))

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/nope", "headers": [], "query_string": b""}
    await app({**scope, "state": {"trace_id": "0af7651916cd43dd"}}, receive, send)
    assert lines.requests[0]["trace_id"] == "0af7651916cd43dd"


async def test_a_refused_request_tells_why(tmp_path: Path, lines: Lines) -> None:
    gateway = gateway_of(tmp_path)
    await gateway.client.post(CHAT, json=asked(model="gpt-9"))
    await gateway.client.post(CHAT, json={"messages": 1})
    await gateway.client.get("/nope")
    unknown, invalid, nowhere = lines.requests
    assert (unknown["status"], unknown["outcome"], unknown["error_code"]) == (
        404,
        "refused",
        "model_not_found",
    )
    assert "gpt-9" in unknown["error"]
    assert (invalid["status"], invalid["route"]) == (400, CHAT)
    assert invalid["error"]
    assert (nowhere["status"], nowhere["error_code"], "route" in nowhere) == (404, "unknown_url", False)
    assert not [line for line in lines.requests if "prompt_tokens" in line]


async def test_an_answer_that_breaks_off_is_told_as_an_error(tmp_path: Path, lines: Lines) -> None:
    gateway = gateway_of(tmp_path, BreakingEngine(2, ZeroDivisionError("the inside")))
    await gateway.client.post(CHAT, json=asked("hello", stream=True), headers=ID)
    (line,) = lines.requests
    assert (line["status"], line["outcome"], line["finish_reasons"]) == (200, "error", ["error"])
    # Whatever else was logged on its way belongs to it, too.
    others = [one for one in lines.json if "duration_ms" not in one and one["logger"].startswith("gateway")]
    assert others
    assert {one["request_id"] for one in others} == {"order-7"}


async def test_probes_and_scrapers_are_logged_where_they_fail_only(tmp_path: Path, lines: Lines) -> None:
    gateway = gateway_of(tmp_path)
    for path in ("/health/live", "/metrics", "/health/nope", "/v1/models"):
        await gateway.client.get(path)
    told = {line["path"]: line["level"] for line in lines.requests}
    assert told == {
        "/health/live": "debug",
        "/metrics": "debug",
        "/health/nope": "info",
        "/v1/models": "info",
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_text_is_told_only_where_the_setting_says_so_and_not_without_bound(
    tmp_path: Path, lines: Lines, stream: bool
) -> None:
    text = "a private matter " + "x" * 5_000
    await gateway_of(tmp_path).client.post(CHAT, json=asked(text, stream=stream))
    assert "private" not in json.dumps(lines.json)
    assert "private" not in "".join(lines.text)
    await gateway_of(tmp_path, log_content=True).client.post(CHAT, json=asked(text, stream=stream))
    line = lines.requests[-1]
    for said in (*line["prompts"], *line["answers"]):
        assert said.startswith(text[:2_000])
        assert said.endswith("[…5017 characters]")
    assert "a private matter" in lines.text[-1]


def canaries() -> dict[str, str]:
    """What is secret, by where it stands in a request."""
    places = ("bearer", "key", "cookie", "query", "password", "text", "basic", "proxy")
    return {place: f"CANARY-{place}-0123456789" for place in places}


async def test_no_secret_and_no_text_is_in_any_line_of_any_route(tmp_path: Path, lines: Lines) -> None:
    """Of a gateway without a database, so that much fails, and each failure is logged."""
    secret = canaries()
    gateway = gateway_of(tmp_path, database_timeout_seconds=0.02)
    app = create_app(load({"engine": "simulated", "data_dir": tmp_path}))
    bodies: list[Any] = [
        asked(secret["text"]),
        {"prompt": secret["text"], "query": secret["text"], "password": secret["password"], "username": "x"},
        {"username": "somebody", "password": secret["password"], "query": secret["text"], "messages": 7},
    ]
    headers = {
        "authorization": f"Bearer {secret['bearer']}",
        "cookie": f"chatglm_gateway_session={secret['cookie']}",
        "proxy-authorization": secret["proxy"],
    }
    asked_for = 0
    for route in app.routes:
        assert isinstance(route, APIRoute)
        path = re.sub(r"\{[^}]*\}", "0" * 32, route.path)
        for method in route.methods:
            for body in bodies:
                for given in (
                    headers,
                    {"x-api-key": secret["key"]},
                    {"authorization": f"Basic {secret['basic']}"},
                ):
                    url = f"{path}?api_key={secret['query']}&password={secret['password']}"
                    await gateway.client.request(method, url, json=body, headers=given)
                    asked_for += 1
    assert len(lines.requests) == asked_for > 300
    told = json.dumps(lines.json) + "".join(lines.text)
    assert [place for place, canary in secret.items() if canary in told] == []
