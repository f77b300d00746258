"""The gateway on Ray Serve: each replica is a whole gateway with its own engine and GPUs, and all of them
write to one PostgreSQL.

``serve run deploy.ray_serve:app`` on one machine, ``serve deploy deploy/ray_serve.yaml`` on a cluster, both
from this repository's folder. ``docs/deploy-ray.md`` says more.
"""

# Without "from __future__ import annotations": Serve reads the annotation of ``app`` as a class.
import asyncio
import errno
import logging
from functools import partial
from math import prod

from fastapi import FastAPI
from prometheus_client import start_http_server
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig
from ray.util import get_node_ip_address
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.app import create_app, listening_anywhere
from gateway.lifecycle import FLUSH_SECONDS, Lifecycle
from gateway.logs import configure_logging
from gateway.settings import InvalidSetting, Settings, load

log = logging.getLogger("gateway.ray")

# What vLLM takes for max_num_seqs where nothing says it and the GPU has less than 70 GiB.
USUAL_PLACES = 256
# Requests that need no place, as /health/ready, beside those that run or wait in the gateway's queue.
OTHER_REQUESTS = 100
# More requests go to a replica before its queue grows: a new one takes minutes to load its weights.
WANTED_SHARE = 0.75
# After the last request: flushed rows, and the engine's end.
STOP_SECONDS = FLUSH_SECONDS + 30.0
# Ray replaces a replica when its health check has failed three times in a row.
HEALTH_CHECK_SECONDS = 5.0
# To abort at the engine and close the row.
LEAVING_SECONDS = 5.0
# How many replicas of one machine can serve their metrics.
METRICS_PORTS = 64
# As metrics_host: each machine's own address, as the others of the cluster know it.
NODE = "node"


class Arguments(BaseModel):
    """What Serve is told, beside the gateway's own settings: as ``serve run deploy.ray_serve:app
    min_replicas=2``, or as ``args`` in a config file."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(default=1, ge=1, description="Replicas that are always there.")
    max_replicas: int | None = Field(
        default=None, ge=1, description="Most replicas under load; default: min_replicas, no autoscaling."
    )
    target_ongoing_requests: float | None = Field(
        default=None,
        gt=0,
        description="Requests per replica that autoscaling aims at, running and waiting; default: three "
        "quarters of a replica's places.",
    )
    upscale_delay_seconds: float = Field(
        default=30.0, ge=0, description="How long there must be more than that."
    )
    downscale_delay_seconds: float = Field(default=600.0, ge=0, description="How long there must be less.")
    cpus: float = Field(default=1.0, ge=0, description="CPUs that Ray keeps for a replica.")
    gpus: float | None = Field(
        default=None, ge=0, description="GPUs of a replica; default: as many as engine_args makes vLLM use."
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Address that replicas serve their metrics on; 'node': that of each one's machine in "
        "the cluster.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535 - METRICS_PORTS,
        description="Each replica serves its metrics, to anyone, on the first port from this one on that is "
        "free on its machine; default: they do not.",
    )


@serve.ingress()
class Gateway:
    """A replica: a gateway whose socket is Ray's proxy."""

    def __init__(self, settings: Settings, metrics_host: str, metrics_port: int | None) -> None:
        configure_logging(settings.log_level, settings.log_format)
        self._lifecycle = Lifecycle(settings)
        self._metrics = (metrics_host, metrics_port)
        self._started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once, on the loop of all requests. Raises StartFailed, and OSError where there
        is no port for the metrics; Serve then tries again with another replica."""
        try:
            await self._lifecycle.start()
            host, port = self._metrics
            if port is not None:
                serve_metrics(host, port)
        except BaseException:
            # Nobody else does: Ray kills a replica whose start has failed.
            await self._lifecycle.stop()
            self._started.set_result(False)
            raise
        self._started.set_result(True)
        app = create_app(self._lifecycle.settings, self._lifecycle)
        app.add_middleware(OneRequestId)
        app.add_middleware(LeavingClient)
        return app

    async def check_health(self) -> None:
        """Raises EngineDead while neither the engine nor a fallback answers: Ray then replaces the replica.
        Not while PostgreSQL is away, which another replica would need as well."""
        await self._lifecycle.engine.check()

    async def __del__(self) -> None:
        """Awaited by Serve when a replica is removed: after its last request, or while it starts."""
        self._lifecycle.interrupt()
        if await self._started:
            await self._lifecycle.stop()


class LeavingClient:
    """Pure ASGI middleware. When a client leaves, Ray's proxy cancels its request; that it says so to
    ``receive`` too may come before or after that, or not at all. The gateway is to hear of a client that
    has left: a cancelled request is to it one that it ends itself, as at its shutdown. What does not end
    within ``seconds`` is cancelled after all.
    """

    def __init__(self, app: ASGIApp, seconds: float = LEAVING_SECONDS) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left = asyncio.Event()
        running = asyncio.ensure_future(self._app(scope, partial(received, receive, left), send))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            left.set()
            try:
                await asyncio.wait({running}, timeout=self._seconds)
            finally:
                running.cancel()
                await asyncio.wait({running})
            raise


async def received(receive: Receive, left: asyncio.Event) -> Message:
    """What ``receive`` gives, or that the client is gone as soon as ``left`` says so.

    Where Ray has ended its talk with the proxy, as it may before it cancels the request of a client that has
    left, ``receive`` raises: nothing is known of the client then, until the request is cancelled or ends.
    """
    message, leaving = asyncio.ensure_future(receive()), asyncio.ensure_future(left.wait())
    try:
        await asyncio.wait({message, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not left.is_set() and (message.cancelled() or message.exception() is not None):
            log.debug("the proxy says no more of a request: %r", message)
            await leaving
        return {"type": "http.disconnect"} if left.is_set() else message.result()
    finally:
        message.cancel()
        leaving.cancel()


class OneRequestId:
    """Pure ASGI middleware. Ray's proxy gives each request an ``x-request-id`` where the client has not, and
    puts it on the answer: the gateway's own, which is the same, would be there a second time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = [value for name, value in scope.get("headers", ()) if name == b"x-request-id"]

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value)
                    for name, value in message.get("headers", ())
                    if name != b"x-request-id" or value not in given
                ]
            await send(message)

        await self._app(scope, receive, send_once)


def serve_metrics(host: str, first_port: int) -> int:
    """Serve this process's metrics, from a thread and for its life; gives the port. Gauges are as old as the
    last look at the loop, half a second. Raises OSError when all ports are taken, or there is no such
    address."""
    address: str = get_node_ip_address() if host == NODE else host  # type: ignore[no-untyped-call]
    for port in range(first_port, first_port + METRICS_PORTS):
        try:
            start_http_server(port, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(error.errno, f"Metrics: {address}:{port}: {error.strerror}") from error
        else:
            return port
    raise OSError(
        errno.EADDRINUSE,
        f"Metrics: no port from {first_port} to {first_port + METRICS_PORTS - 1} is free on {address}",
    )


def app(arguments: Arguments) -> Application:
    """What Serve runs. Settings are read here, once, and go to all replicas. Raises InvalidSetting."""
    replicas = arguments.max_replicas or arguments.min_replicas
    settings = settings_of_replicas(load(), replicas)
    if replicas < arguments.min_replicas:
        raise InvalidSetting("max_replicas: it is less than min_replicas")
    places = places_of(settings)
    ongoing = places + settings.queue_max_requests + OTHER_REQUESTS
    gpus = gpus_of(settings) if arguments.gpus is None else arguments.gpus
    autoscaling = AutoscalingConfig(
        min_replicas=arguments.min_replicas,
        max_replicas=replicas,
        target_ongoing_requests=arguments.target_ongoing_requests or WANTED_SHARE * places,
        upscale_delay_s=arguments.upscale_delay_seconds,
        downscale_delay_s=arguments.downscale_delay_seconds,
    )
    fixed = replicas == arguments.min_replicas
    deployment = serve.deployment(
        num_replicas=replicas if fixed else None,
        autoscaling_config=None if fixed else autoscaling,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": gpus},
        # Ray passes on all that the gateway has room for: who waits, waits in the gateway's queue.
        max_ongoing_requests=ongoing,
        # Ray takes no 0. The gateway has room for all that Ray passes on.
        max_queued_requests=max(1, settings.queue_max_requests),
        # No request takes longer, so none is cut off.
        graceful_shutdown_timeout_s=settings.request_timeout_seconds + STOP_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        logging_config=LoggingConfig(enable_access_log=False),
    )(Gateway)
    bound: Application = deployment.bind(settings, arguments.metrics_host, arguments.metrics_port)
    return bound


def settings_of_replicas(settings: Settings, replicas: int) -> Settings:
    """``settings`` for so many gateways of one database whose address is not known. Raises InvalidSetting."""
    if settings.database_url is None:
        raise InvalidSetting(
            "database_url: replicas need an external PostgreSQL that all of them share; set DATABASE_URL, "
            "and run 'chatglm-gateway migrate' with it first."
        )
    shared = {"limits_store": "postgresql", "limits_gateways": replicas}
    unset = {name: value for name, value in shared.items() if name not in settings.model_fields_set}
    return listening_anywhere(settings).model_copy(update=unset)


def places_of(settings: Settings) -> int:
    """How many requests one replica runs at once, as far as is known before its engine is."""
    if settings.max_running_requests is not None:
        return settings.max_running_requests
    sequences = whole_number(settings, "max_num_seqs", USUAL_PLACES)
    return sequences * whole_number(settings, "data_parallel_size", 1)


def gpus_of(settings: Settings) -> int:
    """How many GPUs vLLM uses for ``engine_args``; 0 where it gets them from Ray, or there is no vLLM."""
    if settings.engine != "vllm" or settings.engine_args.get("distributed_executor_backend") == "ray":
        return 0
    parallel = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return prod(whole_number(settings, name, 1) for name in parallel)


def whole_number(settings: Settings, name: str, default: int) -> int:
    """``engine_args[name]``. Raises InvalidSetting."""
    value = settings.engine_args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSetting(f"engine_args: {name} must be a whole number of at least 1")
    return value
