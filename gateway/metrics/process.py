"""The gateway's process: what runs in it, since when, and how late its event loop is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import Counter, Gauge, Histogram

from gateway.metrics.scrape import leave
from gateway.metrics.watched import refresh

log = logging.getLogger("gateway.metrics")

PAUSE_SECONDS = 0.5

# prometheus_client's Info can't be told by several processes together.
INFO = Gauge(
    "gateway_info", "1; what runs here.", ["version", "engine", "model"], multiprocess_mode="livemax"
)
STARTED = Gauge(
    "gateway_start_time_seconds",
    "When the gateway had started, in seconds since 1970.",
    multiprocess_mode="livemax",
)
LOOP_LAG = Histogram(
    "gateway_event_loop_lag_seconds",
    "How much later than it should the event loop did something, looked at twice a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SPANS_EXPORTED = Counter("gateway_spans_exported", "Spans that the collector took.")
SPANS_DROPPED = Counter("gateway_spans_dropped", "Spans that were not sent, by why.", ["reason"])

# So that the first one is seen as one more, not as where the counter begins.
for _reason in ("queue_full", "not_taken", "shutdown"):
    SPANS_DROPPED.labels(_reason)


class Pulse:
    """What happens all the time, between ``start`` and ``stop``: the loop's lag is observed, and gauges are
    set, which other processes may read. ``clock`` is in seconds."""

    def __init__(
        self, pause_seconds: float = PAUSE_SECONDS, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self, engine: str, model: str) -> None:
        """The gateway has started, with this model on this engine."""
        INFO.labels(version("chatglm-gateway"), engine, model).set(1)
        STARTED.set(time.time())
        self._tell()
        self._task = asyncio.create_task(self._run(), name="metrics")

    async def stop(self) -> None:
        """Tell for the last time. Safe to call twice, and without a start."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._tell()
        leave()

    async def _run(self) -> None:
        while True:
            due = self._clock() + self._pause_seconds
            await asyncio.sleep(self._pause_seconds)
            LOOP_LAG.observe(max(0.0, self._clock() - due))
            self._tell()

    def _tell(self) -> None:
        try:
            refresh()
        except Exception:
            # A bug of ours, which must end neither the looks at the loop nor the gateway.
            log.exception("gauges could not be set")
