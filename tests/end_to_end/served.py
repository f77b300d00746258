"""A gateway in a process of its own, and its rows."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import asyncpg
import psutil

from persistence.exact_text import from_column, json_from_column
from tests.end_to_end.forked import Forked

PROGRAM = "gateway.cli"
STARTED = "Try       curl"
START_SECONDS = 500.0
STOP_SECONDS = 60.0
# What a busy machine's disk takes is no outage, where a test does not say so. Logs are as in a terminal: JSON
# is for machines.
USUAL = {
    "GATEWAY_DATABASE_TIMEOUT_SECONDS": "30",
    "GATEWAY_COMMIT_WAIT_SECONDS": "60",
    "GATEWAY_LOG_FORMAT": "text",
}


@dataclass
class Gateway:
    """A gateway's process. ``output`` is all that it printed and logged."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    output_path: Path

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    @property
    def base_url(self) -> str:
        """Without the trailing ``/v1``."""
        line = next(line for line in self.output.splitlines() if line.startswith("Base URL"))
        return line.split()[-1].removesuffix("/v1")

    def wait_until_started(self) -> None:
        """Until it has printed its last line, or ended."""
        self.wait_for(lambda: STARTED in self.output)

    def wait_for(self, true: Any) -> None:
        """Until ``true()``, or the process has ended, or START_SECONDS have passed."""
        deadline = time.monotonic() + START_SECONDS
        while not true():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"not within {START_SECONDS} s:\n{self.output}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(STOP_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Everything that lives because of this gateway: its descendants and its PostgreSQL."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        postmaster = self.data_dir / "postgres" / "postmaster.pid"
        try:
            pid = int(postmaster.read_text().split()[0])
        except (FileNotFoundError, IndexError):
            # Not there yet, or not written, or no more.
            pid = 0
        # Below 0 while the cluster is being made.
        if pid > 0:
            server = psutil.Process(pid)
            found += [server, *server.children(recursive=True)]
        return found

    @contextmanager
    def hanging_postgresql(self) -> Iterator[None]:
        """While it lasts, the embedded server answers nothing."""
        server = psutil.Process(int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
        # Then it starts no other process.
        server.suspend()
        processes = [server, *server.children(recursive=True)]
        try:
            for process in processes:
                # One that was at its end has ended.
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def rows(self, where: str = "true", *values: object) -> list[dict[str, Any]]:
        """Rows with their text, decoded, oldest first."""
        socket_dir = (self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        return rows(f"postgresql://postgres@/postgres?host={socket_dir}", where, *values)

    def row(self, answer_id: str) -> dict[str, Any]:
        """The row of an answer, by the id that the client saw; of one that runs it comes a moment later."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = self.rows("id = $1::text::uuid", answer_id.split("-")[-1])
            return bool(found)

        self.wait_for(is_there)
        (row,) = found
        return row


def rows(url: str, where: str = "true", *values: object) -> list[dict[str, Any]]:
    """Rows behind ``url``, with their text."""

    async def fetch() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(url)
        try:
            found = await connection.fetch(f"SELECT * FROM message_full WHERE {where} ORDER BY id", *values)
        finally:
            await connection.close()
        return [decoded(dict(record)) for record in found]

    return asyncio.run(fetch())


def decoded(record: dict[str, Any]) -> dict[str, Any]:
    for name in ("meta_data", "messages", "details"):
        if record[name] is not None:
            record[name] = json_from_column(record[name])
    for name in ("query", "response", "error", "request_id"):
        if record[name] is not None:
            record[name] = from_column(record[name])
    return record


def launch(data_dir: Path, *options: str, program: str | None = None, **environment: str) -> Gateway:
    """Start ``chatglm-gateway serve`` on a free port; does not wait for it. ``program``: its module,
    PROGRAM itself where it is to be no fork."""
    data_dir.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="output-", suffix=".txt", dir=data_dir)
    arguments = ["--port", "0", "--data-dir", str(data_dir), *options]
    with open(descriptor, "wb") as output:
        if program is None and may_be_forked(options, environment):
            fork = Forked(arguments, clean_environment() | USUAL | environment, name)
            return Gateway(cast("subprocess.Popen[bytes]", fork), data_dir, Path(name))
        process = subprocess.Popen(
            [sys.executable, "-m", program or PROGRAM, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment() | USUAL | environment,
            # So that a test can send Ctrl-C to the whole group, as a terminal does.
            start_new_session=True,
        )
    return Gateway(process, data_dir, Path(name))


def may_be_forked(options: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Not vLLM, which has processes of its own, and not with variables that libraries read where they are
    imported."""
    engine = next((value for option, value in pairwise(options) if option == "--engine"), None)
    ours = all(name.startswith("GATEWAY_") or name == "DATABASE_URL" for name in environment)
    return engine in ("simulated", "upstream") and ours


def clean_environment() -> dict[str, str]:
    """This process's, without what would be a setting of the gateway."""
    settings = ("DATABASE_URL", "DATABASE_URL_FILE", "MODEL_PATH", "HOST", "PORT", "LOG_LEVEL")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GATEWAY_", "OTEL_")) and name not in settings
    }


@contextmanager
def running(
    data_dir: Path, *options: str, program: str | None = None, **environment: str
) -> Iterator[Gateway]:
    """A started gateway, ended afterwards; what it leaves behind is a failure."""
    gateway = launch(data_dir, *options, program=program, **environment)
    processes: list[psutil.Process] = []
    try:
        gateway.wait_until_started()
        processes = gateway.processes()
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.signal(signal.SIGTERM)
        try:
            gateway.wait()
        finally:
            left = alive(processes)
            for process in left:
                process.kill()
            if gateway.process.poll() is None:
                gateway.process.kill()
    assert not left, f"left behind: {left}\n{gateway.output}"


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end; multiprocessing's bookkeeper ends just after its parent."""
    deadline = time.monotonic() + STOP_SECONDS
    while (living := [process for process in processes if runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return living


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
