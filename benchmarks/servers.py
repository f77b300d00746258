"""The servers under test: how each is started, known to be ready, and stopped with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from sqlalchemy import func, select

from benchmarks.process import belonging_to
from persistence.database import Database
from persistence.tables import message

REPOSITORY = Path(__file__).parents[1]
MODEL_NAME = "benchmark"
START_SECONDS = 180.0
STOP_SECONDS = 40.0

# Fields of vLLM's AsyncEngineArgs. This executor keeps the worker inside the engine's process; the usual one
# would take a core from the front end, because engine and worker wait for each other by spinning.
# max_num_batched_tokens is given because vLLM's default depends on who constructs the engine.
ENGINE_ARGS: Mapping[str, str | int | bool] = {
    "worker_cls": "benchmarks.free_worker.FreeWorker",
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
}
ENVIRONMENT: Mapping[str, str] = {
    "PYTHONPATH": str(REPOSITORY),  # the engine's process imports the worker's class
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one kind of server: its command line and the path that answers 200 once it is ready."""

    command: list[str]
    ready_path: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready: its port, and the process that speaks HTTP, tokenises and detokenises."""

    port: int
    pid: int


class ServerError(Exception):
    """A server did not start, did not stop, or did not do what it is measured for."""


def gateway(model: Path, port: int, data_dir: Path, module: str = "gateway.cli") -> Launch:
    """Our gateway, writing a row for each request into the embedded database under ``data_dir``."""
    command = [sys.executable, "-m", module, "serve", "--engine", "vllm", "--no-access-log"]
    command += ["--model", str(model), "--served-model-name", MODEL_NAME, "--port", str(port)]
    command += ["--data-dir", str(data_dir), "--engine-args", json.dumps(dict(ENGINE_ARGS))]
    return Launch(command, "/health/ready")


def without_rows(model: Path, port: int, data_dir: Path) -> Launch:
    """Our gateway with its database, and no row in it."""
    return gateway(model, port, data_dir, "benchmarks.without_rows")


def vllm(model: Path, port: int, data_dir: Path) -> Launch:
    """vLLM's own server (what ``vllm serve`` runs); it keeps no rows, so ``data_dir`` stays empty."""
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(model), "--served-model-name", MODEL_NAME]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
    for name, value in ENGINE_ARGS.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    return Launch(command, "/health")


LAUNCHERS: Mapping[str, Callable[[Path, int, Path], Launch]] = {
    "gateway": gateway,
    "vllm": vllm,
    "without-rows": without_rows,
}


@contextlib.contextmanager
def running(name: str, model: Path, data_dir: Path) -> Iterator[Server]:
    """The server called ``name`` from ready to stopped; raises ServerError with its log's end if it fails."""
    port = free_port()
    launch = LAUNCHERS[name](model, port, data_dir)
    log = data_dir.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command,
            cwd=data_dir.parent,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}{launch.ready_path}")
        yield Server(port, process.pid)
    except Exception as error:
        error.add_note(f"The end of {name}'s log:\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        stop(process, data_dir)


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Until ``url`` answers 200. Raises ServerError when the server ends or START_SECONDS are over."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"The server ended with status {process.returncode} before it was ready.")
        with contextlib.suppress(URLError, TimeoutError, ConnectionError), urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise ServerError(f"The server was not ready after {START_SECONDS:.0f} s.")


def stop(process: subprocess.Popen[bytes], data_dir: Path) -> None:
    """SIGTERM to the front end, as an operator would; after STOP_SECONDS what is left is killed, and said."""
    process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while process.poll() is None or belonging_to(process.pid, data_dir):
        if time.monotonic() > deadline:
            left = belonging_to(process.pid, data_dir)
            print("Killed, did not stop by themselves:", *left, sep="\n  ", file=sys.stderr)
            for member in left:
                member.kill()
            process.wait()
            return
        time.sleep(0.1)


def count_rows(data_dir: Path) -> int:
    """How many completed requests a gateway, since stopped, has left in its embedded database."""

    async def count() -> int:
        database = Database(None, data_dir)
        await database.connect()
        try:
            async with database.engine.connect() as connection:
                completed = select(func.count()).where(message.c.status == "completed")
                return (await connection.execute(completed)).scalar_one()
        finally:
            await database.close()

    return asyncio.run(count())


def free_port() -> int:
    """A TCP port that nothing on 127.0.0.1 listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
