"""The gateway's own metrics; vLLM's ``vllm:*`` stand beside them in the same registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from engine.circuit_breaker import CircuitBreaker, State
from engine.ladder import Ladder
from engine.rebuilt import RebuiltEngine
from persistence.recorder import Recorder

if TYPE_CHECKING:
    from gateway.admission.fair_queue import FairQueue
    from gateway.generation_stats import GenerationStats

REQUESTS = Counter(
    "gateway_requests", "Requests that reached the engine, by how they ended.", ["endpoint", "outcome"]
)
RUNNING = Gauge("gateway_requests_running", "Requests between admission and the end of their row.")
REFUSED = Counter("gateway_requests_refused", "Requests refused before the engine.", ["reason"])
LEFT = Counter(
    "gateway_requests_left", "Requests that ended while they waited for a place at the engine.", ["reason"]
)
QUEUE_WAIT = Histogram(
    "gateway_queue_wait_seconds",
    "From a request's arrival in the gateway's queue to its place at the engine.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
QUEUE_DEPTH = Gauge("gateway_queue_depth", "Requests that wait for a place at the engine.")
QUEUE_CALLERS = Gauge("gateway_queue_callers", "Callers who have requests that wait.")
PLACES = Gauge("gateway_engine_places", "Places at the engine; 0: no bound.")
PLACES_TAKEN = Gauge("gateway_engine_places_taken", "Places at the engine that requests hold.")
GUARD_MATCHES = Counter("gateway_guard_matches", "What the guard list's rules found.", ["rule", "side"])
GUARD_TOO_SLOW = Counter(
    "gateway_guard_too_slow", "Texts that a rule of the guard list took too long for.", ["rule", "side"]
)
CONNECTIONS = Gauge("gateway_connections", "Open connections.")
STUCK_READERS = Counter("gateway_stuck_readers", "Connections cut because the client read nothing for long.")
TTFT = Histogram(
    "gateway_time_to_first_token_seconds",
    "From the request's arrival to the engine's first output.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
COMMIT_WAIT = Histogram(
    "gateway_commit_wait_seconds",
    "From the engine's last output to the row's commit.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
TOKENS = Counter("gateway_tokens", "Tokens, as the engine counts them.", ["kind"])
PROMPT_TOKENS, COMPLETION_TOKENS, CACHED_TOKENS = (
    TOKENS.labels(kind) for kind in ("prompt", "completion", "cached")
)
DEGRADED = Counter(
    "gateway_degraded_answers", "Answers that others gave in the engine's place.", ["by", "reason"]
)
UNTOLD = Gauge(
    "gateway_untold_tokens",
    "Tokens of engines that died before they told them, of answers that others then gave; in no row.",
)
ENGINE_UP = Gauge("gateway_engine_up", "1 while the engine in this gateway lives, 0 while it is built anew.")
ENGINE_RESTARTS = Counter(
    "gateway_engine_restarts", "Attempts to build a dead engine anew, by how they ended.", ["outcome"]
)
REBUILD = Histogram(
    "gateway_engine_rebuild_seconds",
    "From the engine's death until it took requests again.",
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
)
ROWS_WAITING = Gauge("gateway_rows_waiting", "Rows neither in PostgreSQL nor in the journal yet.")
ROWS_LAG = Gauge("gateway_rows_lag_seconds", "How long the oldest row that is not in PostgreSQL has waited.")
ROWS_LOST = Gauge("gateway_rows_lost", "Rows that could not be written. Must stay 0.")
ROWS_REDUCED = Gauge("gateway_rows_reduced", "Rows that PostgreSQL has without a value that it refused.")
JOURNAL_ROWS = Gauge(
    "gateway_journal_rows", "Records in the local journal that PostgreSQL does not have yet."
)
JOURNAL_BYTES = Gauge("gateway_journal_bytes", "Size of the local journal.")
JOURNAL_DAMAGED = Gauge("gateway_journal_damaged", "Places of the journal that could not be read.")
DATABASE_AWAY = Gauge("gateway_database_away", "1 while PostgreSQL takes no rows.")
SPANS_EXPORTED = Counter("gateway_spans_exported", "Spans that the collector took.")
SPANS_DROPPED = Counter("gateway_spans_dropped", "Spans that were not sent, by why.", ["reason"])
UPSTREAM_STATE = Gauge(
    "gateway_upstream_state",
    "Whether an upstream server is asked: 0 it is; 1 it is tried again, once; 2 it is left alone.",
    ["upstream"],
)
UPSTREAM_FAILURES = Gauge(
    "gateway_upstream_failures", "Requests that failed because of an upstream server.", ["upstream"]
)
UPSTREAM_OPENINGS = Gauge(
    "gateway_upstream_openings", "How often an upstream server was left alone.", ["upstream"]
)
BREAKER_STATES: Mapping[State, int] = {"closed": 0, "half-open": 1, "open": 2}


def observe(stats: GenerationStats) -> None:
    """A request has ended that the engine took."""
    COMMIT_WAIT.observe(stats.commit_seconds)


def watch_upstream(name: str, breaker: CircuitBreaker) -> None:
    """Let the gauges of an upstream show what its circuit breaker knows."""
    UPSTREAM_STATE.labels(name).set_function(lambda: BREAKER_STATES[breaker.state])
    UPSTREAM_FAILURES.labels(name).set_function(lambda: breaker.failures)
    UPSTREAM_OPENINGS.labels(name).set_function(lambda: breaker.openings)


def watch_rows(recorder: Recorder) -> None:
    """Let the gauges of rows show what ``recorder`` knows."""
    backlog = recorder.backlog
    ROWS_WAITING.set_function(lambda: recorder.depth)
    ROWS_LAG.set_function(lambda: recorder.lag_seconds)
    ROWS_LOST.set_function(lambda: recorder.rows_lost)
    ROWS_REDUCED.set_function(lambda: recorder.rows_reduced)
    JOURNAL_ROWS.set_function(lambda: backlog.rows)
    JOURNAL_BYTES.set_function(lambda: backlog.bytes)
    JOURNAL_DAMAGED.set_function(lambda: backlog.damaged)
    DATABASE_AWAY.set_function(lambda: recorder.away is not None)


def watch_queue(queue: FairQueue) -> None:
    """Let the gauges of the queue show what ``queue`` knows."""
    PLACES.set(queue.places)
    PLACES_TAKEN.set_function(lambda: queue.places_taken)
    QUEUE_DEPTH.set_function(lambda: queue.waiting)
    QUEUE_CALLERS.set_function(lambda: queue.callers_waiting)


def watch_engine(ladder: Ladder, rebuilt: RebuiltEngine | None) -> None:
    """Let the gauges of engines show what these know."""
    UNTOLD.set_function(lambda: ladder.untold_tokens)
    ENGINE_UP.set_function(lambda: rebuilt is None or rebuilt.up)


def count_restart(seconds: float | None) -> None:
    """An attempt to build the engine anew has ended: so long after its death, or in vain."""
    ENGINE_RESTARTS.labels("failed" if seconds is None else "ok").inc()
    if seconds is not None:
        REBUILD.observe(seconds)
