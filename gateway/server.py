"""The gateway as a process: its socket, its signals, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

import uvicorn
import uvloop

from gateway import metrics
from gateway.app import create_app
from gateway.connections import Connections
from gateway.http_protocol import Bounds, HttpProtocol
from gateway.lifecycle import FLUSH_SECONDS, Lifecycle, StartFailed, StartInterrupted
from gateway.logs import configure_logging, flush
from gateway.progress import say
from gateway.service_manager import ServiceManager
from gateway.settings import Settings, mask_password
from persistence import api_keys
from persistence.database import DatabaseUnavailable

log = logging.getLogger("gateway.server")

CLOSE_SECONDS = 5
BACKLOG = 2048

# What the end takes at most after the drain: connections, rows, engine and database.
AFTER_DRAIN_SECONDS = CLOSE_SECONDS + FLUSH_SECONDS + 30

# Files beside connections: the engine's and the database's, libraries, the journal.
OTHER_FILES = 512


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0, or 1 when the start failed, 130 when it was
    interrupted."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        say(f"Can't listen on {settings.host}:{settings.port}: {error.strerror}.", logging.ERROR)
        return 1
    try:
        with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            manager = ServiceManager()
            return runner.run(manager.watched(serve(settings, listener, manager)))
    finally:
        flush()


async def serve(settings: Settings, listener: socket.socket, manager: ServiceManager) -> int:
    """Start the parts, serve on ``listener``, end the parts; ``manager`` is told."""
    lifecycle = Lifecycle(settings)
    signals = Signals(lifecycle, manager)
    with signals.caught():
        try:
            say(f"chatglm-gateway {version('chatglm-gateway')}")
            await lifecycle.start()
            server = Server(
                uvicorn.Config(
                    create_app(settings, lifecycle),
                    lifespan="off",
                    loop="none",
                    http=protocol_of(settings),  # type: ignore[arg-type]
                    ws="none",
                    access_log=False,
                    log_config=None,
                    server_header=False,
                    proxy_headers=False,
                    backlog=BACKLOG,
                    timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]
                    timeout_graceful_shutdown=CLOSE_SECONDS,
                ),
                manager,
            )
            signals.server = server
            freeze_heap()
            # Whoever reads the address below may connect at once.
            listener.listen(BACKLOG)
            for line in banner(settings, lifecycle, listener, await without_key(lifecycle)):
                say(line)
            await server.serve([listener])
        except StartFailed as failure:
            say(f"The gateway can't start: {failure}", logging.ERROR)
            return 1
        except StartInterrupted:
            say("Interrupted.")
            return 130
        finally:
            await lifecycle.stop()
            gc.unfreeze()
    return 0


def protocol_of(settings: Settings) -> Callable[..., HttpProtocol]:
    """What reads each connection, within the bounds that are set."""
    bounds = Bounds(
        url_bytes=settings.max_url_bytes,
        headers=settings.max_headers,
        header_bytes=settings.max_header_bytes,
        header_seconds=settings.header_timeout_seconds,
        send_seconds=settings.send_timeout_seconds,
    )
    most = min(settings.max_connections, room_for(settings.max_connections))
    if most < settings.max_connections:
        log.warning("max_connections is %d here: more open files are not allowed", most)
    connections = Connections(most, settings.max_connections_per_address)
    metrics.watch_connections(connections)
    return partial(HttpProtocol, bounds=bounds, open_connections=connections)


def room_for(connections: int) -> int:
    """How many connections may be open, after asking for as many beside OTHER_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(1, soft - OTHER_FILES)


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: ``Signals`` has them."""

    def __init__(self, config: uvicorn.Config, manager: ServiceManager) -> None:
        super().__init__(config)
        self._manager = manager

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._manager.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Signals:
    """SIGTERM and SIGINT: the first one ends the gateway in order, a second one at once."""

    def __init__(self, lifecycle: Lifecycle, manager: ServiceManager) -> None:
        self._lifecycle = lifecycle
        self._manager = manager
        self.server: Server | None = None
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals of the running loop's process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _received(self) -> None:
        if self.server is None:
            self._lifecycle.interrupt()
        elif self._draining is None:
            log.info("shutting down: running requests may finish")
            settings = self._lifecycle.settings
            longest = settings.drain_notice_seconds + settings.drain_seconds + AFTER_DRAIN_SECONDS
            self._manager.stopping(longest)
            self._draining = asyncio.create_task(self._drain_and_exit(self.server))
        else:
            log.warning("shutting down at once")
            self._lifecycle.generations.hurry()

    async def _drain_and_exit(self, server: Server) -> None:
        # The socket stays open meanwhile: readiness can say what happens, and new requests get a 503.
        await self._lifecycle.give_notice()
        await self._lifecycle.drain()
        server.should_exit = True


def freeze_heap() -> None:
    """What was made at the start is there for good: the garbage collector need not look at it again
    while tokens wait (as vLLM's own server does). Undone at the end, for libraries that clean up."""
    gc.collect()
    gc.freeze()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before a model is loaded. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


async def without_key(lifecycle: Lifecycle) -> bool:
    """Whether nobody can come in with a key, and somebody would have to."""
    settings = lifecycle.settings
    if not settings.authenticates:
        return False
    try:
        return not await api_keys.any_usable(lifecycle.database, settings.database_timeout_seconds)
    except DatabaseUnavailable as error:
        log.warning("whether there are API keys is not known: %s", error)
        return False


def banner(
    settings: Settings, lifecycle: Lifecycle, listener: socket.socket, without_key: bool
) -> Iterator[str]:
    """What is served where, and a line to try it."""
    port = listener.getsockname()[1]
    wildcard = settings.host in ("0.0.0.0", "::")  # noqa: S104
    host = "127.0.0.1" if wildcard else f"[{settings.host}]" if ":" in settings.host else settings.host
    name = lifecycle.engine.card.name
    rows = mask_password(settings.database_url) if settings.database_url else f"{settings.data_dir}/postgres"
    url = f"http://{host}:{port}/v1"
    question = '{"role":"user","content":"What is the capital of France?"}'
    body = f'{{"messages":[{question}],"temperature":0,"max_tokens":64,"stream":true}}'
    yield ""
    yield f"Base URL  {url}"
    yield f"Model     {name}"
    yield f"Data      {settings.data_dir}  (rows: {rows})"
    headers = "-H 'content-type: application/json'"
    if settings.authenticates:
        headers = f'-H "authorization: Bearer $API_KEY" {headers}'
        yield "Access    with an API key, or after a login"
    if without_key:
        where = "" if settings.database_url else f" --data-dir {shlex.quote(str(settings.data_dir))}"
        yield "No key    there is none yet; make one, which is printed once:"
        yield f"          API_KEY=$(chatglm-gateway keys create --user me{where})"
    yield f"Try       curl -N {url}/chat/completions {headers} -d {shlex.quote(body)}"
