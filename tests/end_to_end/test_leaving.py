"""A client that leaves: its request ends in the engine, and its row says how far it came."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.end_to_end.served import Gateway, running

TEXT = "0123456789" * 1000


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A simulated gateway that takes 50 seconds for TEXT."""
    with running(
        Path(tmp_path_factory.mktemp("s")), "--engine", "simulated", "--simulated-tokens-per-second", "200"
    ) as gateway:
        yield gateway


def asked(**more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": TEXT}]} | more


def cancelled_row(gateway: Gateway, request_id: str) -> dict[str, object]:
    """The row, once it is closed."""
    gateway.wait_for(lambda: gateway.rows("request_id = $1 AND status <> 'running'", request_id))
    (row,) = gateway.rows("request_id = $1", request_id)
    return row


def test_leaving_a_stream_keeps_the_text_so_far(slow: Gateway) -> None:
    with (
        httpx.Client(base_url=slow.base_url) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=asked(stream=True), headers={"x-request-id": "leaves-stream"}
        ) as answer,
    ):
        for _ in zip(range(20), answer.iter_lines(), strict=False):
            pass
    row = cancelled_row(slow, "leaves-stream")
    assert (row["status"], row["finish_reason"]) == ("cancelled", "cancelled")
    response = str(row["response"])
    assert response
    assert TEXT.startswith(response)
    assert row["completion_tokens"] == len(response) < len(TEXT)
    # Well before the 50 s that the whole answer takes.
    assert float(str(row["duration_ms"])) < 40_000


def test_leaving_a_whole_answer_keeps_the_text_so_far(slow: Gateway) -> None:
    with httpx.Client(base_url=slow.base_url, timeout=2) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=asked(), headers={"x-request-id": "leaves-whole"})
    row = cancelled_row(slow, "leaves-whole")
    assert row["status"] == "cancelled"
    assert TEXT.startswith(str(row["response"]))
    assert row["completion_tokens"] == len(str(row["response"])) < len(TEXT)


def test_leaving_before_the_first_token(simulated: Gateway, data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated", "--simulated-ttft-ms", "60000") as gateway:
        with httpx.Client(base_url=gateway.base_url, timeout=2) as client, pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/chat/completions", json=asked(stream=True), headers={"x-request-id": "leaves-early"}
            )
        row = cancelled_row(gateway, "leaves-early")
    assert (row["status"], row["response"], row["completion_tokens"]) == ("cancelled", "", 0)


def test_leaving_in_the_middle_of_the_body_leaves_no_row(slow: Gateway) -> None:
    url = urlsplit(slow.base_url)
    with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: leaves-body\r\n"
            b'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"messages": '
        )
    slow.wait_for(lambda: "leaves-body" in slow.output)
    assert slow.rows("request_id = $1", "leaves-body") == []
    assert "Traceback" not in slow.output


@pytest.mark.vllm
def test_leaving_the_real_engine(demo: Gateway) -> None:
    # Its database is kept between runs.
    request_id = f"leaves-{uuid4().hex}"
    body = {"messages": [{"role": "user", "content": "Tell a long story."}], "stream": True}
    with (
        httpx.Client(base_url=demo.base_url) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
        ) as answer,
    ):
        for _ in zip(range(20), answer.iter_lines(), strict=False):
            pass
    row = cancelled_row(demo, request_id)
    assert row["status"] == "cancelled"
    assert row["response"]

    def idle() -> bool:
        lines = httpx.get(f"{demo.base_url}/metrics").text.splitlines()
        return all(line.endswith(" 0.0") for line in lines if line.startswith("vllm:num_requests_running{"))

    demo.wait_for(idle)
