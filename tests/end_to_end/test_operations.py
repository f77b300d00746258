"""What operators and their machines rely on."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.served import Gateway, running


def test_health(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "alive"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "problems": []})


def test_while_the_database_hangs_readiness_says_so_and_requests_go_on(data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated", GATEWAY_DATABASE_TIMEOUT_SECONDS="0.3") as gateway:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            with gateway.hanging_postgresql():
                body = {"messages": [{"role": "user", "content": "kept"}]}
                answer = client.post("/v1/chat/completions", json=body)
                ready = client.get("/health/ready")
                alive = client.get("/health/live")
            assert answer.json()["choices"][0]["message"]["content"] == "kept"
            assert alive.status_code == 200
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            (problem,) = ready.json()["problems"]
            # The latter where the machine stood still until PostgreSQL did not hang any more.
            told = ("PostgreSQL: no answer within 0.3 s; ", "PostgreSQL: it was away just now; ")
            assert problem.startswith(told)
            gateway.wait_for(lambda: client.get("/health/ready").json()["status"] == "ready")
        assert gateway.row(answer.json()["id"])["response"] == "kept"


@pytest.mark.vllm
def test_the_real_engine_streams_while_the_database_hangs(demo: Gateway) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "stream": True}
    with httpx.Client(base_url=demo.base_url, timeout=60) as client:
        with demo.hanging_postgresql():
            answer = client.post("/v1/completions", json=body).text
            metrics = client.get("/metrics").text
        demo.wait_for(lambda: "\ngateway_journal_rows 0.0\n" in client.get("/metrics").text)
        demo.wait_for(lambda: client.get("/health/ready").json()["status"] == "ready")
    assert "\ngateway_database_away 1.0\n" in metrics
    *chunks, done = [event.removeprefix("data: ") for event in answer.split("\n\n")[:-1]]
    assert done == "[DONE]"
    texts = [choice["text"] for chunk in map(json.loads, chunks) for choice in chunk["choices"]]
    row = demo.row(json.loads(chunks[0])["id"])
    assert (row["status"], row["response"], row["completion_tokens"]) == ("completed", "".join(texts), 40)


@pytest.mark.vllm
def test_metrics_have_the_gateways_own_and_vllms(demo: Gateway) -> None:
    body = {"prompt": "One", "max_tokens": 2}
    assert httpx.post(f"{demo.base_url}/v1/completions", json=body, timeout=60).status_code == 200
    lines = httpx.get(f"{demo.base_url}/metrics").text.splitlines()
    for name in ("vllm:generation_tokens_total", "vllm:num_requests_running", "gateway_tokens_total"):
        assert any(line.startswith(name) for line in lines), name
    assert "gateway_rows_lost 0.0" in lines


# What routers read of a vLLM server: docs/routers.md.
READ_BY_ROUTERS = {
    "vllm:num_requests_running": {"model_name", "engine"},
    "vllm:num_requests_waiting": {"model_name", "engine"},
    "vllm:kv_cache_usage_perc": {"model_name", "engine"},
    "vllm:prefix_cache_hits_total": {"model_name", "engine"},
    "vllm:prefix_cache_queries_total": {"model_name", "engine"},
    "vllm:cache_config_info": {"block_size", "num_gpu_blocks", "engine"},
}


@pytest.mark.vllm
def test_metrics_have_what_routers_read_of_vllm(demo: Gateway) -> None:
    text = httpx.get(f"{demo.base_url}/metrics").text
    found = {
        sample.name: sample.labels.keys()
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for name, labels in READ_BY_ROUTERS.items():
        assert labels <= found[name], name


@pytest.mark.vllm
def test_the_next_turn_of_a_conversation_finds_its_beginning_in_the_cache(demo: Gateway) -> None:
    """Which is why routers keep a session at one gateway; with another salt it is as at another gateway."""
    begun = [{"role": "user", "content": "Tell me a story. " + "The fox jumps over the dog. " * 60}]
    said = [*begun, {"role": "assistant", "content": "Well."}, {"role": "user", "content": "And then?"}]
    cached = []
    for messages, salt in ((begun, "here"), (said, "here"), (said, "elsewhere")):
        body = {"messages": messages, "max_tokens": 1, "cache_salt": f"routers-{salt}"}
        answer = httpx.post(f"{demo.base_url}/v1/chat/completions", json=body, timeout=60).json()
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == cached[2] == 0
    assert cached[1] > 0


def test_every_answer_has_a_request_id(client: httpx.Client) -> None:
    ids = [client.get(path).headers["x-request-id"] for path in ("/v1/models", "/nope", "/health/live")]
    assert len(set(ids)) == 3


def test_a_sane_request_id_is_the_clients_own(simulated: Gateway, client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "order-7:a.b_c"})
    assert answer.headers["x-request-id"] == "order-7:a.b_c"
    assert simulated.row(answer.json()["id"])["request_id"] == "order-7:a.b_c"
    forged = client.get("/v1/models", headers={"x-request-id": "a" * 129})
    assert forged.headers["x-request-id"] != "a" * 129


def test_the_simulated_engine_says_its_own_name(simulated: Gateway, client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["simulated"]
    assert client.get("/v1/models/simulated").json()["engine"] == "simulated"
    assert client.get("/v1/models/other").status_code == 404
    answer = client.post("/v1/completions", json={"prompt": "hi"}).json()
    assert answer["model"] == answer["system_fingerprint"] == "simulated"
    assert "(simulated, simulated)" in simulated.output


def test_docs_show_every_route_with_an_example(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 200
    document = client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics"} <= document["paths"].keys()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    for name, example in body["examples"].items():
        # The simulated engine echoes, it calls nothing.
        expected = 400 if name == "tools" else 200
        assert client.post("/v1/chat/completions", json=example["value"]).status_code == expected
