"""Many connections on which nothing happens, or too little: others are answered meanwhile, and memory is
bounded. With FAULTS=long there are 10,000."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.end_to_end.served import Gateway
from tests.faults.form import either, report, until

MANY = either(500, 10_000)
MOST_BYTES_EACH = 40_000


@contextlib.contextmanager
def opened(gateway: Gateway, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, on each of which ``sent`` was sent. A machine has some 28,000 ports for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 200, hard), hard))
    url = urlsplit(gateway.base_url)
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = socket.create_connection((url.hostname or "", url.port or 0), timeout=60)
            connections.append(stack.enter_context(connection))
            connection.sendall(sent)
        yield connections
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections_of(gateway: Gateway) -> int:
    """As the gateway counts them, with the one that asks."""
    text = httpx.get(f"{gateway.base_url}/metrics").text
    return int(float(text.partition("\ngateway_connections ")[2].split()[0]))


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nA: "])
def test_connections_that_wait_cost_little_and_hold_nobody_up(simulated: Gateway, sent: bytes) -> None:
    process = psutil.Process(simulated.process.pid)
    before = process.memory_info().rss
    with opened(simulated, MANY, sent):
        # Those that came first may be closed already, where it takes long to open so many.
        until(lambda: connections_of(simulated) > MANY * 0.9, 60, "all connections open")
        each = (process.memory_info().rss - before) / MANY
        body = {"messages": [{"role": "user", "content": "still there?"}]}
        began = time.monotonic()
        answer = httpx.post(f"{simulated.base_url}/v1/chat/completions", json=body, timeout=60)
        seconds = time.monotonic() - began
        assert answer.json()["choices"][0]["message"]["content"] == "still there?"
    report("connections", open=MANY, kib_each=f"{each / 1024:.1f}", another_answer_s=f"{seconds:.3f}")
    assert each < MOST_BYTES_EACH
    until(lambda: connections_of(simulated) < 100, 60, "all connections closed")
