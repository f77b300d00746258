from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from engine.process_guard import GATEWAY_PID

SLEEP = "import time; time.sleep(600)"
GUARDED = (
    "import os, time; from engine.process_guard import end_with_gateway; end_with_gateway();"
    "print(os.getpgrp() == os.getpid(), flush=True); time.sleep(600)"
)

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")


@contextmanager
def python(code: str, gateway: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process; its environment names ``gateway`` as the one that it belongs to."""
    environment = {name: value for name, value in os.environ.items() if name != GATEWAY_PID}
    if gateway is not None:
        environment[GATEWAY_PID] = str(gateway)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_ends_when_its_gateway_is_killed_and_leaves_its_process_group() -> None:
    with python(SLEEP) as gateway, python(GUARDED, gateway.pid) as guarded:
        assert first_line(guarded) == b"True"
        assert guarded.poll() is None
        gateway.kill()
        assert guarded.wait(30) == -signal.SIGKILL


def test_it_ends_at_once_when_its_gateway_has_gone_already() -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(python(""))
        gateway.wait(30)
        guarded = stack.enter_context(python(GUARDED, gateway.pid))
        assert guarded.wait(30) == -signal.SIGKILL


def test_elsewhere_it_does_nothing() -> None:
    with python(GUARDED.replace("time.sleep(600)", "pass")) as process:
        assert first_line(process) == b"False"
        assert process.wait(30) == 0
