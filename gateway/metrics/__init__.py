"""The gateway's own metrics, all under ``gateway_``; vLLM's ``vllm:*`` stand beside them.

docs/metrics.md tells what each of them means. Gauges say how the values of several processes are one:
``livesum`` and its kind only count processes that live, ``sum`` is of what has happened so far.
"""

from __future__ import annotations

from prometheus_client import disable_created_metrics

from gateway.metrics.engine import count_restart, watch_engine, watch_upstream
from gateway.metrics.process import SPANS_DROPPED, SPANS_EXPORTED, Pulse
from gateway.metrics.queue import QUEUE_WAIT, STUCK_READERS, watch_connections, watch_limits, watch_queue
from gateway.metrics.requests import (
    GUARD_MATCHES,
    GUARD_TOO_SLOW,
    LEFT,
    REFUSED,
    RUNNING,
    count_answer,
    count_refused_head,
    observe,
)
from gateway.metrics.rows import count_closed_as_lost, watch_rows
from gateway.metrics.scrape import CONTENT_TYPE, exposition

__all__ = [
    "CONTENT_TYPE",
    "GUARD_MATCHES",
    "GUARD_TOO_SLOW",
    "LEFT",
    "QUEUE_WAIT",
    "REFUSED",
    "RUNNING",
    "SPANS_DROPPED",
    "SPANS_EXPORTED",
    "STUCK_READERS",
    "Pulse",
    "count_answer",
    "count_closed_as_lost",
    "count_refused_head",
    "count_restart",
    "exposition",
    "observe",
    "watch_connections",
    "watch_engine",
    "watch_limits",
    "watch_queue",
    "watch_rows",
    "watch_upstream",
]

# When each counter began: twice as many lines, which several processes can't tell, and nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]
