"""What traces cost a request: ``python -m benchmarks.tracing``.

A whole chat of 16 tokens through all of the gateway but its socket and PostgreSQL, with the simulated engine,
in microseconds of this process's CPU time, the collector's answers not among it: spans are made, encoded and
thrown away. The best of ROUNDS, each way of tracing in its turn.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.ladder import Ladder
from engine.simulated import SimulatedEngine
from gateway.app import create_app
from gateway.generations import Generations
from gateway.lifecycle import Lifecycle, chat_format_of
from gateway.prompt_templates import read_templates
from gateway.settings import load
from persistence.message_row import MessageRow
from persistence.recorder import Recorder

REQUESTS, ROUNDS = 300, 15
BODY = b'{"messages":[{"role":"user","content":"abcdefghijklmnop"}],"stream":true}'
ENDPOINT = {"otlp_endpoint": "http://127.0.0.1:9"}

WAYS: Sequence[tuple[str, dict[str, Any]]] = (
    ("off", {}),
    ("on, not sampled", ENDPOINT | {"trace_sample_ratio": 0}),
    ("on", ENDPOINT),
    ("on, with content", ENDPOINT | {"trace_content": True}),
)


class NoRows(Recorder):
    """Takes rows and keeps none."""

    refusing: str | None = None

    def __init__(self) -> None:
        pass

    def begin(self, row: MessageRow) -> None:
        pass

    async def close(self, row: MessageRow, timeout_seconds: float) -> bool:
        return True


def gateway(data_dir: Path, settings: dict[str, Any]) -> Any:
    """An ASGI application."""
    chosen = load({"engine": "simulated", "data_dir": data_dir, "access_log": False} | settings)
    lifecycle = Lifecycle(chosen)
    lifecycle._engine = Ladder(SimulatedEngine(), ())
    lifecycle._chat_format = chat_format_of(lifecycle._engine)
    lifecycle._prompt_templates = read_templates(None)
    lifecycle._generations = Generations(lifecycle._engine, NoRows(), commit_wait_seconds=5)
    if settings:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

        from gateway.tracing.export import BoundedProcessor, CountingExporter
        from gateway.tracing.tracing import Tracing

        class Encoding(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                encode_spans(spans).SerializeToString()
                return SpanExportResult.SUCCESS

        lifecycle.tracing = Tracing(chosen, "", BoundedProcessor(CountingExporter(Encoding())))
    return create_app(chosen, lifecycle)


async def ask(app: Any) -> None:
    """One request."""
    asked, gone = iter([{"type": "http.request", "body": BODY, "more_body": False}]), asyncio.Event()

    async def receive() -> Any:
        for message in asked:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"a")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)


async def microseconds(app: Any) -> float:
    """Of CPU time, for one request."""
    began = time.process_time()
    for _ in range(REQUESTS):
        await ask(app)
    return (time.process_time() - began) / REQUESTS * 1e6


async def main(data_dir: Path) -> None:
    """Print a line for each way."""
    apps = [(name, gateway(data_dir, settings)) for name, settings in WAYS]
    best = {name: float("inf") for name, _ in apps}
    for _ in range(ROUNDS):
        for name, app in apps:
            best[name] = min(best[name], await microseconds(app))
    for name, took in best.items():
        print(f"{name:18} {took:7.0f} µs a request")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
