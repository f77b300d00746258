"""vllm-router (github.com/vllm-project/router), from its package, in front of gateways."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.served import Gateway
from tests.faults.form import until

PROGRAM = Path(sys.executable).parent / "vllm-router"
SECONDS = 60.0

# A gateway that fails one look at it is taken out, one that passes one is taken in.
PROBES = (
    *("--health-check-interval-secs", "1", "--worker-startup-check-interval", "1"),
    *("--health-failure-threshold", "1", "--health-success-threshold", "1"),
)


@contextmanager
def routing(gateways: Sequence[Gateway], policy: str, *options: str) -> Iterator[httpx.Client]:
    """A client of a router that has found all ``gateways`` healthy."""
    if not PROGRAM.is_file():
        pytest.skip("vllm-router is not installed")
    folder = gateways[0].output_path.parent
    port, metrics_port = free_ports(2)
    command = [
        *(str(PROGRAM), "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)),
        *("--policy", policy, *PROBES, *options),
        *("--worker-urls", *(gateway.base_url for gateway in gateways)),
    ]
    with (
        open(folder / f"router-{port}.txt", "wb") as output,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client,
    ):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or healthy(client), SECONDS, "the router has started")
            assert process.poll() is None, Path(output.name).read_text(errors="replace")
            yield client
        finally:
            process.kill()
            process.wait()


def healthy(router: httpx.Client) -> bool:
    """Whether it finds all gateways healthy."""
    try:
        return router.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def load_of(gateway: Gateway) -> int:
    """How many requests it has, as routers ask for it."""
    answer = httpx.get(f"{gateway.base_url}/load", timeout=SECONDS)
    return int(answer.json()["server_load"])


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
