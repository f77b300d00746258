"""Nothing outlives the gateway, however its start or its end goes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end import served
from tests.end_to_end.served import PROGRAM, Gateway, alive

TEXT = "0123456789" * 20

# Processes of their own, as the command line starts them.
launch, running = partial(served.launch, program=PROGRAM), partial(served.running, program=PROGRAM)


def stream(gateway: Gateway, request_id: str, meanwhile: Callable[[Gateway], None]) -> str:
    """Start a stream, end the gateway when it has begun, and give what came of it."""
    body = {"messages": [{"role": "user", "content": TEXT}], "stream": True}
    with (
        httpx.Client(base_url=gateway.base_url, timeout=60) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
        ) as answer,
    ):
        received = ""
        signalled = False
        for piece in answer.iter_text():
            received += piece
            if not signalled:
                signalled = True
                gateway.signal(signal.SIGTERM)
                meanwhile(gateway)
        return received


def check_drains(gateway: Gateway) -> None:
    """While others finish, no one else is let in."""
    gateway.wait_for(lambda: "shutting down" in gateway.output)
    with httpx.Client(base_url=gateway.base_url) as other:
        refused = other.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "late"}]})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert other.get("/health/ready").status_code == 503
        assert other.get("/health/live").status_code == 200


def test_sigterm_lets_running_requests_finish(data_dir: Path) -> None:
    # Five seconds, for what is asked meanwhile.
    with running(data_dir, "--engine", "simulated", "--simulated-tokens-per-second", "40") as gateway:
        received = stream(gateway, "finishes", check_drains)
        assert received.endswith("data: [DONE]\n\n")
        assert gateway.wait() == 0
    with running(data_dir, "--engine", "simulated") as again:
        (row,) = again.rows("request_id = 'finishes'")
    assert (row["status"], row["response"]) == ("completed", TEXT)


def test_after_the_deadline_a_stream_ends_with_an_error_and_its_row_says_so(data_dir: Path) -> None:
    options = ("--engine", "simulated", "--simulated-tokens-per-second", "20")
    with running(data_dir, *options, GATEWAY_DRAIN_SECONDS="0.5") as gateway:
        received = stream(gateway, "cut", lambda _: None)
        assert '"code":"shutting_down"' in received
        assert "[DONE]" not in received
        assert gateway.wait() == 0
    with running(data_dir, "--engine", "simulated") as again:
        (row,) = again.rows("request_id = 'cut'")
    assert (row["status"], row["finish_reason"]) == ("shutdown", "shutdown")
    assert 0 < len(row["response"]) < len(TEXT)
    assert row["completion_tokens"] == len(row["response"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left(data_dir: Path, number: int) -> None:
    with running(data_dir, "--engine", "simulated") as gateway:
        processes = gateway.processes()
        assert any("postgres" in process.name() for process in processes)
        # As a terminal does: to the whole process group.
        os.killpg(gateway.process.pid, number)
        assert gateway.wait() == 0
        assert alive(processes) == []


def test_a_port_in_use_ends_the_start_with_one_line(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = launch(data_dir, "--engine", "simulated", "--port", str(taken.getsockname()[1]))
        assert gateway.wait() == 1
    assert gateway.output.count("\n") == 1
    assert "Address already in use" in gateway.output


def test_a_database_that_is_away_ends_the_start_with_one_line(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    url = f"postgresql://u:secret@127.0.0.1:{port}/x"
    gateway = launch(data_dir, "--engine", "simulated", DATABASE_URL=url)
    assert gateway.wait() == 1
    assert "The gateway can't start: PostgreSQL:" in gateway.output
    assert "secret" not in gateway.output
    assert "Traceback" not in gateway.output


def test_two_gateways_do_not_share_a_data_dir(data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated") as first:
        second = launch(data_dir, "--engine", "simulated")
        assert second.wait() == 1
        assert f"in use by another gateway (process {first.process.pid})" in second.output
        assert httpx.get(f"{first.base_url}/health/ready").status_code == 200


def everything_below(gateway: Gateway) -> list[psutil.Process]:
    return psutil.Process(gateway.process.pid).children(recursive=True)


@pytest.mark.vllm
def test_no_process_of_the_real_engine_is_left_after_a_failed_start(data_dir: Path) -> None:
    model = data_dir / "broken"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    gateway = launch(data_dir, "--model", str(model))
    seen: set[psutil.Process] = set()
    while gateway.process.poll() is None:
        try:
            seen.update(gateway.processes())
        except psutil.NoSuchProcess:
            continue
    assert gateway.wait() == 1
    assert "The gateway can't start: vLLM did not start" in gateway.output
    assert seen
    assert alive(list(seen)) == []


@pytest.mark.vllm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_process_of_the_real_engine_is_left_when_its_start_is_interrupted(
    demo: Gateway, data_dir: Path, number: int
) -> None:
    model = demo.data_dir / "models" / "smollm2-135m-instruct"
    gateway = launch(data_dir, "--model", str(model))
    gateway.wait_for(lambda: len(everything_below(gateway)) >= 2)
    processes = gateway.processes()
    os.killpg(gateway.process.pid, number)
    assert gateway.wait() == 130
    assert alive(processes) == []


@pytest.mark.vllm
def test_the_real_engine_ends_with_a_gateway_that_was_killed(demo: Gateway, data_dir: Path) -> None:
    model = demo.data_dir / "models" / "smollm2-135m-instruct"
    gateway = launch(data_dir, "--model", str(model))
    gateway.wait_until_started()
    engine = everything_below(gateway)
    assert len(engine) >= 2
    gateway.process.kill()
    gateway.wait()
    assert alive(engine) == []
    # Its PostgreSQL is taken over by the next one, and ends with that.
    with running(data_dir, "--engine", "simulated"):
        pass
