"""A client that asks for a long stream and then reads nothing holds neither the engine nor memory."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.end_to_end.raw_http import request
from tests.end_to_end.served import Gateway, running
from tests.faults.form import report

# Each character is a token, and an event of some 230 bytes: 46 MB, far more than the kernel takes.
TEXT = "".join(f"{number:06d} " for number in range(28_600))
MOST_BYTES = 24 * 1024 * 1024
# So that the next caller is not sent away because of what the first one could still take.
BOUNDS = {
    "GATEWAY_SEND_TIMEOUT_SECONDS": "0.5",
    "GATEWAY_MAX_RUNNING_REQUESTS": "1",
    "GATEWAY_QUEUE_MAX_SECONDS": "500",
}


def asked(gateway: Gateway, body: object) -> socket.socket:
    """A connection on which the answer has begun, with little room for it."""
    url = urlsplit(gateway.base_url)
    connection = socket.socket()
    # Before it connects: it never offers more.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((url.hostname or "", url.port or 0))
    connection.sendall(request("/v1/chat/completions", body))
    assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return connection


def metric(gateway: Gateway, name: str) -> float:
    text = httpx.get(f"{gateway.base_url}/metrics").text
    return float(text.partition(f"\n{name} ")[2].split()[0])


def memory(gateway: Gateway, field: str) -> int:
    """Of its process, in bytes. ``field``: VmRSS, what it has now, or VmHWM, the most that it has had."""
    told = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", told, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_a_stuck_reader_is_cut_and_its_place_is_the_next_callers(data_dir: Path) -> None:
    with running(data_dir, "--engine", "simulated", **BOUNDS) as gateway:
        before = memory(gateway, "VmRSS")
        question = {"messages": [{"role": "user", "content": TEXT}], "stream": True}
        with asked(gateway, question) as connection:
            body = {"messages": [{"role": "user", "content": "my turn"}]}
            answer = httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body, timeout=60)
            grown = memory(gateway, "VmHWM") - before
            assert answer.json()["choices"][0]["message"]["content"] == "my turn"
            assert metric(gateway, "gateway_stuck_readers_total") == 1
            gateway.wait_for(lambda: metric(gateway, "gateway_requests_running") == 0)
            assert metric(gateway, "gateway_engine_places_taken") == 0
            received = 0
            # What the kernel still holds; then it is cut.
            while piece := connection.recv(65536):
                received += len(piece)
                assert b"[DONE]" not in piece
        (row,) = gateway.rows("status = 'cancelled'")
        said = row["response"]
        assert 0 < len(said) < len(TEXT)
        assert TEXT.startswith(said)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (len(TEXT), len(said))
        report(
            "stuck reader",
            mib_grown_at_most=f"{grown / 2**20:.1f}",
            tokens=len(said),
            of=len(TEXT),
            mib_in_the_kernel=f"{received / 2**20:.1f}",
            ended_after_ms=f"{row['duration_ms']:.0f}",
            next_waited_ms=answer.headers.get("x-gateway-queue-ms"),
        )
        assert grown < MOST_BYTES
