"""Traces of real gateways, as a collector gets them: one gateway that is the upstream of another."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from uuid_utils import uuid7

from tests.end_to_end.served import Gateway, running
from tests.otlp_receiver import OtlpReceiver, Received

SECRET = "nothing-of-this-is-in-a-span"
HEADER = "secret-of-the-collector"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver
        assert SECRET not in repr(receiver.spans)


@pytest.fixture(scope="module")
def gateway(receiver: OtlpReceiver) -> Iterator[Gateway]:
    """One that answers one request at a time, 50 tokens a second."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    options = ("--engine", "simulated", "--simulated-tokens-per-second", "50")
    with running(
        folder,
        *options,
        GATEWAY_MAX_RUNNING_REQUESTS="1",
        GATEWAY_OTLP_HEADERS=f"authorization=Bearer%20{HEADER}",
        **environment(receiver),
    ) as gateway:
        yield gateway
        assert HEADER not in gateway.output
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def front(gateway: Gateway, receiver: OtlpReceiver) -> Iterator[Gateway]:
    """One whose engine is the other gateway."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    options = ("--engine", "upstream", "--upstream-url", gateway.base_url)
    named = {"OTEL_SERVICE_NAME": "front", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    with running(folder, *options, **environment(receiver), **named) as front:
        yield front
    shutil.rmtree(folder, ignore_errors=True)


def environment(receiver: OtlpReceiver) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.base_url, timeout=120) as client:
        yield client


def body(text: str = SECRET, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} | fields


def named(**headers: str) -> dict[str, str]:
    """Headers of a request that its spans can be found by."""
    return headers | {"x-request-id": f"r-{uuid7().hex}"}


def chat(client: httpx.Client, headers: dict[str, str], **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=body(**fields), headers=headers)


def within(inner: Received, outer: Received) -> bool:
    """Whether it is a child of it, in its time."""
    in_time = outer.start <= inner.start <= inner.end <= outer.end
    return (inner.parent_id, inner.trace_id) == (outer.span_id, outer.trace_id) and in_time


def test_a_streamed_chat_goes_on_with_the_callers_trace(
    gateway: Gateway, receiver: OtlpReceiver, client: httpx.Client
) -> None:
    headers = named(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="a=1,b=2")
    fields = {"stream": True, "temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 9, "stop": ["zz"]}
    answer = chat(client, headers, conversation_id="a-conversation", **fields)
    assert answer.text.endswith("data: [DONE]\n\n")
    row = gateway.row(answer.text.split('"id":"')[1].split('"')[0])
    spans = receiver.traced(headers["x-request-id"], "queue", "chat simulated", "commit")
    server = spans["POST /v1/chat/completions"]
    assert (server.kind, server.trace_id, server.parent_id) == ("server", TRACE, PARENT)
    assert (server.state, server.failed) == ("a=1,b=2", False)
    assert server.attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gateway.request_id": headers["x-request-id"],
    }
    queue, generation, commit = spans["queue"], spans["chat simulated"], spans["commit"]
    assert all(within(span, server) and span.kind == "internal" for span in (queue, generation, commit))
    assert queue.end <= generation.start
    assert generation.end <= commit.start
    assert commit.attributes == {"gateway.rows": [row["id"].hex]}
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "simulated",
        "gen_ai.request.model": "simulated",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ["zz"],
        "gen_ai.conversation.id": "a-conversation",
        "gateway.caller": "anonymous",
    }
    told = {
        "gen_ai.response.id": row["id"].hex,
        "gen_ai.response.model": "simulated",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": row["cached_tokens"],
        "gateway.outcome": "completed",
        "gateway.request_id": headers["x-request-id"],
    }
    first_chunk = generation.attributes.pop("gen_ai.response.time_to_first_chunk")
    generation.attributes.pop("gateway.engine.queue_seconds", None)
    assert generation.attributes == asked | told
    ((name, at, _),) = generation.events
    assert name == "gateway.first_token"
    assert at - generation.start == pytest.approx(first_chunk * 1e9, abs=1e6)
    # The ids of logs, rows and traces lead to each other.
    assert (row["meta_data"]["trace_id"], row["meta_data"]["span_id"]) == (TRACE, generation.span_id)
    assert row["request_id"] == headers["x-request-id"]


def test_what_is_sent_says_who_sends_it(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers = named()
    chat(client, headers, max_tokens=1)
    resource = receiver.traced(headers["x-request-id"], "commit")["commit"].resource
    assert resource["service.name"] == "chatglm-gateway"
    assert resource["service.version"] == version("chatglm-gateway")
    assert resource["service.instance.id"]
    assert set(receiver.paths) == {"/v1/traces"}
    assert f"Bearer {HEADER}" in [one.get("authorization") for one in receiver.headers]


def test_an_answer_in_one_piece_has_a_trace_of_its_own(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers = named(traceparent="00-not-a-traceparent-01")
    answer = chat(client, headers, n=2, max_tokens=3)
    spans = receiver.traced(headers["x-request-id"], "commit")
    server, generation = spans["POST /v1/chat/completions"], spans["chat simulated"]
    assert (server.parent_id, server.attributes["http.response.status_code"]) == ("", answer.status_code)
    assert within(generation, server)
    assert generation.attributes["gen_ai.request.choice.count"] == 2
    assert generation.attributes["gen_ai.response.finish_reasons"] == ["length"] * 2
    assert generation.attributes["gen_ai.usage.output_tokens"] == 6
    assert "gen_ai.response.time_to_first_chunk" not in generation.attributes


def test_a_request_that_is_refused_has_its_status_and_nothing_of_an_engine(
    receiver: OtlpReceiver, client: httpx.Client
) -> None:
    headers = named()
    assert chat(client, headers, temperature=-1).status_code == 400
    (server,) = receiver.traced(headers["x-request-id"]).values()
    # The caller's fault is no failure of the server.
    assert (server.attributes["http.response.status_code"], server.failed) == (400, False)
    headers = named()
    assert client.get(f"/{SECRET[:3]}", headers=headers).status_code == 404
    (server,) = receiver.traced(headers["x-request-id"]).values()
    # Whatever strangers ask for, names of spans stay few.
    assert server.name == "GET"


def test_a_client_that_leaves_is_seen_to_leave(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers = named()
    asked = body(SECRET * 20, stream=True)
    with client.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as answer:
        next(answer.iter_bytes())
    spans = receiver.traced(headers["x-request-id"], "commit")
    generation = spans["chat simulated"]
    assert generation.attributes["gateway.outcome"] == "cancelled"
    assert generation.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert 0 < generation.attributes["gen_ai.usage.output_tokens"] < len(SECRET) * 20
    assert within(generation, spans["POST /v1/chat/completions"])
    assert not generation.failed


def test_an_answer_that_takes_too_long_has_failed(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers = named(**{"x-request-timeout": "1"})
    chat(client, headers, text=SECRET * 20)
    spans = receiver.traced(headers["x-request-id"], "commit")
    server, generation = spans["POST /v1/chat/completions"], spans["chat simulated"]
    assert (server.failed, generation.failed) == (True, True)
    assert server.attributes["error.type"] == generation.attributes["error.type"] == "timeout"


def test_requests_that_wait_for_each_other_show_it(receiver: OtlpReceiver, client: httpx.Client) -> None:
    all_headers = [named() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert all(
            answer.status_code == 200
            for answer in pool.map(lambda headers: chat(client, headers, max_tokens=10), all_headers)
        )
    traces = [receiver.traced(headers["x-request-id"], "commit") for headers in all_headers]
    by_turn = sorted(traces, key=lambda spans: spans["chat simulated"].start)
    for earlier, later in pairwise(by_turn):
        assert earlier["chat simulated"].end <= later["chat simulated"].start
        assert later["queue"].end <= later["chat simulated"].start
        if earlier["queue"].start < later["queue"].start < earlier["chat simulated"].end:
            assert later["queue"].attributes["gateway.queue.seconds"] > 0


def test_feedback_stands_in_the_trace_of_the_answer(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers = named()
    id_ = chat(client, headers, max_tokens=1).json()["id"]
    rating = named()
    for _ in range(2):
        # Sent again it is the same feedback.
        said = {"completion_id": id_, "thumbs": "down", "reason": SECRET, "id": "mine"}
        assert client.post("/v1/feedback", json=said, headers=rating).status_code == 200
    event = "gen_ai.evaluation.result"
    spans = receiver.traced(headers["x-request-id"], event, "commit")
    assert spans[event].parent_id == spans["chat simulated"].span_id
    ((name, _, attributes),) = spans[event].events
    assert (name, attributes) == (
        event,
        {
            "gen_ai.evaluation.name": "user_feedback",
            "gen_ai.evaluation.score.value": 0.0,
            "gen_ai.evaluation.score.label": "bad",
            "gen_ai.response.id": id_.split("-")[1],
        },
    )
    receiver.wait_for(lambda: len(servers(receiver, rating)) == 2)
    assert spans[event].links == [
        (servers(receiver, rating)[0].trace_id, servers(receiver, rating)[0].span_id)
    ]
    assert [span.name for span in receiver.spans].count(event) == 1


def servers(receiver: OtlpReceiver, headers: dict[str, str]) -> list[Received]:
    """The server spans of a request, in the order of their start."""
    id_ = headers["x-request-id"]
    found = [one for one in receiver.spans if one.attributes.get("gateway.request_id") == id_]
    return sorted((one for one in found if one.kind == "server"), key=lambda one: one.start)


def test_one_trace_goes_through_a_gateway_and_its_upstream(
    front: Gateway, gateway: Gateway, receiver: OtlpReceiver
) -> None:
    headers = named(traceparent=f"00-{uuid7().hex}-{PARENT}-01")
    with httpx.Client(base_url=front.base_url, timeout=120) as client:
        row = front.row(chat(client, headers, max_tokens=2).json()["id"])
    receiver.traced(headers["x-request-id"], "commit")
    # The upstream knows the request by the row's id.
    receiver.traced(row["id"].hex, "commit")
    (theirs,) = servers(receiver, {"x-request-id": row["id"].hex})
    spans = [span for span in receiver.spans if span.trace_id == theirs.trace_id]
    assert theirs.trace_id == headers["traceparent"].split("-")[1]
    client_span = next(span for span in spans if span.kind == "client")
    assert (client_span.parent_id, client_span.resource["service.name"]) == (
        servers(receiver, headers)[0].span_id,
        "front",
    )
    assert client_span.resource["deployment.environment.name"] == "test"
    assert theirs.parent_id == client_span.span_id
    assert theirs.resource["service.name"] == "chatglm-gateway"
    host, port = gateway.base_url.removeprefix("http://").split(":")
    assert client_span.attributes["gen_ai.provider.name"] == "openai"
    assert (client_span.attributes["server.address"], client_span.attributes["server.port"]) == (
        host,
        int(port),
    )
    assert sorted(span.name for span in spans if span.kind == "internal") == [
        "chat simulated",
        "commit",
        "commit",
        "queue",
        "queue",
    ]


def test_what_machines_ask_all_the_time_has_no_spans(receiver: OtlpReceiver, client: httpx.Client) -> None:
    headers, later = named(), named()
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path, headers=headers).status_code == 200
    client.get("/v1/models", headers=later)
    receiver.traced(later["x-request-id"])
    assert servers(receiver, headers) == []


def test_a_collector_that_hangs_costs_no_request_and_bounds_the_end(data_dir: Path) -> None:
    with OtlpReceiver() as receiver:
        receiver.says = "hang"
        with running(data_dir, "--engine", "simulated", **environment(receiver)) as gateway:
            with httpx.Client(base_url=gateway.base_url, timeout=120) as client:
                assert chat(client, named()).status_code == 200
                assert receiver.asked.wait(60)
                assert chat(client, named()).status_code == 200
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            assert "spans were not sent" in gateway.output
