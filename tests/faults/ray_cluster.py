"""The gateway on a Ray of this machine, with real replicas behind Ray's proxy."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.end_to_end.served import alive, clean_environment
from tests.faults.form import until

REPOSITORY = Path(__file__).parents[2]
# Ray imports all of the gateway in several processes, and other tests run beside it.
READY_SECONDS = 300.0
END_SECONDS = 120.0
SHARED_MEMORY = Path("/dev/shm")
# Ray gives its own processes 30 s to start, which nothing changes and a busy machine may need.
ATTEMPTS = 5

ENVIRONMENT = {
    "GATEWAY_ENGINE": "simulated",
    "GATEWAY_AUTHENTICATION": "false",
    "PYTHONPATH": str(REPOSITORY),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # Workers would come last on a busy machine.
    "RAY_worker_niceness": "0",
    # Nobody is to be taken for dead because the machine is busy.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_failure_threshold": "100",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


class DriverEnded(Exception):
    """The driver has ended by itself; the message is its log."""


class Cluster:
    """Ray, Serve and the replicas. Use ``cluster()``."""

    def __init__(self, driver: subprocess.Popen[str], port: int, log: Path) -> None:
        self._driver = driver
        self._log = log
        self.base_url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def deploy(self, replicas: int | None, *, max_surge_percent: int = 0, **arguments: Any) -> None:
        """What ``serve deploy`` does with such a config file. ``replicas``: as many, which touches no other
        one while nothing else is changed; None leaves it to the arguments of the app."""
        deployment: dict[str, Any] = {"name": "Gateway", "max_surge_percent": max_surge_percent}
        if replicas is not None:
            deployment["num_replicas"] = replicas
        self._ask(
            deploy={
                "import_path": "deploy.ray_serve:app",
                "args": {"cpus": 0.01} | arguments,
                "deployments": [deployment],
            }
        )

    def replicas(self) -> dict[str, int]:
        """How many there are by their state, as RUNNING."""
        found = self._ask()
        assert "FAILED" not in found["says"], f"{found['says']}\n{self.log}"
        states: dict[str, int] = found["replicas"]
        return states

    def until_running(self, replicas: int) -> float:
        """Until there are so many, all of them run and none is on its way out; gives the seconds it took."""
        return until(
            lambda: self.replicas() == {"RUNNING": replicas},
            READY_SECONDS,
            f"{replicas} replicas\n{self.log}",
        )

    def processes(self) -> list[psutil.Process]:
        """All that live because of this Ray."""
        return psutil.Process(self._driver.pid).children(recursive=True)

    def replica_processes(self) -> set[psutil.Process]:
        """Of the replicas, also of those that start."""
        return {process for process in self.processes() if "ServeReplica" in title(process)}

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps(question) + "\n")
        self._driver.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the driver. Raises DriverEnded."""
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            self._driver.wait(END_SECONDS)
            raise DriverEnded(self.log)
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """In order, and everything; what is left is a failure."""
        processes = self.processes()
        assert self._driver.stdin is not None
        self._driver.stdin.close()
        try:
            assert self._driver.wait(END_SECONDS) == 0, self.log
        finally:
            left = alive(processes)
            for process in left:
                process.kill()
            self._driver.kill()
        assert not left, f"left behind: {left}\n{self.log}"


@contextmanager
def cluster(url: str, data_dir: Path, **settings: str) -> Iterator[Cluster]:
    """Ray with nothing deployed, ended afterwards; ``settings`` of the gateway by their environment names."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {"DATABASE_URL": url, "GATEWAY_DATA_DIR": str(data_dir)} | settings
    before = set(SHARED_MEMORY.glob("*plasma*"))
    ray = started(folder, environment)
    try:
        yield ray
    finally:
        ray.end()
    assert set(SHARED_MEMORY.glob("*plasma*")) <= before
    shutil.rmtree(folder, ignore_errors=True)


def started(folder: Path, environment: dict[str, str]) -> Cluster:
    """Ray, with as many attempts as it may need. Raises DriverEnded."""
    for attempt in range(1, ATTEMPTS + 1):
        ray = start(folder / str(attempt), environment)
        try:
            ray.answer()
            break
        except DriverEnded:
            if attempt == ATTEMPTS:
                raise
    return ray


def start(folder: Path, environment: dict[str, str]) -> Cluster:
    """A driver in a process of its own; does not wait for it."""
    folder.mkdir()
    log = folder / "driver.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Else Ray writes one into the home of whoever runs the tests.
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with log.open("wb") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.ray_driver", str(folder), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=clean_environment() | ENVIRONMENT | token | environment,
            cwd=REPOSITORY,
            start_new_session=True,
        )
    return Cluster(driver, port, log)


def title(process: psutil.Process) -> str:
    """What it calls itself; nothing where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
