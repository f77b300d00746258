"""A gateway whose engine is another server: first one that does what a test wants, then one of our own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from engine.base import AsAsked
from engine.upstream import Upstream, UpstreamEngine
from tests.end_to_end.served import Gateway, running
from tests.end_to_end.typed import checked
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
    events,
    finish,
    piece,
    stream,
    usage_of,
    whole,
)
from tests.strategies import NASTY, echo_request

KEY = "sk-of-the-upstream"
# Long for a machine that is busy, short for a test.
SECONDS = "3"

CALL = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":"é"}'}}
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server() -> Iterator[UpstreamServer]:
    with UpstreamServer() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: UpstreamServer) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    options = ("--engine", "upstream", "--upstream-url", server.url)
    limits = {
        f"GATEWAY_UPSTREAM_{name}_SECONDS": SECONDS for name in ("CONNECT", "FIRST_BYTE", "BETWEEN", "WHOLE")
    }
    with running(folder, *options, GATEWAY_UPSTREAM_API_KEY=KEY, **limits) as gateway:
        yield gateway
        assert KEY not in gateway.output
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sdk(gateway: Gateway, server: UpstreamServer) -> Iterator[openai.OpenAI]:
    server.scripts.clear()
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0, timeout=60) as sdk:
        yield sdk
        # Whatever failed, the server is not to be left alone.
        server.scripts.clear()
        for _ in range(3):
            assert ask(sdk, "fine").choices[0].message.content == "fine"


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}]} | fields


def ask(sdk: openai.OpenAI, question: str, **fields: Any) -> ChatCompletion:
    made: ChatCompletion = sdk.chat.completions.create(**asked(question, **fields))
    return made


def streamed(sdk: openai.OpenAI, question: str, **fields: Any) -> list[Any]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return list(sdk.chat.completions.create(**asked(question, **options, **fields)))


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def last_row(gateway: Gateway, question: str) -> dict[str, Any]:
    """Of one that runs it comes a moment later."""
    gateway.wait_for(lambda: gateway.rows("query = $1", question))
    return gateway.rows("query = $1", question)[-1]


def counts(usage: Any) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


def test_stream_whole_answer_and_rows_say_the_same(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI
) -> None:
    question = NASTY.replace("\0", "") + "héllo 👋"
    chunks = streamed(sdk, question)
    made = sdk.chat.completions.with_raw_response.create(**asked(question))
    completion = checked(ChatCompletion, made.text)
    assert text_of(chunks) == completion.choices[0].message.content == question
    assert chunks[-1].usage is not None
    assert counts(chunks[-1].usage) == counts(completion.usage) == (len(question), len(question))
    for answer_id in (chunks[0].id, completion.id):
        row = gateway.row(answer_id)
        assert row["response"] == question
        assert (row["status"], row["finish_reason"], row["model"]) == ("completed", "stop", MODEL)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (len(question), len(question))
        assert "usage" not in row["meta_data"]
    assert server.asked(question)[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_completion_is_asked_as_one(gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI) -> None:
    for streams in (False, True):
        made: Any = sdk.completions.create(model=MODEL, prompt="once", max_tokens=9, stream=streams)
        text = "".join(one.choices[0].text for one in made) if streams else made.choices[0].text
        assert text == "once"
    first, _ = server.asked("once")
    assert (first.path, first.body["prompt"], first.body["max_tokens"]) == ("/v1/completions", "once", 9)
    raw = sdk.completions.with_raw_response.create(model=MODEL, prompt="once")
    assert checked(Completion, raw.text).usage is not None


@pytest.mark.parametrize("streams", [True, False])
def test_tools_go_through(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI, streams: bool
) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [CALL]}}]}
    told = whole(answer("", "tool_calls", tool_calls=[CALL]) | usage_of(5, 3))
    server.scripts["weather?"] = [stream(chunk, finish("tool_calls"), usage_of(5, 3)) if streams else told]
    fields: Any = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    if streams:
        chunks = streamed(sdk, "weather?", **fields)
        answer_id, reason = chunks[0].id, chunks[-2].choices[0].finish_reason
        pieces = [one for chunk in chunks if chunk.choices for one in chunk.choices[0].delta.tool_calls or ()]
        arguments = "".join(one.function.arguments for one in pieces)
    else:
        made = ask(sdk, "weather?", **fields)
        answer_id, reason = made.id, made.choices[0].finish_reason
        calls: Any = made.choices[0].message.tool_calls
        arguments = calls[0].function.arguments
    assert (reason, arguments) == ("tool_calls", '{"a":"é"}')
    body = server.asked("weather?")[-1].body
    assert (body["tools"], body["parallel_tool_calls"]) == ([TOOL], False)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    row = gateway.row(answer_id)
    assert row["details"]["tool_calls"] == [{"name": "f", "arguments": '{"a":"é"}'}]
    assert (row["finish_reason"], row["completion_tokens"]) == ("tool_calls", 3)


def test_constraints_go_through_as_they_were_asked(server: UpstreamServer, sdk: openai.OpenAI) -> None:
    schema = {"name": "point", "schema": {"type": "object"}, "strict": True}
    wanted: Any = {"response_format": {"type": "json_schema", "json_schema": schema}}
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "presence_penalty": 1.0, "stop": ["x", "y"]}
    ask(sdk, "constrained", **wanted, **fields)
    body = server.asked("constrained")[-1].body
    assert {name: body[name] for name in (*wanted, *fields)} == wanted | fields
    assert "max_tokens" not in body


def test_choices_are_asked_for_at_once(server: UpstreamServer, gateway: Gateway, sdk: openai.OpenAI) -> None:
    made = ask(sdk, "two", n=2, seed=1)
    assert [choice.message.content for choice in made.choices] == ["two", "two"]
    assert sorted(one.body["seed"] for one in server.asked("two")) == [1, 2]
    assert made.usage is not None
    assert counts(made.usage) == (3, 6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"logit_bias": {"7": 1}}, "logit_bias"),
        ({"extra_body": {"structured_outputs": {"regex": "a+"}}}, "structured_outputs"),
        ({"extra_body": {"return_token_ids": True}}, "return_token_ids"),
        ({"extra_body": {"chat_template_kwargs": {"x": 1}}}, "chat_template_kwargs"),
    ],
)
def test_what_the_server_can_not_be_asked_is_refused_by_name(
    server: UpstreamServer, sdk: openai.OpenAI, fields: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(sdk, "refused", **fields)
    assert refused.value.param == param
    assert not server.asked("refused")


def test_ids_are_known_to_nobody(gateway: Gateway, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.completions.create(model=MODEL, prompt=[1, 2, 3])
    assert refused.value.param == "prompt"
    with httpx.Client(base_url=gateway.base_url) as client:
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            assert client.post(path, json=body).status_code == 400
        (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["engine"], model["max_model_len"]) == (MODEL, "upstream", CONTEXT)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("script", "status"),
    [
        (error(400, "too long", "messages"), 400),
        (error(401), 503),
        (error(429), 503),
        (error(500), 500),
        (whole(b"<html>", 200, "text/html"), 500),
        ([Step.RESET], 503),
        ([Step.HANG], 503),
    ],
    ids=["400", "401", "429", "500", "html", "reset", "hang"],
)
def test_before_the_first_byte_a_failure_has_a_real_status(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI, streams: bool, script: Script, status: int
) -> None:
    question = f"fails {streams} {script}"
    server.scripts[question] = [script]
    with pytest.raises(openai.APIStatusError) as failed:
        streamed(sdk, question) if streams else ask(sdk, question)
    assert failed.value.status_code == status
    row = last_row(gateway, question)
    assert (row["status"], row["response"]) == ("error", "")
    assert row["error"]
    if status == 400:
        assert failed.value.param == "messages"
        assert "too long" in failed.value.message


@pytest.mark.parametrize(
    "ending",
    [
        [Step.RESET],
        [Step.HANG],
        [b"0\r\n\r\n"],
        [*chunked([b"data: {no json\n\n"]), b"0\r\n\r\n"],
        [*chunked([b'data: {"error":{"message":"out of memory"}}\n\n']), b"0\r\n\r\n"],
    ],
    ids=["reset", "hang", "early", "json", "error"],
)
def test_after_the_first_byte_a_failure_is_an_error_in_the_stream(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI, ending: Script
) -> None:
    question = f"breaks {ending}"
    begun = chunked(events(piece("a"), piece("b"), done=False))
    server.scripts[question] = [[STREAM_HEAD, *begun, *ending]]
    text = ""
    with pytest.raises(openai.APIError):
        for chunk in sdk.chat.completions.create(**asked(question, stream=True)):
            text += chunk.choices[0].delta.content or ""
    row = last_row(gateway, question)
    assert text == row["response"] == "ab"
    assert (row["status"], row["meta_data"]["usage"]) == ("error", "untold")
    assert len(server.asked(question)) == 1


def test_counts_that_nobody_told_are_not_made_up(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI
) -> None:
    server.scripts["streamed"] = [stream(piece("a"), finish("stop"))]
    server.scripts["whole"] = [whole(answer("a", "content_filter"))]
    chunks = streamed(sdk, "streamed")
    made = checked(ChatCompletion, sdk.chat.completions.with_raw_response.create(**asked("whole")).text)
    assert (chunks[-1].usage, made.usage) == (None, None)
    assert made.choices[0].finish_reason == "content_filter"
    for answer_id in (chunks[0].id, made.id):
        row = gateway.row(answer_id)
        assert (row["status"], row["response"], row["meta_data"]["usage"]) == ("completed", "a", "untold")


def test_a_client_that_leaves_is_noticed_by_the_server(
    gateway: Gateway, server: UpstreamServer, sdk: openai.OpenAI
) -> None:
    # A comment now and then keeps it from being taken for dead.
    alive: list[bytes | Step] = [*chunked([b": alive\n\n"]), Step.PAUSE]
    begun = broken_stream(piece("a"), piece("b"), then=Step.PAUSE)
    server.scripts["leaves"] = [[*begun, *(alive * 1000)]]
    text = ""
    with sdk.chat.completions.create(**asked("leaves", stream=True)) as chunks:
        for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if text == "ab":
                break
    (received,) = server.asked("leaves")
    assert received.closed.wait(30)
    gateway.wait_for(lambda: last_row(gateway, "leaves")["status"] == "cancelled")
    assert last_row(gateway, "leaves")["response"] == "ab"


def test_metrics_tell_how_the_server_does(gateway: Gateway, sdk: openai.OpenAI) -> None:
    metrics = httpx.get(f"{gateway.base_url}/metrics").text
    assert 'gateway_upstream_state{upstream="upstream"} 0.0' in metrics
    assert httpx.get(f"{gateway.base_url}/health/ready").status_code == 200


async def test_a_gateway_of_ours_as_the_server(simulated: Gateway) -> None:
    """As another gateway would ask it, with all that vLLM adds."""
    upstream = Upstream("ours", f"{simulated.base_url}/v1", "simulated", dialect="vllm")
    engine = UpstreamEngine(upstream)
    await engine.start()
    text = NASTY + "héllo 👋"
    try:
        for streams in (True, False):
            request = replace(echo_request(text, stream=streams), asked=AsAsked())
            deltas = await engine.submit(request)
            found = [await deltas.next()]
            while found[-1].finish_reason is None:
                found.append(await deltas.next())
            assert "".join(delta.text for delta in found) == text
            told = [delta.told for delta in found if delta.told is not None]
            assert sum(one.completion_tokens for one in told) == len(text)
            assert (found[-1].prompt_tokens, told[-1].counted) == (len(text), True)
            assert found[-1].finish_reason == "stop"
    finally:
        await engine.shutdown()
