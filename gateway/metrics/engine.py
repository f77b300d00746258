"""The engine in this gateway, the servers that it asks, and who answers in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, get_args, runtime_checkable

from prometheus_client import Counter, Gauge, Histogram

from engine.base import Engine, InsteadReason
from engine.circuit_breaker import CircuitBreaker, State
from engine.ladder import Ladder
from gateway.metrics.requests import DEGRADED
from gateway.metrics.watched import watch

ENGINE_UP = Gauge(
    "gateway_engine_up",
    "1 while the main engine takes requests, 0 while it is built anew or its server is left alone.",
    multiprocess_mode="livemin",
)
ENGINE_RESTARTS = Counter(
    "gateway_engine_restarts", "Attempts to build a dead engine anew, by how they ended.", ["outcome"]
)
REBUILD = Histogram(
    "gateway_engine_rebuild_seconds",
    "From the engine's death until it took requests again.",
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
)
UNTOLD = Gauge(
    "gateway_untold_tokens",
    "Tokens of engines that died before they told them, of answers that others then gave; in no row.",
    multiprocess_mode="sum",
)
UPSTREAM_STATE = Gauge(
    "gateway_upstream_state",
    "Whether an upstream server is asked: 0 it is; 1 it is tried again, once; 2 it is left alone.",
    ["upstream"],
    multiprocess_mode="livemax",
)
UPSTREAM_FAILURES = Gauge(
    "gateway_upstream_failures",
    "Requests that failed because of an upstream server.",
    ["upstream"],
    multiprocess_mode="sum",
)
UPSTREAM_OPENINGS = Gauge(
    "gateway_upstream_openings",
    "How often an upstream server was left alone.",
    ["upstream"],
    multiprocess_mode="sum",
)
BREAKER_STATES: Mapping[State, int] = {"closed": 0, "half-open": 1, "open": 2}

# So that the first one is seen as one more, not as where the counter begins.
for _outcome in ("ok", "failed"):
    ENGINE_RESTARTS.labels(_outcome)


@runtime_checkable
class Mortal(Protocol):
    """An engine that may be away for a while."""

    @property
    def up(self) -> bool:
        """Whether it takes requests, as far as is known."""


def watch_engine(ladder: Ladder, main: Engine) -> None:
    """Let the gauges of engines show what these know."""
    watch(UNTOLD, lambda: ladder.untold_tokens)
    watch(ENGINE_UP, lambda: not isinstance(main, Mortal) or main.up)
    for rung in ladder.fallbacks:
        for reason in get_args(InsteadReason):
            DEGRADED.labels(rung.name, reason)


def watch_upstream(name: str, breaker: CircuitBreaker) -> None:
    """Let the gauges of an upstream show what its circuit breaker knows."""
    watch(UPSTREAM_STATE.labels(name), lambda: BREAKER_STATES[breaker.state])
    watch(UPSTREAM_FAILURES.labels(name), lambda: breaker.failures)
    watch(UPSTREAM_OPENINGS.labels(name), lambda: breaker.openings)


def count_restart(seconds: float | None) -> None:
    """An attempt to build the engine anew has ended: so long after its death, or in vain."""
    ENGINE_RESTARTS.labels("failed" if seconds is None else "ok").inc()
    if seconds is not None:
        REBUILD.observe(seconds)
