"""What requests look like in traces, however they end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from starlette.requests import ClientDisconnect

from engine.base import (
    ChatMessage,
    DeltaStream,
    EngineError,
    EngineOverloaded,
    GenerationFailed,
    GenerationRequest,
    ToolCall,
)
from engine.ladder import Ladder, Rung
from engine.notice import NoticeEngine
from engine.simulated import SimulatedEngine
from gateway.access.api_keys import new_key
from gateway.access.caller import Caller
from gateway.admission.queue import AllAtOnce, Place, Work
from gateway.errors import Unavailable
from gateway.tracing import trace_id_of
from gateway.tracing.request_trace import RequestTrace, parent_of
from gateway.tracing.text import (
    MOST_CONTENT_CHARACTERS,
    MOST_MESSAGES,
    input_messages,
    output_messages,
    plain,
)
from persistence.api_keys import ApiKey
from tests.gateway.fakes import BreakingEngine, RefusingEngine
from tests.gateway.traced import Kept, Traced, traced, tracing_to
from tests.strategies import texts

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

OFF = """
import asyncio, sys
from pathlib import Path
from tests.gateway.in_process import in_process

async def main():
    gateway = in_process(Path(sys.argv[1]))
    asked = {"messages": [{"role": "user", "content": "a"}]}
    headers = {"traceparent": sys.argv[2]}
    answer = await gateway.client.post("/v1/chat/completions", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "trace_id" not in gateway.rows[0].meta_data

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


async def ask(
    it: Traced, text: str = "abc", headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}]} | fields
    return await it.gateway.client.post(CHAT, json=body, headers=headers)


class Listening(SimulatedEngine):
    """Remembers what it was told of traces."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[Any] = []

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        self.headers.append(request.trace_headers)
        return await super().submit(request)


class Closed(AllAtOnce):
    """No place for anybody."""

    async def enter(self, caller: Caller, work: Work) -> Place:
        raise Unavailable("There is no place.", code="queue_full")


def test_nothing_of_opentelemetry_is_imported_while_there_is_no_endpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OFF, str(tmp_path), TRACEPARENT]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "[]", ended.stderr


async def test_engines_are_told_the_span_that_theirs_are_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Listening()
    it = traced(tmp_path, monkeypatch, engine)
    await ask(it, headers={"traceparent": TRACEPARENT, "tracestate": "a=1"}, n=2)
    generation = it.span("chat")
    wanted = {"traceparent": f"00-{generation.trace_id}-{generation.span_id}-01", "tracestate": "a=1"}
    assert engine.headers == [wanted] * 2
    (row,) = it.gateway.rows
    assert (row.meta_data["trace_id"], row.meta_data["span_id"]) == (generation.trace_id, generation.span_id)


@pytest.mark.parametrize(("ratio", "traceparent"), [(0.0, None), (1.0, TRACEPARENT[:-1] + "0")])
async def test_what_is_not_sampled_has_no_spans_and_still_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, traceparent: str | None
) -> None:
    engine = Listening()
    it = traced(tmp_path, monkeypatch, engine, trace_sample_ratio=ratio)
    await ask(it, headers={"traceparent": traceparent} if traceparent else {})
    assert it.spans == []
    (row,) = it.gateway.rows
    assert "span_id" not in row.meta_data
    ((_, trace_id, _, flags),) = (headers["traceparent"].split("-") for headers in engine.headers)
    assert (trace_id, int(flags, 16) & 1) == (row.meta_data["trace_id"], 0)
    assert traceparent is None or trace_id in traceparent


async def test_whoever_calls_decides_before_the_ratio_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch, trace_sample_ratio=0)
    await ask(it, headers={"traceparent": TRACEPARENT})
    assert it.span("POST").trace_id == TRACEPARENT.split("-")[1]


async def test_several_prompts_are_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = traced(tmp_path, monkeypatch)
    await it.gateway.client.post("/v1/completions", json={"prompt": ["ab", "cde"], "n": 2, "max_tokens": 1})
    generation = it.span("text_completion simulated").attributes
    assert (generation["gateway.prompts"], generation["gen_ai.request.choice.count"]) == (2, 2)
    assert generation["gen_ai.response.finish_reasons"] == ["length"] * 4
    assert (generation["gen_ai.usage.input_tokens"], generation["gen_ai.usage.output_tokens"]) == (5, 4)
    rows = [row.id.hex for row in it.gateway.rows]
    assert it.span("commit").attributes["gateway.rows"] == rows
    assert len({row.meta_data["span_id"] for row in it.gateway.rows}) == 1


@pytest.mark.parametrize("deltas", [0, 1])
async def test_an_engine_that_breaks_is_an_error_of_both_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deltas: int
) -> None:
    it = traced(tmp_path, monkeypatch, BreakingEngine(deltas, GenerationFailed("the inside")))
    answer = await ask(it, stream=True)
    server, generation = it.span("POST"), it.span("chat")
    assert server.attributes["http.response.status_code"] == answer.status_code == (200 if deltas else 500)
    assert server.failed
    assert generation.failed
    assert server.attributes["error.type"] == generation.attributes["error.type"] == "error"
    assert len(generation.events) == deltas
    assert not it.span("commit").failed
    assert "the inside" not in repr(it.spans)


@pytest.mark.parametrize("failure", [EngineOverloaded("full"), GenerationFailed("broken")])
async def test_an_engine_that_takes_nothing_was_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: EngineError
) -> None:
    it = traced(tmp_path, monkeypatch, RefusingEngine(failure))
    answer = await ask(it, seed=2**63 - 1)
    assert it.gateway.rows == []
    generation = it.span("chat simulated")
    assert generation.attributes["error.type"] == type(failure).__name__
    assert generation.attributes["gen_ai.request.seed"] == 2**63 - 1
    assert generation.parent_id == it.span("POST").span_id
    assert it.span("POST").failed == (answer.status_code >= 500)
    assert {span.name for span in it.spans} == {f"POST {CHAT}", "queue", "chat simulated"}


async def test_a_place_that_nobody_got_is_an_error_of_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch)
    it.gateway.lifecycle.generations.admission = Closed()
    answer = await ask(it)
    assert answer.status_code == 503
    assert it.span("queue").attributes == {"error.type": "Unavailable"}
    assert {span.name for span in it.spans} == {f"POST {CHAT}", "queue"}


class Leaving(AllAtOnce):
    """Whoever waits here leaves."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self._error = error

    async def enter(self, caller: Caller, work: Work) -> Place:
        raise self._error


@pytest.mark.parametrize("error", [ClientDisconnect, asyncio.CancelledError])
async def test_a_client_that_leaves_the_queue_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    it = traced(tmp_path, monkeypatch)
    it.gateway.lifecycle.generations.admission = Leaving(error)
    with suppress(asyncio.CancelledError):
        assert (await ask(it)).status_code == 499
    assert it.span("queue").attributes == {"gateway.outcome": "cancelled"}
    assert it.span("queue").end > it.span("queue").start
    assert [span.name for span in it.spans if span.failed] == []
    assert "error.type" not in it.span("POST").attributes
    assert len(it.spans) == 2


async def test_a_client_that_leaves_while_the_engine_is_asked_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch, RefusingEngine(ClientDisconnect()))  # type: ignore[arg-type]
    await ask(it)
    assert it.span("chat").attributes["gateway.outcome"] == "cancelled"
    assert [span.name for span in it.spans if span.failed] == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"response_format": {"type": "json_object"}}, "json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
            "json",
        ),
        ({"structured_outputs": {"json": {}}}, "json"),
        ({"structured_outputs": {"regex": "a"}}, None),
        ({"response_format": {"type": "text"}}, None),
        ({}, None),
    ],
)
async def test_json_that_was_asked_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], told: str | None
) -> None:
    # An engine of this process that knows no constraints refuses them: it was asked all the same.
    it = traced(tmp_path, monkeypatch)
    await ask(it, **fields)
    assert it.span("chat").attributes.get("gen_ai.output.type") == told


async def test_a_fallback_says_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BreakingEngine(0, GenerationFailed("x"))
    it = traced(tmp_path, monkeypatch, Ladder(broken, [Rung("notice", NoticeEngine("Later."), False)]))
    assert (await ask(it)).status_code == 200
    generation = it.span("chat")
    assert not generation.failed
    told = generation.attributes
    assert (told["gateway.degraded.by"], told["gateway.degraded.reason"]) == (["notice"], "engine_failed")
    assert told["gen_ai.provider.name"] == "notice"
    assert "gen_ai.response.model" not in told


async def test_an_answer_that_nobody_keeps_failed_when_it_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch)
    it.gateway.recorder.keeps = False
    assert (await ask(it)).status_code == 503
    assert it.span("commit").attributes["error.type"] == it.span("POST").attributes["error.type"] == "unkept"
    assert not it.span("chat").failed


async def test_a_route_that_breaks_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = traced(tmp_path, monkeypatch)
    monkeypatch.setattr(it.gateway.lifecycle, "_generations", None)
    assert (await ask(it)).status_code == 500
    server = it.span("POST")
    assert (server.attributes["error.type"], server.failed) == ("500", True)


FOREIGN = TRACEPARENT.split("-")[1]
KEY = new_key()


class Keys:
    """Knows KEY, whose owner nobody asks for."""

    async def find(self, key: str, address: str) -> ApiKey | None:
        return ApiKey(uuid4(), uuid4(), "n", "", key[:12], b"", ("inference",)) if key == KEY else None


@pytest.mark.parametrize(
    ("trace_context", "authentication", "key", "believed"),
    [
        ("authenticated", True, KEY, True),
        ("authenticated", True, None, False),
        ("authenticated", True, new_key(), False),
        ("authenticated", False, None, True),
        ("all", True, None, True),
        ("none", True, KEY, False),
        ("none", False, None, False),
    ],
)
@pytest.mark.parametrize("flags", ["00", "01"])
async def test_only_who_is_believed_says_which_trace_it_is_and_whether_it_is_sampled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trace_context: str,
    authentication: bool,
    key: str | None,
    believed: bool,
    flags: str,
) -> None:
    caplog.set_level("INFO", "gateway.access")
    engine = Listening()
    # Those who are not believed get what the ratio says, the opposite of what they want.
    ratio = 1.0 if flags == "00" else 0.0
    given = {"trace_context": trace_context, "authentication": authentication, "access_log": True}
    it = traced(tmp_path, monkeypatch, engine, trace_sample_ratio=ratio, **given)
    monkeypatch.setattr(it.gateway.lifecycle, "api_keys", Keys())
    headers = {"traceparent": TRACEPARENT[:-2] + flags, "tracestate": "theirs=1"}
    answer = await ask(it, headers=headers | ({"x-api-key": key} if key else {}))
    assert answer.status_code == (200 if key == KEY or not authentication else 401)
    sampled = believed == (flags == "01")
    assert bool(it.spans) == sampled
    if sampled:
        server = it.span("POST")
        assert (server.trace_id == FOREIGN) == believed
        assert [link[0] for link in server.links] == ([] if believed else [FOREIGN])
    for told in engine.headers:
        assert (FOREIGN in told["traceparent"], told.get("tracestate")) == (
            (True, "theirs=1") if believed else (False, None)
        )
    (line,) = (record.msg.fields() for record in caplog.records if hasattr(record.msg, "fields"))
    assert (line["trace_id"] == FOREIGN) == believed


async def test_a_path_that_is_not_there_is_in_a_trace_and_its_line_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.access")
    it = traced(tmp_path, monkeypatch, authentication=True, access_log=True)
    await it.gateway.client.get("/nowhere", headers={"traceparent": TRACEPARENT})
    (line,) = (record.msg.fields() for record in caplog.records if hasattr(record.msg, "fields"))
    assert line["trace_id"] == it.span("GET").trace_id != FOREIGN


async def test_the_clients_address_is_the_one_that_a_proxy_here_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch, trace_client_address=True)
    await ask(it, headers={"x-forwarded-for": "192.0.2.1, 203.0.113.7"})
    assert it.span("POST").attributes["client.address"] == "203.0.113.7"


@pytest.mark.parametrize("told", [False, True])
async def test_the_clients_address_is_told_only_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    it = traced(tmp_path, monkeypatch, trace_client_address=told)
    await ask(it)
    assert it.span("POST").attributes.get("client.address") == ("127.0.0.1" if told else None)


async def test_text_is_told_only_where_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = traced(tmp_path, monkeypatch)
    await ask(it, "a secret")
    assert "secret" not in repr(it.spans)


async def test_text_is_told_in_the_form_of_the_conventions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = traced(tmp_path, monkeypatch, trace_content=True)
    await ask(it, "é😀", n=2, max_tokens=1)
    told = it.span("chat").attributes
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "é😀"}]}
    ]
    answer = {"role": "assistant", "parts": [{"type": "text", "content": "é"}], "finish_reason": "length"}
    assert json.loads(told["gen_ai.output.messages"]) == [answer] * 2


def test_calls_of_tools_and_their_results_are_told_as_what_they_are() -> None:
    messages = [
        ChatMessage("assistant", "", (ToolCall("f", "{}", "id-1"),)),
        ChatMessage("tool", "42", tool_call_id="id-1"),
    ]
    assert json.loads(input_messages(messages)) == [
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "name": "f", "arguments": "{}", "id": "id-1"}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "id-1", "response": "42"}]},
    ]
    (answer,) = json.loads(output_messages([("", [("f", "{}")], "tool_calls")]))
    assert answer["parts"] == [{"type": "tool_call", "name": "f", "arguments": "{}"}]


@given(st.lists(texts, max_size=5), st.integers(0, 3))
def test_text_in_spans_is_json_and_bounded(contents: list[str], times: int) -> None:
    messages = [ChatMessage("user", text * 10**times) for text in contents]
    told = json.loads(input_messages(messages))
    assert len(told) == len(messages)
    characters = sum(len(part["content"]) for message in told for part in message["parts"])
    assert characters <= MOST_CONTENT_CHARACTERS + len(messages)
    input_messages(messages).encode()


def test_a_long_conversation_loses_its_beginning() -> None:
    messages = [ChatMessage("user", str(turn)) for turn in range(MOST_MESSAGES + 1)]
    told = json.loads(input_messages(messages))
    assert (len(told), told[-1]["parts"][0]["content"]) == (MOST_MESSAGES, str(MOST_MESSAGES))
    long = [ChatMessage("user", "a" * MOST_CONTENT_CHARACTERS), ChatMessage("user", "b" * 10)]
    first, last = (one["parts"][0]["content"] for one in json.loads(input_messages(long)))
    assert (first[-1], len(first), last) == ("…", MOST_CONTENT_CHARACTERS - 9, "b" * 10)


@given(texts | st.text(st.characters(categories=["Cs", "L"])), st.integers(0, 20))
def test_text_of_attributes_is_always_utf8(text: str, most: int) -> None:
    told = plain(text, most)
    assert len(told) <= most
    told.encode()


HEX = st.text("0123456789abcdefABCDEF-g", max_size=40)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"traceparent", b"tracestate", b"x"]),
        st.binary(max_size=80)
        | st.builds("-".join, st.lists(HEX, max_size=6)).map(str.encode)
        | st.sampled_from([TRACEPARENT.encode(), b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"a=1,a=2"]),
    ),
    max_size=4,
)
TRACING = tracing_to(Kept())


@settings(deadline=None)
@given(HEADERS, texts, st.sampled_from(["GET", "BREW"]))
def test_whatever_headers_and_paths_hold_there_is_a_trace(
    headers: list[tuple[bytes, bytes]], path: str, method: str
) -> None:
    scope = {"type": "http", "method": method, "path": f"/{path}", "headers": headers}
    trace = RequestTrace(TRACING, scope)
    assert len(trace.trace_id) == 32
    assert int(trace.trace_id, 16)
    trace.generation()
    trace.end(scope, None)
    parent = get_current_span(parent_of(scope)).get_span_context()
    if parent.is_valid:
        assert trace.context.trace_id == parent.trace_id
        assert sum(name == b"traceparent" for name, _ in headers) == 1


def test_all_of_it_can_be_sent() -> None:
    """What the property test before made, encoded."""
    kept = Kept()
    tracing = tracing_to(kept)
    for path in ("/\ud800", "/\0", "/" + "é" * 5000):
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        RequestTrace(tracing, scope).end(scope, None)
    tracing.flush()
    assert len(kept.spans) == 3
    assert max(len(span.attributes["url.path"]) for span in kept.spans) == 1000


def test_a_request_whose_trace_is_off_has_no_trace_id() -> None:
    assert trace_id_of({}) is None
