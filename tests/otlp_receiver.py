"""A collector of traces on loopback: it takes OTLP over HTTP as protobuf, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

KINDS = {
    Span.SPAN_KIND_INTERNAL: "internal",
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
}
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Received:
    """A span as it came; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    links: list[tuple[str, str]]
    failed: bool
    resource: dict[str, Any]
    state: str


class OtlpReceiver:
    """``says``: what it does with what comes. ``spans``, ``headers`` and ``paths`` are what came."""

    def __init__(self) -> None:
        self.says: Literal["take", "fail", "hang"] = "take"
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked = threading.Event()
        self._change = threading.Condition()
        self._let_go = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()

    def traced(self, request_id: str, *names: str) -> dict[str, Received]:
        """The spans of the request that the gateway knows by ``request_id``, by name, once its server span
        and those with ``names`` have come."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._change:
            while True:
                found = self._of(request_id)
                if found and all(any(name == one.name for one in found) for name in names):
                    return {one.name: one for one in found}
                left = deadline - time.monotonic()
                assert left > 0, f"not within {WAIT_SECONDS} s: {names}, only {[one.name for one in found]}"
                self._change.wait(left)

    def _of(self, request_id: str) -> list[Received]:
        servers = [
            one
            for one in self.spans
            if one.kind == "server" and one.attributes.get("gateway.request_id") == request_id
        ]
        return [one for server in servers for one in self.spans if one.trace_id == server.trace_id]

    def wait_for(self, true: Any) -> None:
        """Until ``true()`` of what has come."""
        with self._change:
            assert self._change.wait_for(true, WAIT_SECONDS), f"not within {WAIT_SECONDS} s"

    def _keep(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with self._change:
            self.paths.append(path)
            self.headers.append(headers)
            self.spans += received(ExportTraceServiceRequest.FromString(body))
            self._change.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.asked.set()
                if receiver.says == "hang":
                    receiver._let_go.wait()
                    return
                if receiver.says == "fail":
                    self.send_response(500)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                receiver._keep(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def received(request: ExportTraceServiceRequest) -> list[Received]:
    """The spans of a batch."""
    return [
        Received(
            name=span.name,
            kind=KINDS[span.kind],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            attributes=attributes(span.attributes),
            events=[
                (event.name, event.time_unix_nano, attributes(event.attributes)) for event in span.events
            ],
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            failed=span.status.code == Status.STATUS_CODE_ERROR,
            resource=attributes(resource.resource.attributes),
            state=span.trace_state,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(pairs: Any) -> dict[str, Any]:
    """Of protobuf's pairs."""
    return {pair.key: value_of(pair.value) for pair in pairs}


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind) if kind is not None else None
