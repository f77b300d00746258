"""What is counted of requests.

A route is told by its template, as ``/v1/models/{model:path}``, never by the path that a client has sent: no
label has a value that a client chooses freely, so there are only so many of them whoever asks for what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import Scope

if TYPE_CHECKING:
    from gateway.generation_stats import GenerationStats

# The route of a path that none has, as of a file of the web root, and a method that its route has not.
UNKNOWN, OTHER = "unknown", "other"

REASONS = (
    "connections",
    "draining",
    "rows",
    "turns",
    "caller_queue_full",
    "caller_wait_too_long",
    "queue_full",
    "wait_too_long",
    "engine_dead",
    "engine_failed",
    "engine_full",
    "engine_refused",
    "requests_per_minute",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "larger_than_limit",
    "limits_not_shared",
)
LEFT_REASONS = ("cancelled", "timeout", "shutdown", "error")

# OpenTelemetry's for gen_ai.server.time_to_first_token, time_per_output_token and request.duration
# (semantic-conventions-genai), with more at the ends: for a fast engine, and for a queue of minutes.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
PER_TOKEN_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
)
DURATION_BUCKETS = tuple(0.01 * 2**n for n in range(17))

HTTP_REQUESTS = Counter(
    "gateway_http_requests",
    "HTTP requests whose answers have begun, by their route's template and their status.",
    ["route", "method", "status"],
)
REQUESTS = Counter(
    "gateway_requests",
    "Requests that reached the engine, by how they ended.",
    ["route", "model", "outcome", "caller"],
)
RUNNING = Gauge(
    "gateway_requests_running",
    "Requests between admission and the end of their row.",
    multiprocess_mode="livesum",
)
REFUSED = Counter(
    "gateway_requests_refused",
    "Requests that the gateway refused, or the engine did not take; they have no row.",
    ["reason"],
)
LEFT = Counter(
    "gateway_requests_left", "Requests that ended while they waited for a place at the engine.", ["reason"]
)
TTFT = Histogram(
    "gateway_time_to_first_token_seconds",
    "Of streamed requests that got a token, from the arrival to the first one.",
    ["model"],
    buckets=TTFT_BUCKETS,
)
PER_TOKEN = Histogram(
    "gateway_time_per_output_token_seconds",
    "Of streamed requests, the mean between an answer's tokens after its first, as its client took them.",
    ["model"],
    buckets=PER_TOKEN_BUCKETS,
)
DURATION = Histogram(
    "gateway_request_duration_seconds",
    "From the request's arrival to the engine's last output, sent but for its end: a slow reader counts.",
    ["model"],
    buckets=DURATION_BUCKETS,
)
COMMIT_WAIT = Histogram(
    "gateway_commit_wait_seconds",
    "From the end of the request's duration to the row's commit.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
TOKENS = Counter("gateway_tokens", "Tokens, as the engine counts them.", ["kind", "model"])
DEGRADED = Counter(
    "gateway_degraded_answers", "Answers that others gave in the engine's place.", ["by", "reason"]
)
GUARD_MATCHES = Counter("gateway_guard_matches", "What the guard list's rules found.", ["rule", "side"])
GUARD_TOO_SLOW = Counter(
    "gateway_guard_too_slow", "Texts that a rule of the guard list took too long for.", ["rule", "side"]
)

# So that the first one is seen as one more, not as where the counter begins.
for _reason in REASONS:
    REFUSED.labels(_reason)
for _reason in LEFT_REASONS:
    LEFT.labels(_reason)


def count_answer(scope: Scope, status: int) -> None:
    """The answer to an HTTP request begins."""
    route, method = scope.get("route"), scope["method"]
    if isinstance(route, APIRoute):
        HTTP_REQUESTS.labels(route.path, method if method in route.methods else OTHER, status).inc()
    else:
        HTTP_REQUESTS.labels(UNKNOWN, OTHER, status).inc()


def count_refused_head(status: int) -> None:
    """A connection was answered that sent no whole request."""
    HTTP_REQUESTS.labels(UNKNOWN, OTHER, status).inc()


def observe(stats: GenerationStats) -> None:
    """A request has ended that the engine took."""
    model, usage = stats.model, stats.usage
    REQUESTS.labels(stats.endpoint, model, stats.status, stats.caller.kind).inc()
    TOKENS.labels("prompt", model).inc(usage.prompt_tokens)
    TOKENS.labels("completion", model).inc(usage.completion_tokens)
    TOKENS.labels("cached", model).inc(usage.cached_tokens)
    DURATION.labels(model).observe(stats.seconds)
    COMMIT_WAIT.observe(stats.commit_seconds)
    for instead in stats.instead:
        DEGRADED.labels(instead.by, instead.reason).inc()
    if not stats.stream:
        # The engine's one output has the whole answer.
        return
    if stats.ttft_seconds is not None:
        TTFT.labels(model).observe(stats.ttft_seconds)
    if (per_token := stats.time_per_output_token_seconds) is not None:
        PER_TOKEN.labels(model).observe(per_token)
