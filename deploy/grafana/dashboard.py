"""Writes dashboard.json beside it, for Grafana 10 and newer: ``python deploy/grafana/dashboard.py``.

What is shown is said here; the JSON is committed, so that nothing has to be run to use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("dashboard.json")

# Of the form of Grafana 10; newer ones bring it to their own.
SCHEMA_VERSION = 38
WIDTH, HEIGHT, STAT_HEIGHT = 8, 8, 4
COLUMNS = 24

OF = 'instance=~"$instance"'
OF_MODEL = f'{OF}, model=~"$model"'
OF_VLLM = f'{OF}, model_name=~"$model"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """``queries``: PromQL, and the legend of what it gives. ``unit`` as Grafana names it."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    stacked: bool = False
    about: str = ""


def rate(metric: str, of: str = OF, by: str = "") -> str:
    """Per second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{of}}}[$__rate_interval]))"


def quantiles(metric: str, of: str = OF) -> list[tuple[str, str]]:
    """What 50, 95 and 99 % are below, of a histogram."""
    buckets = f"sum by (le) (rate({metric}_bucket{{{of}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share / 100}, {buckets})", f"p{share}") for share in (50, 95, 99)]


def stat(title: str, unit: str, query: str, about: str = "") -> Panel:
    """One number."""
    return Panel(title, unit, [(query, "")], "stat", about=about)


ROWS: dict[str, list[Panel]] = {
    "Now": [
        stat("Requests", "reqps", rate("gateway_requests_total", OF_MODEL)),
        stat("Tokens", "tokens/s", rate("gateway_tokens_total", f'{OF_MODEL}, kind="completion"')),
        stat("Running", "short", f"sum(gateway_requests_running{{{OF}}})"),
        stat("Waiting", "short", f"sum(gateway_queue_depth{{{OF}}})"),
        stat("Engines up", "short", f"sum(gateway_engine_up{{{OF}}})"),
        stat("Rows lost", "short", f"sum(gateway_rows_lost{{{OF}}})", "Must stay 0."),
    ],
    "Traffic and outcomes": [
        Panel(
            "Requests by route",
            "reqps",
            [(rate("gateway_requests_total", OF_MODEL, "route"), "{{route}}")],
            stacked=True,
            about="Those that the engine took.",
        ),
        Panel(
            "Requests by outcome",
            "reqps",
            [(rate("gateway_requests_total", OF_MODEL, "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        Panel(
            "Requests by caller",
            "reqps",
            [(rate("gateway_requests_total", OF_MODEL, "caller"), "{{caller}}")],
            stacked=True,
            about="key: an API key; user: a login; anonymous: neither.",
        ),
        Panel(
            "HTTP answers by status",
            "reqps",
            [(rate("gateway_http_requests_total", by="status"), "{{status}}")],
            stacked=True,
        ),
        Panel(
            "HTTP refusals by route",
            "reqps",
            [
                (
                    rate("gateway_http_requests_total", f'{OF}, status=~"4..|5.."', "route, status"),
                    "{{route}} {{status}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "Running and waiting",
            "short",
            [
                (f"sum(gateway_requests_running{{{OF}}})", "running"),
                (f"sum(gateway_queue_depth{{{OF}}})", "waiting"),
                (f"sum(gateway_engine_places{{{OF}}})", "places"),
            ],
        ),
    ],
    "Latency": [
        Panel(
            "Time to first token",
            "s",
            quantiles("gateway_time_to_first_token_seconds", OF_MODEL),
            about="Of streams, from the arrival.",
        ),
        Panel(
            "Time per output token",
            "s",
            quantiles("gateway_time_per_output_token_seconds", OF_MODEL),
            about="Of streams, as their clients took them: a slow reader counts.",
        ),
        Panel(
            "Request duration",
            "s",
            quantiles("gateway_request_duration_seconds", OF_MODEL),
            about="From the arrival to the engine's last output; a slow reader counts.",
        ),
        Panel("Wait in the queue", "s", quantiles("gateway_queue_wait_seconds")),
        Panel(
            "Wait for the row's commit",
            "s",
            quantiles("gateway_commit_wait_seconds"),
            about="From the engine's last output to the durable row.",
        ),
    ],
    "Tokens": [
        Panel(
            "Tokens",
            "tokens/s",
            [(rate("gateway_tokens_total", OF_MODEL, "kind"), "{{kind}}")],
            about="cached: of the prompts, what the prefix cache had.",
        ),
        Panel(
            "Tokens of a request",
            "short",
            [
                (
                    f"{rate('gateway_tokens_total', OF_MODEL, 'kind')}"
                    f" / on () group_left () {rate('gateway_requests_total', OF_MODEL)}",
                    "{{kind}}",
                )
            ],
            about="The mean.",
        ),
    ],
    "Engine (vLLM)": [
        Panel(
            "Requests in the engine",
            "short",
            [
                (f"sum(vllm:num_requests_running{{{OF_VLLM}}})", "running"),
                (f"sum(vllm:num_requests_waiting{{{OF_VLLM}}})", "waiting"),
            ],
        ),
        Panel(
            "KV cache",
            "percentunit",
            [
                (
                    f"max by (instance, engine) (vllm:kv_cache_usage_perc{{{OF_VLLM}}})",
                    "{{instance}} {{engine}}",
                )
            ],
        ),
        Panel(
            "Prefix cache hits",
            "percentunit",
            [
                (
                    f"{rate('vllm:prefix_cache_hits_total', OF_VLLM)}"
                    f" / {rate('vllm:prefix_cache_queries_total', OF_VLLM)}",
                    "of the prompts' tokens",
                )
            ],
        ),
        Panel("Preemptions", "reqps", [(rate("vllm:num_preemptions_total", OF_VLLM), "preempted")]),
        Panel("Time between tokens", "s", quantiles("vllm:inter_token_latency_seconds", OF_VLLM)),
        Panel("Prefill", "s", quantiles("vllm:request_prefill_time_seconds", OF_VLLM)),
    ],
    "Rows and database": [
        Panel(
            "Rows written", "wps", [(f"sum(rate(gateway_rows_written{{{OF}}}[$__rate_interval]))", "rows")]
        ),
        Panel(
            "Rows that wait",
            "short",
            [
                (f"sum(gateway_rows_waiting{{{OF}}})", "in memory"),
                (f"sum(gateway_journal_rows{{{OF}}})", "in the journal"),
            ],
        ),
        Panel(
            "Lag",
            "s",
            [(f"max by (instance) (gateway_rows_lag_seconds{{{OF}}})", "{{instance}}")],
            about="How long the oldest row that is not in PostgreSQL has waited.",
        ),
        Panel(
            "Journal",
            "bytes",
            [
                (f"sum by (instance) (gateway_journal_bytes{{{OF}}})", "{{instance}}"),
                (f"max(gateway_journal_max_bytes{{{OF}}})", "full"),
            ],
        ),
        Panel(
            "PostgreSQL away",
            "short",
            [(f"max by (instance) (gateway_database_away{{{OF}}})", "{{instance}}")],
        ),
        Panel(
            "Trouble with rows",
            "short",
            [
                (f"sum(gateway_rows_lost{{{OF}}})", "lost"),
                (f"sum(gateway_rows_closed_as_lost_total{{{OF}}})", "closed as lost"),
                (f"sum(gateway_rows_reduced{{{OF}}})", "without a value"),
                (f"sum(gateway_journal_damaged{{{OF}}})", "damaged places of the journal"),
            ],
        ),
    ],
    "Limits and refusals": [
        Panel(
            "Refused",
            "reqps",
            [(rate("gateway_requests_refused_total", by="reason"), "{{reason}}")],
            stacked=True,
            about="By the limit or bound that was reached, or by the engine, which did not take them.",
        ),
        Panel(
            "Left while they waited",
            "reqps",
            [(rate("gateway_requests_left_total", by="reason"), "{{reason}}")],
            stacked=True,
        ),
        Panel(
            "Queue",
            "short",
            [
                (f"sum(gateway_queue_depth{{{OF}}})", "requests"),
                (f"sum(gateway_queue_callers{{{OF}}})", "callers"),
            ],
        ),
        Panel(
            "Places at the engine",
            "short",
            [
                (f"sum(gateway_engine_places_taken{{{OF}}})", "taken"),
                (f"sum(gateway_engine_places{{{OF}}})", "all"),
            ],
        ),
        Panel(
            "Callers with limits",
            "short",
            [
                (f"sum(gateway_limited_callers{{{OF}}})", "callers"),
                (f"sum(gateway_limit_leases{{{OF}}})", "with a part of shared limits"),
            ],
        ),
        Panel(
            "Shared limits away",
            "short",
            [(f"max by (instance) (gateway_limits_away{{{OF}}})", "{{instance}}")],
        ),
    ],
    "Degraded answers and restarts": [
        Panel(
            "Answers in the engine's place",
            "reqps",
            [(rate("gateway_degraded_answers_total", by="by, reason"), "{{by}}: {{reason}}")],
            stacked=True,
        ),
        Panel(
            "Upstream servers",
            "short",
            [(f"max by (instance, upstream) (gateway_upstream_state{{{OF}}})", "{{instance}} {{upstream}}")],
            about="0: asked; 1: tried again; 2: left alone.",
        ),
        Panel(
            "Upstream failures",
            "reqps",
            [
                (
                    f"sum by (upstream) (rate(gateway_upstream_failures{{{OF}}}[$__rate_interval]))",
                    "{{upstream}}",
                )
            ],
        ),
        Panel("Engine up", "short", [(f"min by (instance) (gateway_engine_up{{{OF}}})", "{{instance}}")]),
        Panel(
            "Engine restarts",
            "short",
            [
                (
                    f"sum by (outcome) (increase(gateway_engine_restarts_total{{{OF}}}[$__rate_interval]))",
                    "{{outcome}}",
                )
            ],
        ),
        Panel("Tokens in no row", "short", [(f"sum(gateway_untold_tokens{{{OF}}})", "untold")]),
    ],
    "Process": [
        Panel("Event loop lag", "s", quantiles("gateway_event_loop_lag_seconds")),
        Panel("CPU", "percentunit", [(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")]),
        Panel("Memory", "bytes", [(f"process_resident_memory_bytes{{{OF}}}", "{{instance}}")]),
        Panel(
            "Open files",
            "short",
            [
                (f"process_open_fds{{{OF}}}", "{{instance}}"),
                (f"min(process_max_fds{{{OF}}})", "most"),
            ],
        ),
        Panel(
            "Connections",
            "short",
            [
                (f"gateway_connections{{{OF}}}", "{{instance}}"),
                (f"increase(gateway_stuck_readers_total{{{OF}}}[$__rate_interval])", "{{instance}} cut"),
            ],
        ),
        Panel(
            "Spans",
            "short",
            [
                (rate("gateway_spans_exported_total"), "exported"),
                (rate("gateway_spans_dropped_total", by="reason"), "dropped: {{reason}}"),
            ],
            about="Of traces, a second; see docs/tracing.md.",
        ),
        Panel("Uptime", "s", [(f"time() - gateway_start_time_seconds{{{OF}}}", "{{instance}}")]),
        Panel(
            "What runs",
            "short",
            [(f"gateway_info{{{OF_MODEL}}}", "{{instance}}: {{version}}, {{engine}}, {{model}}")],
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """All of it, as Grafana reads it."""
    return {
        "uid": "chatglm-gateway",
        "title": "chatglm-gateway",
        "tags": ["llm", "vllm"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": list(variables())},
        "panels": list(panels()),
    }


def variables() -> Iterator[dict[str, Any]]:
    """What a reader can choose."""
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, metric in (("instance", "gateway_start_time_seconds"), ("model", "gateway_info")):
        query = f"label_values({metric}, {name})"
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def panels() -> Iterator[dict[str, Any]]:
    """Rows, each with its panels from left to right."""
    identity, top = 0, 0
    for title, row in ROWS.items():
        identity += 1
        yield {
            "id": identity,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }
        top, left, height = top + 1, 0, 0
        for panel in row:
            width = COLUMNS // len(row) if panel.kind == "stat" else WIDTH
            height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            if left + width > COLUMNS:
                top, left = top + height, 0
            identity += 1
            place = {"x": left, "y": top, "w": width, "h": height}
            yield shown(panel) | {"id": identity, "gridPos": place}
            left += width
        top += height


def shown(panel: Panel) -> dict[str, Any]:
    """Without its place."""
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        custom = {"fillOpacity": 30 if panel.stacked else 0, "showPoints": "never", "stacking": stacking}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
            }
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Of the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
