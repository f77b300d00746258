from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.served import Gateway, running

# Kept between runs: the demo model is converted once.
DEMO_DATA = Path(__file__).parents[2] / "build" / "test-demo"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A fresh data directory with a path short enough for a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def simulated() -> Iterator[Gateway]:
    """A gateway with the simulated engine."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def slow() -> Iterator[Gateway]:
    """A simulated gateway that takes its time, and says so in comments between the events."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    options = ("--engine", "simulated", "--simulated-ttft-ms", "300", "--simulated-tokens-per-second", "20")
    with running(folder, *options, GATEWAY_SSE_KEEP_ALIVE_SECONDS="0.02") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def locked() -> Iterator[Gateway]:
    """A simulated gateway beyond loopback, whose settings say nothing of authentication: it asks for keys."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", "--host", "0.0.0.0", "--log-level", "debug") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(simulated: Gateway) -> Iterator[httpx.Client]:
    """An HTTP client of the simulated gateway."""
    with httpx.Client(base_url=simulated.base_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="package")
def demo() -> Iterator[Gateway]:
    """A gateway with the demo model on the real engine."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    # So long the real engine goes on with a database that hangs.
    with running(DEMO_DATA, GATEWAY_DATABASE_TIMEOUT_SECONDS="5") as gateway:
        yield gateway


@pytest.fixture(scope="package")
def chatglm3() -> Iterator[Gateway]:
    """A gateway with the tests' ChatGLM3 checkpoint on the real engine: it answers as chatglm3_scripts says,
    and writes noise where that says nothing."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    from tests.chatglm3.checkpoint import real_tokenizer_model, small_tokenizer_model, write_checkpoint
    from tests.end_to_end.chatglm3_scripts import SCRIPTS

    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    source = real_tokenizer_model() or small_tokenizer_model(folder)
    write_checkpoint(folder / "some-folder", source, SCRIPTS)
    with running(folder / "data", "--model", str(folder / "some-folder")) as gateway:
        yield gateway
    assert "remote code was loaded" not in gateway.output
    shutil.rmtree(folder, ignore_errors=True)
