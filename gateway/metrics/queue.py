"""Who waits, who has limits, and who is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from gateway.metrics.watched import watch

if TYPE_CHECKING:
    from gateway.admission.fair_queue import FairQueue
    from gateway.connections import Connections
    from gateway.limits.memory import MemoryLimiter

QUEUE_WAIT = Histogram(
    "gateway_queue_wait_seconds",
    "From a request's arrival in the gateway's queue to its place at the engine.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
QUEUE_DEPTH = Gauge(
    "gateway_queue_depth", "Requests that wait for a place at the engine.", multiprocess_mode="livesum"
)
QUEUE_CALLERS = Gauge(
    "gateway_queue_callers", "Callers who have requests that wait.", multiprocess_mode="livesum"
)
PLACES = Gauge("gateway_engine_places", "Places at the engine; 0: no bound.", multiprocess_mode="livesum")
PLACES_TAKEN = Gauge(
    "gateway_engine_places_taken", "Places at the engine that requests hold.", multiprocess_mode="livesum"
)
LIMITED_CALLERS = Gauge(
    "gateway_limited_callers",
    "Keys, users and addresses with limits of which something counts now.",
    multiprocess_mode="livesum",
)
LIMIT_LEASES = Gauge(
    "gateway_limit_leases",
    "Of these, those of which this gateway holds a part of what all gateways share.",
    multiprocess_mode="livesum",
)
LIMITS_AWAY = Gauge(
    "gateway_limits_away",
    "1 while shared limits can't be looked up and each gateway keeps to its part.",
    multiprocess_mode="livemax",
)
CONNECTIONS = Gauge("gateway_connections", "Open connections.", multiprocess_mode="livesum")
STUCK_READERS = Counter("gateway_stuck_readers", "Connections cut because the client read nothing for long.")


def watch_queue(queue: FairQueue) -> None:
    """Let the gauges of the queue show what ``queue`` knows."""
    watch(PLACES, lambda: queue.places)
    watch(PLACES_TAKEN, lambda: queue.places_taken)
    watch(QUEUE_DEPTH, lambda: queue.waiting)
    watch(QUEUE_CALLERS, lambda: queue.callers_waiting)


def watch_limits(limiter: MemoryLimiter) -> None:
    """Let the gauges of limits show what ``limiter`` knows."""
    watch(LIMITED_CALLERS, lambda: len(limiter.accounts))
    watch(LIMIT_LEASES, lambda: limiter.leases)
    watch(LIMITS_AWAY, lambda: limiter.away)


def watch_connections(connections: Connections) -> None:
    """Let the gauge of connections show what ``connections`` knows."""
    watch(CONNECTIONS, lambda: len(connections))
