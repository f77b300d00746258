"""The gateway's own metrics; vLLM's ``vllm:*`` stand beside them in the same registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "gateway_requests", "Requests that reached the engine, by how they ended.", ["endpoint", "outcome"]
)
RUNNING = Gauge("gateway_requests_running", "Requests between admission and the end of their row.")
REFUSED = Counter("gateway_requests_refused", "Requests refused before the engine.", ["reason"])
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
ROWS_WAITING = Gauge("gateway_rows_waiting", "Rows not committed yet.")
ROWS_LOST = Gauge("gateway_rows_lost", "Rows that could not be written. Must stay 0.")
