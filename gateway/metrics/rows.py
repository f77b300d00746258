"""Rows on their way to PostgreSQL, and the journal that they wait in."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from gateway.metrics.watched import watch
from persistence.recorder import Recorder

ROWS_WRITTEN = Gauge(
    "gateway_rows_written",
    "Rows that PostgreSQL has committed; one that was first written as running counts twice.",
    multiprocess_mode="sum",
)
ROWS_WAITING = Gauge(
    "gateway_rows_waiting",
    "Rows neither in PostgreSQL nor in the journal yet.",
    multiprocess_mode="livesum",
)
ROWS_LAG = Gauge(
    "gateway_rows_lag_seconds",
    "How long the oldest row that is not in PostgreSQL has waited.",
    multiprocess_mode="livemax",
)
ROWS_LOST = Gauge(
    "gateway_rows_lost", "Rows that could not be written. Must stay 0.", multiprocess_mode="sum"
)
CLOSED_AS_LOST = Counter(
    "gateway_rows_closed_as_lost",
    "Rows of gateways that are gone, which this one has closed as lost.",
)
ROWS_REDUCED = Gauge(
    "gateway_rows_reduced",
    "Rows that PostgreSQL has without a value that it refused.",
    multiprocess_mode="sum",
)
JOURNAL_ROWS = Gauge(
    "gateway_journal_rows",
    "Records in the local journal that PostgreSQL does not have yet.",
    multiprocess_mode="livesum",
)
JOURNAL_BYTES = Gauge("gateway_journal_bytes", "Size of the local journal.", multiprocess_mode="livesum")
JOURNAL_MAX_BYTES = Gauge(
    "gateway_journal_max_bytes",
    "Size of the local journal from which on requests are refused while PostgreSQL is away.",
    multiprocess_mode="livesum",
)
JOURNAL_DAMAGED = Gauge(
    "gateway_journal_damaged", "Places of the journal that could not be read.", multiprocess_mode="sum"
)
DATABASE_AWAY = Gauge(
    "gateway_database_away", "1 while PostgreSQL takes no rows.", multiprocess_mode="livemax"
)


def watch_rows(recorder: Recorder) -> None:
    """Let the gauges of rows show what ``recorder`` knows."""
    backlog = recorder.backlog
    watch(ROWS_WRITTEN, lambda: recorder.rows_written)
    watch(ROWS_WAITING, lambda: recorder.depth)
    watch(ROWS_LAG, lambda: recorder.lag_seconds)
    watch(ROWS_LOST, lambda: recorder.rows_lost)
    watch(ROWS_REDUCED, lambda: recorder.rows_reduced)
    watch(JOURNAL_ROWS, lambda: backlog.rows)
    watch(JOURNAL_BYTES, lambda: backlog.bytes)
    watch(JOURNAL_MAX_BYTES, lambda: backlog.most_bytes)
    watch(JOURNAL_DAMAGED, lambda: backlog.damaged)
    watch(DATABASE_AWAY, lambda: recorder.away is not None)


def count_closed_as_lost(rows: int) -> None:
    """So many rows of a gateway that is gone were closed."""
    CLOSED_AS_LOST.inc(rows)
