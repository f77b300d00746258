"""The upstream engine before a server that does what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from engine import upstream_stream
from engine.base import (
    AsAsked,
    Delta,
    DeltaStream,
    EngineDead,
    EngineError,
    EngineOverloaded,
    GenerationFailed,
    GenerationRequest,
    RequestRefused,
    ToldCall,
)
from engine.upstream import UNKNOWN_MODEL_LEN, Upstream, UpstreamEngine
from tests.engine.upstream_server import (
    CONTEXT,
    MODEL,
    STREAM_HEAD,
    Script,
    Step,
    UpstreamServer,
    answer,
    broken_stream,
    chunked,
    error,
    event,
    events,
    finish,
    piece,
    raw_stream,
    stream,
    usage_of,
    whole,
)
from tests.strategies import echo_request

KEY = "sk-of-the-upstream"
SOON, LATE = 0.7, 30.0

ABC = (piece("a"), piece("b"), piece("c"))


@pytest.fixture(scope="module")
def server() -> Iterator[UpstreamServer]:
    with UpstreamServer() as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(server: UpstreamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.scripts.clear()
    server.received.clear()
    monkeypatch.setattr(upstream_stream, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(upstream_stream, "AFTER_END_SECONDS", SOON)
    monkeypatch.setattr(upstream_stream, "AFTER_DONE_SECONDS", SOON)


@asynccontextmanager
async def started(server: UpstreamServer, **fields: Any) -> AsyncIterator[UpstreamEngine]:
    upstream = Upstream("other", **({"url": server.url, "model": MODEL, "api_key": KEY} | fields))
    engine = UpstreamEngine(upstream)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.shutdown()


async def told(deltas: DeltaStream) -> list[Delta]:
    found = [await deltas.next()]
    while found[-1].finish_reason is None:
        found.append(await deltas.next())
    return found


async def asked(
    engine: UpstreamEngine, question: str = "q", *, streams: bool = True, **asked: Any
) -> list[Delta]:
    return await told(await engine.submit(request_for(question, streams=streams, **asked)))


def request_for(question: str, *, streams: bool = True, **asked: Any) -> GenerationRequest:
    return replace(echo_request(question, stream=streams), asked=AsAsked(**asked))


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas: list[Delta]) -> int:
    return sum(delta.told.completion_tokens for delta in deltas if delta.told is not None)


def is_counted(delta: Delta) -> bool:
    return delta.told is not None and delta.told.counted


async def failure_of(deltas: DeltaStream) -> tuple[str, EngineError]:
    """The text that comes before the failure, and the failure."""
    text = ""
    with pytest.raises(EngineError) as failed:
        while True:
            text += (await deltas.next()).text
    return text, failed.value


@pytest.mark.parametrize("streams", [True, False])
async def test_text_and_counts_are_those_of_the_server(server: UpstreamServer, streams: bool) -> None:
    question = "héllo 👋 \0\u2028"
    async with started(server) as engine:
        deltas = await asked(engine, question, streams=streams)
    last = deltas[-1]
    assert text_of(deltas) == question
    assert (last.finish_reason, last.prompt_tokens) == ("stop", len(question))
    assert tokens_of(deltas) == len(question)
    assert is_counted(last)
    assert all(delta.told is not None and not delta.token_ids for delta in deltas)


async def test_the_server_is_told_what_was_asked_and_the_key(server: UpstreamServer) -> None:
    async with started(server) as engine:
        await asked(engine, "q", max_tokens=7, stop=("x",))
        await asked(engine, "q", streams=False)
    first, second = server.received
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.path == "/v1/chat/completions"
    assert first.body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "q"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
        "stop": ["x"],
    }
    # The rest of its context is the server's own matter.
    assert second.body == {"model": MODEL, "messages": first.body["messages"], "stream": False}


async def test_connections_are_used_again(server: UpstreamServer) -> None:
    async with started(server) as engine:
        before = server.connections
        for streams in (True, False, True, True):
            await asked(engine, streams=streams)
    assert server.connections == before + 1


async def test_no_cookie_of_one_caller_goes_out_with_another(server: UpstreamServer) -> None:
    server.scripts["q"] = [whole(answer("a"), set_cookie="session=secret; Path=/")]
    async with started(server) as engine:
        await asked(engine, streams=False)
        await asked(engine, streams=False)
    assert [one.headers.get("cookie") for one in server.received] == [None, None]


async def test_no_proxy_of_the_environment_is_used(
    server: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with started(server) as engine:
        assert text_of(await asked(engine)) == "q"


@pytest.mark.parametrize("streams", [True, False])
async def test_tool_calls_are_told_in_the_order_in_which_they_begin(
    server: UpstreamServer, streams: bool
) -> None:
    def call(index: int, name: str | None, arguments: str) -> dict[str, Any]:
        function = {"arguments": arguments} | ({} if name is None else {"name": name})
        return {"index": index, "id": "x", "type": "function", "function": function}

    if streams:
        parts = [call(3, "f", '{"a'), call(3, None, '":1}'), call(7, "g", ""), call(7, None, "{}")]
        chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [one]}}]} for one in parts]
        server.scripts["q"] = [stream(*chunks, finish("tool_calls"))]
    else:
        calls = [call(0, "f", '{"a":1}'), call(1, "g", "{}")]
        server.scripts["q"] = [whole(answer("", "tool_calls", tool_calls=calls))]
    async with started(server) as engine:
        deltas = await asked(engine, streams=streams)
        only_one = await asked(engine, streams=streams, parallel_tool_calls=False)
    assert joined(deltas) == [("f", '{"a":1}'), ("g", "{}")]
    assert joined(only_one) == [("f", '{"a":1}')]
    assert deltas[-1].finish_reason == "stop"


def joined(deltas: list[Delta]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    pieces: list[ToldCall] = [call for delta in deltas if delta.told for call in delta.told.tool_calls]
    for one in pieces:
        if one.name is not None:
            assert one.index == len(calls)
            calls.append((one.name, ""))
        name, arguments = calls[one.index]
        calls[one.index] = (name, arguments + one.arguments)
    return calls


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),
        ("repetition", "length"),
    ],
)
async def test_why_it_ended_is_what_the_server_says(server: UpstreamServer, reason: str, meant: str) -> None:
    server.scripts["q"] = [stream(piece("a"), finish(reason))]
    async with started(server) as engine:
        assert (await asked(engine))[-1].finish_reason == meant


async def test_what_is_not_counted_is_not_said_to_be(server: UpstreamServer) -> None:
    server.scripts["q"] = [stream(*ABC, finish("stop"))]
    async with started(server) as engine:
        last = (await asked(engine))[-1]
    assert not is_counted(last)


@pytest.mark.parametrize(
    "script",
    [
        stream(*ABC, finish("stop"), usage_of(2, 3), done=False),
        raw_stream([*events(*ABC, finish("stop"), usage_of(2, 3), done=False), b"data: [DONE]"]),
        broken_stream(*ABC, finish("stop"), usage_of(2, 3), then=Step.RESET),
        broken_stream(*ABC, finish("stop"), usage_of(2, 3), then=Step.HANG),
        [STREAM_HEAD, *chunked(events(*ABC, finish("stop"), usage_of(2, 3))), Step.HANG],
        stream(*ABC, finish("stop") | usage_of(2, 3)),
        raw_stream([b": hello\n\n", b"event: x\r\nid: 1\r\n", *events(*ABC, finish("stop"), usage_of(2, 3))]),
    ],
    ids=[
        "no-done",
        "no-last-line",
        "cut-at-its-end",
        "hangs-at-its-end",
        "hangs-after-done",
        "with-usage",
        "c",
    ],
)
async def test_an_answer_that_is_whole_is_taken_however_the_stream_ends(
    server: UpstreamServer, script: Script
) -> None:
    server.scripts["q"] = [script]
    async with started(server) as engine:
        deltas = await asked(engine)
        assert (text_of(deltas), tokens_of(deltas), deltas[-1].prompt_tokens) == ("abc", 3, 2)
        assert is_counted(deltas[-1])
        assert engine.breaker.failures == 0


HUGE = b"data: " + b"x" * (upstream_stream.MOST_EVENT_BYTES + 1)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize(
    "ending",
    [
        [Step.RESET],
        [Step.HANG],
        [b"0\r\n\r\n"],
        [*chunked([b"data: [DONE]\n\n"]), b"0\r\n\r\n"],
        [*chunked([b"data: {no json\n\n"]), b"0\r\n\r\n"],
        [*chunked([b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n']), Step.HANG],
        [*chunked([event({"error": {"message": "out of memory"}})]), Step.HANG],
        [*chunked([event(finish("made_up"))]), Step.HANG],
        [*chunked([event({"choices": [{"delta": {"content": ["x"]}}]})]), Step.HANG],
        [*chunked([HUGE]), Step.HANG],
        [*chunked([b"data: " + b"[" * 100_000 + b"\n\n"]), Step.HANG],
        [b"no chunk of HTTP\r\n"],
        [*chunked([b"data: \xff\n\n"]), Step.HANG],
    ],
    ids=[
        "reset",
        "hang",
        "early",
        "only-done",
        "json",
        "nan",
        "error",
        "reason",
        "list",
        "huge",
        "deep",
        "h",
        "u",
    ],
)
async def test_what_breaks_on_the_way_is_an_error_after_the_text_so_far(
    server: UpstreamServer, count: int, ending: Script
) -> None:
    server.scripts["q"] = [[STREAM_HEAD, *chunked(events(*ABC[:count], done=False)), *ending]]
    seconds = SOON if ending == [Step.HANG] else LATE
    async with started(server, between_seconds=seconds, first_byte_seconds=2 * seconds) as engine:
        async with asyncio.timeout(60):
            text, failure = await failure_of(await engine.submit(request_for("q")))
        assert text == "abc"[:count]
        assert isinstance(failure, GenerationFailed)
        assert engine.breaker.failures == 1
    # What has begun is never asked again.
    assert len(server.received) == 1


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("script", "meaning"),
    [
        (error(400, "max_tokens is too large", "max_tokens"), RequestRefused),
        (error(413), RequestRefused),
        (error(422), RequestRefused),
        (error(401), EngineDead),
        (error(404), EngineDead),
        (error(302, location="http://127.0.0.1:1/"), EngineDead),
        (error(500), GenerationFailed),
        (whole(b"<html>", 200, "text/html"), GenerationFailed),
        (whole(b"<html>", 500, "text/html"), GenerationFailed),
        (whole(b"\x1f\x8b", 200, "text/event-stream", content_encoding="gzip"), GenerationFailed),
        ([Step.HANG], EngineDead),
        ([b"HTTP/1.1 200 OK\r\n", Step.HANG], EngineDead),
    ],
)
async def test_what_fails_before_the_first_byte_says_what_it_is_and_is_asked_once(
    server: UpstreamServer, streams: bool, script: Script, meaning: type[EngineError]
) -> None:
    server.scripts["q"] = [script]
    seconds = SOON if Step.HANG in script else LATE
    async with started(server, first_byte_seconds=seconds, whole_seconds=seconds) as engine:
        async with asyncio.timeout(60):
            _, failure = await failure_of(await engine.submit(request_for("q", streams=streams)))
        assert type(failure) is meaning
        assert engine.breaker.failures == (0 if meaning is RequestRefused else 1)
    assert len(server.received) == 1


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("passing", "meaning"),
    [
        (error(429), EngineOverloaded),
        (error(503), EngineOverloaded),
        (error(502), EngineDead),
        (error(504), EngineDead),
        (error(503, retry_after="0.01"), EngineOverloaded),
        (error(429, retry_after_ms="10"), EngineOverloaded),
        (error(503, retry_after="Thu, 01 Jan 2026 00:00:00 GMT"), EngineOverloaded),
        (error(503, retry_after="soon"), EngineOverloaded),
        ([Step.RESET], EngineDead),
        ([b"HTTP/1.1 200", Step.RESET], EngineDead),
    ],
)
async def test_what_may_pass_is_asked_again_a_few_times(
    server: UpstreamServer, streams: bool, passing: Script, meaning: type[EngineError]
) -> None:
    server.scripts["again"] = [
        passing,
        passing,
        whole(answer("abc")) if not streams else stream(*ABC, finish("stop")),
    ]
    server.scripts["in vain"] = [passing]
    async with started(server) as engine:
        assert text_of(await asked(engine, "again", streams=streams)) == "abc"
        assert engine.breaker.failures == 0
        _, failure = await failure_of(await engine.submit(request_for("in vain", streams=streams)))
        assert type(failure) is meaning
    assert (len(server.asked("again")), len(server.asked("in vain"))) == (3, 3)


async def test_a_server_that_wants_a_long_pause_is_not_waited_for(server: UpstreamServer) -> None:
    server.scripts["q"] = [error(503, retry_after="3600")]
    async with started(server) as engine:
        async with asyncio.timeout(60):
            await failure_of(await engine.submit(request_for("q")))
    assert len(server.received) == 1


async def test_a_server_that_is_not_there_is_left_alone_after_a_while() -> None:
    engine = UpstreamEngine(Upstream("other", "http://127.0.0.1:1/v1"))
    await engine.start()
    assert (engine.card.name, engine.card.max_model_len) == ("other", UNKNOWN_MODEL_LEN)
    await engine.check()
    for _ in range(5):
        _, failure = await failure_of(await engine.submit(request_for("q")))
        assert type(failure) is EngineDead
    assert engine.breaker.state == "open"
    with pytest.raises(EngineDead):
        await engine.check()
    with pytest.raises(EngineDead):
        await engine.submit(request_for("q"))
    await engine.shutdown()
    await engine.shutdown()


async def test_a_callers_fault_never_counts_against_the_server(server: UpstreamServer) -> None:
    server.scripts["q"] = [error(400)]
    async with started(server) as engine:
        for _ in range(30):
            await failure_of(await engine.submit(request_for("q")))
        assert engine.breaker.state == "closed"


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_an_abort_closes_the_connection_and_keeps_the_text_so_far(
    server: UpstreamServer, count: int
) -> None:
    server.scripts["q"] = [broken_stream(*ABC[:count], then=Step.HANG)]
    async with started(server) as engine:
        deltas = await engine.submit(request_for("q"))
        text = ""
        while len(text) < count:
            text += (await deltas.next()).text
        waiting = asyncio.create_task(deltas.next())
        while not server.received:
            await asyncio.sleep(0.001)
        await deltas.abort()
        async with asyncio.timeout(60):
            last = await waiting
        await deltas.abort()
        assert (text + last.text, last.finish_reason) == ("abc"[:count], "abort")
        assert not is_counted(last)
        assert await asyncio.to_thread(server.received[0].closed.wait, 30)
        assert engine.breaker.failures == 0


async def test_an_abort_before_anything_was_asked_asks_nothing(server: UpstreamServer) -> None:
    async with started(server) as engine:
        deltas = await engine.submit(request_for("q"))
        await deltas.abort()
        assert (await deltas.next()).finish_reason == "abort"
    assert not server.received


async def test_whoever_waits_may_be_cancelled(server: UpstreamServer) -> None:
    server.scripts["q"] = [[Step.HANG]]
    async with started(server) as engine:
        waiting = asyncio.create_task((await engine.submit(request_for("q"))).next())
        while not server.received:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(server.received[0].closed.wait, 30)


async def test_clients_are_told_neither_the_servers_address_nor_its_key(
    server: UpstreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{server.port}"
    server.scripts["q"] = [error(400, f"{server.url}/chat at {address}: key {KEY} has no such model")]
    server.scripts["key"] = [error(401, f"wrong key: {KEY}")]
    async with started(server) as engine:
        _, refused = await failure_of(await engine.submit(request_for("q")))
        await failure_of(await engine.submit(request_for("key")))
        assert KEY not in repr(engine.upstream)
    assert str(refused) == "upstream/chat at upstream: key *** has no such model"
    assert "wrong key: ***" in caplog.text
    assert KEY not in caplog.text


async def test_one_server_too_busy_for_one_more_connection_is_no_dead_one(server: UpstreamServer) -> None:
    server.scripts["q"] = [broken_stream(piece("a"), then=Step.HANG)]
    async with started(server, most_connections=1, connect_seconds=SOON) as engine:
        holding = await engine.submit(request_for("q"))
        await holding.next()
        _, failure = await failure_of(await engine.submit(request_for("other")))
        assert type(failure) is EngineOverloaded
        assert engine.breaker.failures == 0
        await holding.abort()
        assert text_of(await asked(engine, "other")) == "other"


async def test_the_list_of_models_tells_what_the_settings_do_not(server: UpstreamServer) -> None:
    engine = UpstreamEngine(Upstream("other", server.url), asks_models=True)
    await engine.start()
    assert (engine.card.name, engine.card.max_model_len) == (MODEL, CONTEXT)
    await asked(engine)
    assert server.received[0].body["model"] == MODEL
    await engine.shutdown()


async def test_a_model_must_be_known_where_there_is_no_list_of_them() -> None:
    with pytest.raises(EngineError, match="upstream_model"):
        await UpstreamEngine(Upstream("other", "http://127.0.0.1:1/v1"), asks_models=True).start()
    engine = UpstreamEngine(Upstream("other", "http://127.0.0.1:1/v1", "m"), asks_models=True)
    await engine.start()
    assert engine.card.name == "m"
    await engine.shutdown()


async def test_logprobs_are_given_on_with_their_bytes(server: UpstreamServer) -> None:
    entry = {
        "token": "é",
        "logprob": -0.5,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "e", "logprob": -1e9}],
    }
    chunk = piece("é")
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    server.scripts["q"] = [stream(chunk, finish("stop"))]
    async with started(server) as engine:
        first, *_ = await asked(engine)
    assert first.told is not None
    (one,) = first.told.logprobs
    assert (one.token, one.logprob, list(one.top)) == ("é".encode(), -0.5, [(b"e", -9999.0)])
