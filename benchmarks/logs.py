"""What a request's line in the log costs: ``python -m benchmarks.logs``.

Microseconds of the thread that the event loop runs in, for making the line and handing it over; the writer's
thread writes to /dev/null, or to a pipe that nobody reads, as where a collector of logs is stuck.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from engine.base import Usage
from gateway.access.caller import Caller
from gateway.generation_stats import GenerationStats
from gateway.logs.current_request import logged_for, mark_request
from gateway.logs.formats import JsonFormatter, TextFormatter
from gateway.logs.writer import LogHandler
from gateway.request_line import RequestLine

LINES, ROUNDS = 2_000, 9
BEFORE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def scope() -> dict[str, Any]:
    """Of a request that has been answered."""
    stats = GenerationStats(
        request_id=f"req_{uuid4().hex}",
        endpoint="/v1/chat/completions",
        model="chatglm3-6b",
        caller=Caller(uuid4(), uuid4(), address="203.0.113.9"),
        stream=True,
        status="completed",
        finish_reasons=["stop"],
        usage=Usage(120, 240, 64),
        arrived=1.8e9,
        queue_seconds=0.001,
        ttft_seconds=0.045,
        seconds=3.21,
        commit_seconds=0.002,
        row_ids=[UUID(int=1)],
        conversation_id=uuid4().hex,
        instead=[],
    )
    state = {"request_id": stats.request_id, "generation": SimpleNamespace(stats=stats)}
    return {
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": SimpleNamespace(path="/v1/chat/completions"),
        "headers": [],
        "state": state,
    }


def microseconds(what: Callable[[], None], flush: Callable[[], None]) -> float:
    """The median over rounds of what one call takes."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(LINES):
            what()
        rounds.append((time.thread_time() - began) / LINES * 1e6)
        flush()
    return statistics.median(rounds)


def logger_of(handler: logging.Handler, formatter: logging.Formatter) -> logging.Logger:
    """One that only this handler hears."""
    handler.setFormatter(formatter)
    handler.addFilter(mark_request)
    logger = logging.Logger("gateway.access", logging.INFO)
    logger.addHandler(handler)
    return logger


def main() -> None:
    """Print a table."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    _, stuck = os.pipe()
    request = scope()

    def before(logger: logging.Logger) -> Callable[[], None]:
        return lambda: logger.info(
            "%s %s %s %.1f ms %s%s", "POST", request["path"], 200, 3212.1, request["state"]["request_id"], ""
        )

    def line(logger: logging.Logger) -> Callable[[], None]:
        return lambda: logger.info(RequestLine(request, 200, 3.2121))

    with open(nowhere, "w") as file, logged_for(request["state"]):
        direct = logger_of(logging.StreamHandler(file), logging.Formatter(BEFORE))
        print(
            f"{'the line as it was, written at once':45} {microseconds(before(direct), file.flush):6.1f} us"
        )
        for name, formatter in (("text", TextFormatter()), ("JSON", JsonFormatter())):
            at_once = logger_of(logging.StreamHandler(file), formatter)
            print(f"{name + ', written at once':45} {microseconds(line(at_once), file.flush):6.1f} us")
            handler = LogHandler(nowhere)
            queued = logger_of(handler, formatter)
            print(f"{name + ', through the queue':45} {microseconds(line(queued), handler.flush):6.1f} us")
        dropping = logger_of(LogHandler(stuck, 100_000), JsonFormatter())
        told = f"{microseconds(line(dropping), lambda: None):6.1f} us"
        print(f"{'JSON, nobody reads: dropped and counted':45} {told}")


if __name__ == "__main__":
    main()
