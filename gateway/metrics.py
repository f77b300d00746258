"""The gateway's own metrics; vLLM's ``vllm:*`` stand beside them in the same registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from persistence.recorder import Recorder

REQUESTS = Counter(
    "gateway_requests", "Requests that reached the engine, by how they ended.", ["endpoint", "outcome"]
)
RUNNING = Gauge("gateway_requests_running", "Requests between admission and the end of their row.")
REFUSED = Counter("gateway_requests_refused", "Requests refused before the engine.", ["reason"])
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
