from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.service_manager import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(60)
        receiver.bind(address)
        yield receiver


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told_by_datagram(tmp_path: Path, abstract: bool) -> None:
    name = f"chatglm-gateway-{os.getpid()}"
    shown, bound = (f"@{name}", f"\0{name}") if abstract else (str(tmp_path / "s"), str(tmp_path / "s"))
    with listening(bound) as receiver:
        manager = ServiceManager({"NOTIFY_SOCKET": shown})
        manager.ready()
        assert receiver.recv(4096) == b"READY=1\nSTATUS=Serving"
        manager.stopping(1.5)
        assert {b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=1500000"} < set(receiver.recv(4096).splitlines())


def test_without_one_nothing_is_told() -> None:
    ServiceManager({}).ready()


def test_one_that_does_not_listen_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "was not told" in caplog.text


async def test_a_watchdog_hears_that_the_loop_runs(tmp_path: Path) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "s"),
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with listening(environment["NOTIFY_SOCKET"]) as receiver:

        async def work() -> bytes:
            heard = [await asyncio.to_thread(receiver.recv, 4096) for _ in range(3)]
            return b" ".join(heard)

        heard = await ServiceManager(environment).watched(work())
    assert heard == b"WATCHDOG=1 WATCHDOG=1 WATCHDOG=1"


async def test_the_watchdog_of_another_process_is_left_alone(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "s"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    with listening(environment["NOTIFY_SOCKET"]) as receiver:
        await ServiceManager(environment).watched(asyncio.sleep(0))
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(4096)
