from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import InvalidRequest
from gateway.request_context import RequestContext, request_id
from tests.strategies import texts

START: Message = {"type": "http.response.start", "status": 204, "headers": []}
END: Message = {"type": "http.response.body", "body": b""}


async def well(scope: Scope, receive: Receive, send: Send) -> None:
    await send(dict(START, headers=[]))
    await send(END)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("a secret of the inside")


async def broken_in_the_middle(scope: Scope, receive: Receive, send: Send) -> None:
    await send(dict(START, headers=[]))
    raise ZeroDivisionError


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """The client has gone: nothing is sent."""


async def call(
    app: ASGIApp, path: str = "/", client_id: str | None = None, access_log: bool = True
) -> list[Message]:
    """What is sent for one request."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    headers = [] if client_id is None else [(b"x-request-id", client_id.encode("latin-1"))]
    scope: Scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await RequestContext(app, access_log)(scope, receive, send)
    return messages


def sent(messages: list[Message], wanted: str) -> str:
    """The one value of a header."""
    (value,) = (value for name, value in messages[0]["headers"] if name == wanted.encode())
    return str(value, "ascii")


def sent_id(messages: list[Message]) -> str:
    return sent(messages, "x-request-id")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "gateway.access")
    return caplog


@pytest.mark.parametrize("identity", ["a", "trace-1:2.3_4", "x" * 128])
async def test_a_clients_sane_id_comes_back(identity: str) -> None:
    assert sent_id(await call(well, client_id=identity)) == identity


@pytest.mark.parametrize("identity", ["", "x" * 129, "a b", "a\n", "\n", "é", "<a>", "a;b", "a\x1b[0m"])
async def test_any_other_id_is_replaced(identity: str) -> None:
    minted = sent_id(await call(well, client_id=identity))
    assert minted.startswith("req_")
    assert request_id(minted) == minted


async def test_ids_that_are_made_here_differ() -> None:
    assert sent_id(await call(well)) != sent_id(await call(well))


async def test_the_route_finds_the_id_that_the_answer_carries() -> None:
    seen: list[str] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["request_id"])
        await well(scope, receive, send)

    assert sent_id(await call(route)) == seen[0]


@pytest.mark.parametrize("app", [well, broken])
async def test_every_answer_has_openais_headers(app: ASGIApp) -> None:
    messages = await call(app)
    assert sent(messages, "openai-version") == "2020-10-01"
    assert sent(messages, "openai-processing-ms").isdecimal()


async def test_the_time_goes_from_the_arrival_to_the_headers_not_to_the_end() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.03)
        await well(scope, receive, send)

    async def slow_after_its_start(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START, headers=[]))
        await asyncio.sleep(0.03)
        await send(END)

    assert 30 <= int(sent(await call(slow), "openai-processing-ms")) < 30_000
    began = time.monotonic()
    told = int(sent(await call(slow_after_its_start), "openai-processing-ms"))
    # However long the machine takes, the 30 ms are not in it.
    assert told <= (time.monotonic() - began) * 1000 - 30 + 1


async def test_the_routes_own_headers_stay_and_are_not_changed() -> None:
    headers = [(b"a", b"1"), (b"a", b"2")]

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START, headers=headers))
        await send(END)

    start, _ = await call(route)
    assert start["headers"][:2] == headers == [(b"a", b"1"), (b"a", b"2")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts)
async def test_a_request_is_one_line_of_the_log_whatever_it_holds(
    log: pytest.LogCaptureFixture, path: str, said: str
) -> None:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error"] = InvalidRequest(said)
        await well(scope, receive, send)

    log.clear()
    identity = sent_id(await call(route, f"/{path}"))
    (record,) = log.records
    line = record.getMessage()
    assert line.isprintable()
    assert line.startswith("GET /")
    assert " 204 " in line
    assert identity in line


async def test_the_log_can_be_left_out(log: pytest.LogCaptureFixture) -> None:
    await call(well, access_log=False)
    assert log.records == []


async def test_a_client_that_has_gone_is_logged_and_counted_as_gone(log: pytest.LogCaptureFixture) -> None:
    labels = {"route": "unknown", "method": "other", "status": "499"}
    before = REGISTRY.get_sample_value("gateway_http_requests_total", labels) or 0
    await call(silent)
    assert " gone " in log.records[0].getMessage()
    assert REGISTRY.get_sample_value("gateway_http_requests_total", labels) == before + 1


async def test_a_route_that_breaks_is_a_500_in_openais_shape(log: pytest.LogCaptureFixture) -> None:
    start, body = await call(broken, client_id="mine")
    assert start["status"] == 500
    assert sent_id([start]) == "mine"
    assert json.loads(body["body"]) == {
        "error": {
            "message": "The gateway failed on this request.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    failure, access = log.records
    assert failure.exc_info is not None
    assert " 500 " in access.getMessage()
    assert "mine" in failure.getMessage()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
async def test_a_route_that_breaks_logs_its_path_in_one_line_too(
    log: pytest.LogCaptureFixture, path: str
) -> None:
    log.clear()
    await call(broken, f"/{path}")
    assert all(record.getMessage().isprintable() for record in log.records)


async def test_an_answer_that_breaks_after_its_start_cuts_the_connection() -> None:
    with pytest.raises(ZeroDivisionError):
        await call(broken_in_the_middle)


async def test_what_is_not_http_passes_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pytest.fail("nothing is to be sent")

    await RequestContext(app, access_log=True)({"type": "lifespan"}, receive, send)
    assert seen == [{"type": "lifespan"}]
