"""What Serve is asked for, and what a replica does beside being a gateway."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import yaml
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engine.base import EngineDead
from gateway.lifecycle import FLUSH_SECONDS, Lifecycle
from gateway.settings import InvalidSetting, Settings, load

pytest.importorskip("ray", reason="Ray is not installed")

from ray.serve.schema import ServeDeploySchema

from deploy.ray_serve import (
    USUAL_PLACES,
    Arguments,
    Gateway,
    LeavingClient,
    OneRequestId,
    app,
    gpus_of,
    places_of,
    serve_metrics,
    settings_of_replicas,
)

CONFIG = Path(__file__).parents[2] / "deploy" / "ray_serve.yaml"
URL = "postgresql://postgres@localhost/rows"


def settings(**given: Any) -> Settings:
    return load({"engine": "simulated", "database_url": URL} | given)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Of a simulated gateway with an external database."""
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("GATEWAY_ENGINE", "simulated")
    return monkeypatch


def options(arguments: Arguments) -> dict[str, Any]:
    """The deployment's options, as Serve has them."""
    deployment = app(arguments)._bound_deployment
    config: dict[str, Any] = deployment._deployment_config.model_dump()
    return config | {"actor": deployment.ray_actor_options, "name": deployment.name}


def test_replicas_without_a_database_of_their_own_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="external PostgreSQL"):
        settings_of_replicas(settings(database_url=None), 2)


def test_replicas_share_limits_and_ask_for_keys() -> None:
    shared = settings_of_replicas(settings(), 3)
    assert (shared.limits_store, shared.limits_gateways, shared.authenticates) == ("postgresql", 3, True)


def test_what_an_operator_says_holds() -> None:
    given = settings(limits_store="memory", limits_gateways=7, authentication=False)
    assert settings_of_replicas(given, 3) == given


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({}, USUAL_PLACES),
        ({"engine_args": {"max_num_seqs": 32}}, 32),
        ({"engine_args": {"max_num_seqs": 32, "data_parallel_size": 4}}, 128),
        ({"engine_args": {"max_num_seqs": 32}, "max_running_requests": 10}, 10),
    ],
)
def test_places_of_a_replica(given: dict[str, Any], places: int) -> None:
    assert places_of(settings(**given)) == places


@pytest.mark.parametrize(
    ("engine_args", "gpus"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2}, 2),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 2}, 8),
        ({"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}, 0),
    ],
)
def test_gpus_of_a_replica_are_those_that_vllm_uses(engine_args: dict[str, Any], gpus: int) -> None:
    assert gpus_of(settings(engine="vllm", engine_args=engine_args)) == gpus
    assert gpus_of(settings(engine_args=engine_args)) == 0


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "2", True])
def test_a_size_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidSetting, match="tensor_parallel_size must be a whole number"):
        gpus_of(settings(engine="vllm", engine_args={"tensor_parallel_size": wrong}))


def test_a_number_of_replicas_is_fixed_without_a_larger_one(environment: pytest.MonkeyPatch) -> None:
    found = options(Arguments(min_replicas=2))
    assert (found["name"], found["num_replicas"], found["autoscaling_config"]) == ("Gateway", 2, None)


def test_autoscaling_aims_below_what_a_replica_runs_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_MAX_RUNNING_REQUESTS", "100")
    found = options(Arguments(min_replicas=1, max_replicas=4))["autoscaling_config"]
    assert (found["min_replicas"], found["max_replicas"]) == (1, 4)
    assert found["target_ongoing_requests"] == 75


def test_fewer_replicas_at_most_than_at_least_are_refused(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSetting, match="max_replicas"):
        app(Arguments(min_replicas=2, max_replicas=1))


def test_the_gateways_queue_and_its_timeout_are_the_ones_that_bind(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_MAX_RUNNING_REQUESTS", "100")
    environment.setenv("GATEWAY_QUEUE_MAX_REQUESTS", "50")
    environment.setenv("GATEWAY_REQUEST_TIMEOUT_SECONDS", "300")
    found = options(Arguments(cpus=2, gpus=0.5))
    assert found["max_ongoing_requests"] > 100 + 50
    assert found["graceful_shutdown_timeout_s"] > 300 + FLUSH_SECONDS
    assert found["actor"] == {"num_cpus": 2, "num_gpus": 0.5}


def test_a_gateway_without_a_queue_can_be_deployed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_QUEUE_MAX_REQUESTS", "0")
    assert options(Arguments())["max_queued_requests"] == 1


def test_the_config_file_is_one_that_serve_takes(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    for name, value in application.runtime_env["env_vars"].items():
        assert name.removeprefix("GATEWAY_").lower() in Settings.model_fields
        environment.setenv(name, value)
    (tmp_path / "config.json").write_text("{}")
    environment.setenv("GATEWAY_MODEL", str(tmp_path))
    assert config.http_options.request_timeout_s is not None
    assert config.http_options.request_timeout_s > load().request_timeout_seconds
    assert options(Arguments.model_validate(application.args))["autoscaling_config"]["max_replicas"] == 4


@pytest.mark.parametrize("proxy", ["tells", "says nothing", "can't be asked", "has ended the talk"])
async def test_a_client_that_leaves_is_heard_whatever_the_proxy_says(proxy: str) -> None:
    began, said, heard = asyncio.Event(), asyncio.Event(), []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        heard.append((await receive())["type"])

    async def receive() -> Message:
        if proxy == "can't be asked":
            raise RuntimeError("task cancelled")
        if proxy == "has ended the talk":
            raise asyncio.CancelledError
        await said.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    request = asyncio.create_task(LeavingClient(inner, seconds=60.0)({"type": "http"}, receive, send))
    await began.wait()
    # What is raised is raised before Ray cancels the request.
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard == []
    request.cancel()
    if proxy == "tells":
        said.set()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert heard == ["http.disconnect"]


async def test_what_does_not_listen_is_cancelled_after_all() -> None:
    began, ended = asyncio.Event(), []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def nothing(*message: Message) -> Message:
        return {"type": "http.request"}

    app = LeavingClient(inner, seconds=0.0)
    request = asyncio.create_task(app({"type": "http"}, nothing, cast("Send", nothing)))
    await began.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert ended == [True]


async def test_what_a_request_raises_is_told() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("wrong")

    async def nothing(*message: Message) -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ValueError, match="wrong"):
        await LeavingClient(inner)({"type": "http"}, nothing, cast("Send", nothing))


@pytest.mark.parametrize(("told", "sent"), [("one", []), ("another", ["one"])])
async def test_the_proxys_request_id_is_not_repeated(told: str, sent: list[str]) -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(headers={"x-request-id": "one", "x-other": "one"})(scope, receive, send)

    transport = httpx.ASGITransport(OneRequestId(inner))
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
        answer = await client.get("/", headers={"x-request-id": told})
    assert (answer.headers.get_list("x-request-id"), answer.headers["x-other"]) == (sent, "one")


# Serve awaits it; here the garbage collector calls it.
@pytest.mark.filterwarnings("ignore:coroutine '.*__del__' was never awaited:RuntimeWarning")
async def test_a_replica_whose_engine_is_dead_is_not_healthy() -> None:
    class Dead:
        async def check(self) -> None:
            raise EngineDead("gone")

    replica = Gateway.__new__(Gateway)
    replica._lifecycle = cast("Lifecycle", SimpleNamespace(engine=Dead()))
    with pytest.raises(EngineDead):
        await replica.check_health()


def test_each_replica_of_a_machine_has_a_port_for_its_metrics() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        port = serve_metrics("127.0.0.1", first)
        assert port > first
        assert "python_info" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_metrics_go_to_the_address_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.ray_serve.get_node_ip_address", lambda: "127.0.0.2")
    with socket.create_server(("127.0.0.2", 0)) as free:
        first = free.getsockname()[1]
    port = serve_metrics("node", first)
    assert "python_info" in httpx.get(f"http://127.0.0.2:{port}/metrics").text


def test_only_a_port_that_is_taken_is_passed_over() -> None:
    # An address of nobody (RFC 5737).
    with pytest.raises(OSError, match=r"Metrics: 203\.0\.113\.1:9400: ") as raised:
        serve_metrics("203.0.113.1", 9400)
    assert raised.value.errno == errno.EADDRNOTAVAIL
