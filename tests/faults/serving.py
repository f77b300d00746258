"""The gateways of these tests."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.end_to_end.forked import Forked
from tests.end_to_end.served import Gateway, clean_environment

# Answers of more than a second, so that some are under way whenever something breaks.
TOKENS_PER_SECOND = 30
OPTIONS = ("--port", "0", "--engine", "simulated", "--no-access-log")

# What takes PostgreSQL longer than this counts as away: the default. With less a busy machine's PostgreSQL
# does not come back under load.
DATABASE_TIMEOUT_SECONDS = 2.0
END_SECONDS = 60.0


@contextmanager
def serving(url: str, data_dir: Path, **settings: str) -> Iterator[Gateway]:
    """A started gateway whose rows go to ``url``, ended in order; ``settings`` by their environment names."""
    with launching(url, data_dir, **settings) as gateway:
        gateway.wait_until_started()
        yield gateway
        if gateway.process.poll() is None:
            gateway.signal(signal.SIGTERM)
        assert gateway.process.wait(END_SECONDS) == 0, gateway.output


@contextmanager
def launching(url: str, data_dir: Path, **settings: str) -> Iterator[Gateway]:
    """The same, still starting; to be killed, at the latest here."""
    usual = {
        "GATEWAY_DATABASE_TIMEOUT_SECONDS": str(DATABASE_TIMEOUT_SECONDS),
        "GATEWAY_SIMULATED_TOKENS_PER_SECOND": str(TOKENS_PER_SECOND),
        # As in a terminal: JSON is for machines.
        "GATEWAY_LOG_FORMAT": "text",
    }
    environment = clean_environment() | usual | settings | {"DATABASE_URL": url}
    # Beside it: the data directory's disk may be full.
    descriptor, name = tempfile.mkstemp(prefix="output-", suffix=".txt", dir=data_dir.parent)
    os.close(descriptor)
    process = Forked((*OPTIONS, "--data-dir", str(data_dir)), environment, name)
    gateway = Gateway(cast("subprocess.Popen[bytes]", process), data_dir, Path(name))
    try:
        yield gateway
    finally:
        kill(gateway)


def kill(gateway: Gateway) -> None:
    """SIGKILL, wherever it stands."""
    gateway.process.kill()
    gateway.wait()
