"""The log of a gateway whose standard error is no terminal: all of it is JSON, from its start to its end."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.end_to_end.served import PROGRAM, running

NASTY = "\x1b[2J\u2028\u0085 ERROR forged \U0001f600 你好"


def lines_of(output: str) -> list[dict[str, Any]]:
    """Each of them one object, as a reader sees lines that ends them only where ``\\n`` is."""
    return [json.loads(line) for line in output.split("\n") if line]


def test_all_that_a_gateway_says_is_json_and_joins_with_its_rows(data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated", program=PROGRAM, GATEWAY_LOG_FORMAT="auto") as gateway:
        (told,) = [line for line in lines_of(gateway.output) if line["message"].startswith("Base URL")]
        url = told["message"].split()[-1].removesuffix("/v1")
        with httpx.Client(base_url=url, timeout=60) as client:
            body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
            answer = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "order-7"})
            assert answer.status_code == 200
            client.post("/v1/chat/completions", json=body | {"model": NASTY})
            client.get("/health/live")
        address = urlsplit(url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(b"GET /%0a%1b%ff%e2%80%a8forged?key=secret HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(65_536)
        gateway.wait_for(lambda: "unknown_url" in gateway.output)
        (row,) = gateway.rows("request_id = $1", "order-7")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        output = gateway.output
    lines = lines_of(output)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any("shutting down" in line["message"] for line in lines)
    requests = [line for line in lines if "duration_ms" in line]
    (line,) = [line for line in requests if line["request_id"] == "order-7"]
    assert line["row_ids"] == [row["id"].hex]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (
        row["prompt_tokens"],
        row["completion_tokens"],
    )
    assert (line["status"], line["outcome"], line["finish_reasons"]) == (200, "completed", ["stop"])
    assert [line["error_code"] for line in requests if line["status"] == 404] == [
        "model_not_found",
        "unknown_url",
    ]
    assert NASTY in next(line["error"] for line in requests if line["status"] == 404)
    assert not [line for line in requests if line["path"] == "/health/live"]
    assert "secret" not in output
    assert "hello" not in output
