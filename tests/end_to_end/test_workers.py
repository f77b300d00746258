"""Several worker processes under uvicorn's own supervisor: their metrics are one, their logs are ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from persistence.database import Database
from persistence.embedded import EmbeddedPostgres
from tests.end_to_end.served import clean_environment, rows

SECONDS = 400.0
BODY = {"messages": [{"role": "user", "content": "hello"}]}
SECRET = "in-a-query-string"
STARTED = "Application startup complete."
JOURNAL_BYTES = 2**20
ANSWERED = (
    'gateway_requests_total{caller="anonymous",model="simulated",outcome="completed",'
    'route="/v1/chat/completions"}'
)
TOKENS = 'gateway_tokens_total{kind="completion",model="simulated"}'


@dataclass
class Workers:
    """Two of them; ``folder`` has what their metrics are written to, and all that they log."""

    supervisor: psutil.Popen
    folder: Path
    url: str
    database_url: str

    @property
    def processes(self) -> list[psutil.Process]:
        """Those that serve; Python's own bookkeeper is none."""
        return [
            child
            for child in self.supervisor.children()
            if any("spawn_main" in argument for argument in child.cmdline())
        ]

    @property
    def metrics_folder(self) -> Path:
        return self.folder / "metrics"

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    @property
    def records(self) -> list[dict[str, Any]]:
        """What the workers have logged; the supervisor and what is before a worker's start write text."""
        whole = [line for line in self.output.split("\n")[:-1] if line.startswith("{")]
        return [json.loads(line) for line in whole]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of requests that somebody has asked for."""
        return [record for record in self.records if record["logger"] == "gateway.access"]

    def ask(self, worker: psutil.Process) -> None:
        """This one: the others stand still meanwhile."""
        others = [other for other in self.processes if other.pid != worker.pid]
        for other in others:
            other.suspend()
        try:
            url = f"{self.url}/v1/chat/completions?api-key={SECRET}"
            answer = httpx.post(url, json=BODY, timeout=SECONDS)
            assert answer.status_code == 200
        finally:
            for other in others:
                other.resume()

    def metrics(self) -> dict[str, float]:
        """As whoever of them says who is asked, by names and labels as they stand there."""
        text = httpx.get(f"{self.url}/metrics", timeout=SECONDS).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert self.supervisor.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)


async def migrate(url: str) -> None:
    database = Database(url, Path())
    await database.connect()
    await database.migrate()
    await database.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    postgres = EmbeddedPostgres(folder)
    database_url = postgres.start()
    asyncio.run(migrate(database_url))
    (folder / "metrics").mkdir()
    environment = {
        "DATABASE_URL": database_url,
        "GATEWAY_DATA_DIR": str(folder),
        "GATEWAY_ENGINE": "simulated",
        "GATEWAY_AUTHENTICATION": "false",
        "GATEWAY_JOURNAL_MAX_BYTES": str(JOURNAL_BYTES),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    # A worker that stands still for a moment is not dead.
    options = ["--workers", "2", "--port", "0", "--timeout-worker-healthcheck", "600"]
    with (folder / "output.txt").open("wb") as output:
        supervisor = psutil.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "gateway.app:create_app", *options],
            env=clean_environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    workers = Workers(supervisor, folder, "", database_url)
    try:
        workers.wait_for(lambda: workers.output.count(STARTED) == 2)
        (line,) = (line for line in workers.output.splitlines() if "Uvicorn running on" in line)
        workers.url = next(word for word in line.split() if word.startswith("http://"))
        yield workers
    finally:
        if supervisor.poll() is None:
            processes = [supervisor, *supervisor.children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=SECONDS)
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_metrics_of_two_workers_add_up(workers: Workers) -> None:
    first, second = workers.processes
    for worker in (first, second, second):
        workers.ask(worker)
    assert len({row["gateway_id"] for row in rows(workers.database_url)}) == 2
    workers.wait_for(lambda: len(workers.lines) == 3)
    assert {(line["path"], line["status"]) for line in workers.lines} == {("/v1/chat/completions", 200)}
    assert SECRET not in workers.output
    # Each says once that it has started, in the form of all others.
    assert [record["logger"] for record in workers.records if record["message"] == STARTED] == [
        "uvicorn.error"
    ] * 2
    for _ in range(4):
        found = workers.metrics()
        assert (found[ANSWERED], found[TOKENS]) == (3, 3 * len("hello"))
        # Each has a journal of its own; the engine of each is up.
        assert (found["gateway_journal_max_bytes"], found["gateway_engine_up"]) == (2 * JOURNAL_BYTES, 1)
        assert found["gateway_rows_lost"] == 0

    # What one that was killed has counted stays; what was true of it is true no more. No other is started
    # meanwhile.
    workers.supervisor.suspend()
    second.kill()
    workers.wait_for(lambda: second.status() == psutil.STATUS_ZOMBIE)
    found = workers.metrics()
    assert (found[ANSWERED], found["gateway_journal_max_bytes"]) == (3, JOURNAL_BYTES)

    workers.supervisor.terminate()
    workers.supervisor.resume()
    workers.supervisor.wait(SECONDS)
    assert list(workers.metrics_folder.glob("gauge_live*")) == []
    assert list(workers.metrics_folder.glob("counter_*")) != []
