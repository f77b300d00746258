"""What a browser is told; a page's own rules are the browser's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.responses import StreamingResponse
from starlette.types import Message

from gateway.app import create_app
from gateway.settings import load

PAGE = "https://chat.example.com"
SDK_HEADERS = "authorization,content-type,x-request-id,x-request-timeout,x-stainless-lang,x-stainless-os"


def app_for(**settings: Any) -> FastAPI:
    return create_app(load({"engine": "simulated", "access_log": False} | settings))


async def ask(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=given)


async def preflight(app: FastAPI, origin: str = PAGE, method: str = "POST") -> httpx.Response:
    return await ask(
        app,
        "OPTIONS",
        "/v1/chat/completions",
        origin=origin,
        access_control_request_method=method,
        access_control_request_headers=SDK_HEADERS,
    )


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def test_it_is_closed_unless_it_is_opened() -> None:
    app = app_for()
    for answer in (await preflight(app), await ask(app, "GET", "/health/live", origin=PAGE)):
        assert cors_headers(answer) == {}
    assert (await preflight(app)).status_code == 405


async def test_a_page_of_a_named_origin_may_send_what_the_sdks_send() -> None:
    answer = await preflight(app_for(cors_origins=PAGE))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == SDK_HEADERS
    assert answer.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE"
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_has_an_id_a_line_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    labels = {"route": "unknown", "method": "other", "status": "200"}
    before = REGISTRY.get_sample_value("gateway_http_requests_total", labels) or 0
    answer = await preflight(app_for(cors_origins=PAGE, access_log=True))
    assert answer.headers["x-request-id"] in caplog.messages[0]
    assert caplog.messages[0].startswith("OPTIONS /v1/chat/completions 200 ")
    assert REGISTRY.get_sample_value("gateway_http_requests_total", labels) == before + 1


@pytest.mark.parametrize(
    "origin", ["https://evil.example", PAGE + ".evil", "http://chat.example.com", "null"]
)
async def test_a_page_of_another_origin_may_nothing(origin: str) -> None:
    answer = await preflight(app_for(cors_origins=PAGE), origin)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_a_method_that_no_route_has_is_not_allowed() -> None:
    assert (await preflight(app_for(cors_origins=PAGE), method="PATCH")).status_code == 400


async def test_all_pages_may_where_all_are_named() -> None:
    app = app_for(cors_origins="*")
    assert (await preflight(app, "https://any.example")).headers["access-control-allow-origin"] == "*"
    answer = await ask(app, "GET", "/health/live", origin="https://any.example", cookie="a=b")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_credentials_are_a_setting() -> None:
    app = app_for(cors_origins=PAGE, cors_allow_credentials=True)
    for answer in (await preflight(app), await ask(app, "GET", "/health/live", origin=PAGE)):
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/nope", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/broken", 500),
    ],
)
async def test_errors_are_decorated_as_answers_are(method: str, path: str, status: int) -> None:
    app = app_for(cors_origins=f"http://other.example,{PAGE}")

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    answer = await ask(app, method, path, origin=PAGE)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["x-request-id"]
    assert "Origin" in answer.headers["vary"]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "openai-processing-ms", "retry-after", "x-gateway-ignored-fields"} <= set(exposed)
    assert {"x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-gateway-degraded"} <= set(
        exposed
    )
    assert "cross-origin-resource-policy" not in answer.headers
    other = await ask(app, method, path, origin="https://evil.example")
    assert "access-control-allow-origin" not in other.headers


async def test_a_stream_is_not_held_back_and_costs_no_task() -> None:
    app = app_for(cors_origins=PAGE)
    events: list[object] = []
    tasks: list[set[asyncio.Task[Any]]] = []

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"1", b"2", b"3"):
            events.append(("made", piece))
            yield piece

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.all_tasks())
        await StreamingResponse(pieces())({**scope, "asgi": {"spec_version": "2.4"}}, receive, send)

    app.mount("/inner", inner)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        tasks.append(asyncio.all_tasks())
        if message.get("body"):
            events.append(("sent", message["body"]))

    headers = [(b"origin", PAGE.encode())]
    scope = {"type": "http", "method": "GET", "path": "/inner/", "headers": headers, "query_string": b""}
    before = asyncio.all_tasks()
    await app(scope, receive, send)
    assert events == [(what, piece) for piece in (b"1", b"2", b"3") for what in ("made", "sent")]
    assert len(tasks) > 4
    assert all(one == before for one in tasks)
